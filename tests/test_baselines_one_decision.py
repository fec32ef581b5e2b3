"""One decision for each image: which images go on, what is skipped, and thresholds that meet a budget."""

from dataclasses import replace

import pytest
import torch
from small_runs import digits, run_of, small_spec
from torch import Tensor

from baselines.one_decision import (
    OneDecision,
    OneDecisionPoint,
    check_budgets,
    fit_thresholds,
    fitted_thresholds,
    options_of,
    run_by_option,
    threshold_for,
)
from bench.core.errors import UserError
from bench.runs.estimate import FirstImages

COSTS = (10, 30, 70)


class Brightness(OneDecision):
    """Three options by the mean of an image; each answers with its own number, and remembers whom it answered."""

    decides = "brightness"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def begin(self, x: Tensor):
        mean = x.mean((1, 2, 3))
        return (x,), torch.stack([mean, mean + 1], dim=1)

    def finish(self, state, option: int) -> Tensor:
        self.seen.append((option, len(state[0])))
        return state[0].sum((2, 3)) + 1000 * option


def images(*means: float) -> Tensor:
    return torch.tensor(means)[:, None, None, None] * torch.ones(len(means), 1, 2, 2)


def test_an_image_takes_the_first_option_that_it_is_sure_enough_of():
    confidence = torch.tensor([[0.9, 0.95], [0.2, 0.8], [0.1, 0.5], [0.5, 0.6]])
    assert options_of(confidence, 0.5).tolist() == [0, 1, 2, 1]


def test_each_option_runs_for_its_own_images_only():
    network, x = Brightness(), images(0.2, 3.0, -4.0, 2.0, 0.1)
    output, route = run_by_option(network, 0.5, x)
    assert route.tolist() == [[1], [0], [2], [0], [1]]
    assert sorted(network.seen) == [(0, 2), (1, 2), (2, 1)]
    alone = [run_by_option(network, 0.5, x[row : row + 1]) for row in range(5)]
    assert torch.equal(output, torch.cat([each.output for each in alone]))
    assert torch.equal(route, torch.cat([each.route for each in alone]))


def test_a_point_claims_by_option():
    point = OneDecisionPoint("p", {"extracted": Brightness()}, 0.5, COSTS, (1, 2, 2))
    route = torch.tensor([[2], [0], [1]])
    assert point.madds(route).tolist() == [70, 10, 30]
    assert point.params_active(route).tolist() == [2, 1, 2]
    assert point.params_stored == 2


def mean_cost(confidence: Tensor, threshold: float) -> float:
    return torch.tensor(COSTS)[options_of(confidence, threshold)].double().mean().item()


@pytest.mark.parametrize("budget", [10, 11.5, 27, 30, 44, 69.9, 70])
@pytest.mark.parametrize("digits_kept", [6, 1], ids=["distinct", "many ties"])
def test_the_threshold_of_a_budget_is_the_largest_that_meets_it(budget, digits_kept):
    torch.manual_seed(0)
    confidence = torch.rand(40, 2).sort(1).values.round(decimals=digits_kept)
    threshold = threshold_for(confidence, COSTS, budget)
    assert mean_cost(confidence, threshold) <= budget
    above = confidence[confidence > threshold]
    if len(above):
        assert mean_cost(confidence, above.min().item()) > budget  # the next value that moves an image is too dear
    else:
        assert mean_cost(confidence, threshold) == 70


def test_thresholds_at_both_ends_are_infinite():
    confidence = torch.tensor([[0.25, 0.5], [0.5, 0.75]])
    assert threshold_for(confidence, COSTS, 10) == -torch.inf
    assert threshold_for(confidence, COSTS, 70) == torch.inf
    assert threshold_for(confidence, COSTS, 20) == 0.375  # one of two images rises by 20


def test_thresholds_are_found_once_and_kept(tmp_path):
    spec = small_spec("token_prune", options={"budgets": [0.5]})
    run = run_of(spec, tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint thresholds"):
        fitted_thresholds(run)
    fit_thresholds(Brightness(), COSTS, 70, run)
    thresholds = fitted_thresholds(run)
    assert list(thresholds) == ["budget0.5"]
    fewer = replace(digits(), validation=FirstImages(digits().validation, 3))
    fit_thresholds(Brightness(), COSTS, 70, run_of(spec, tmp_path, data=fewer))
    assert fitted_thresholds(run) == thresholds
    with pytest.raises(UserError, match=f"belongs to run {spec.run_id}"):
        fit_thresholds(Brightness(), COSTS, 70, run_of(replace(spec, seed=1), tmp_path))


@pytest.mark.parametrize("method", ["token_prune", "thinking_vit"])
@pytest.mark.parametrize("budgets", [(0.0,), (-1.0, 0.5), (0.5, 0.5), (0.5, 0.5000001)])
def test_budgets_that_are_none(method, budgets):
    with pytest.raises(UserError, match=f"budgets of {method} must be (above 0|a list that names each once), not "):
        small_spec(method, options={"budgets": budgets})


def test_a_budget_below_the_cheapest_way_is_refused():
    check_budgets((0.5, 1.0), 50, 100)
    with pytest.raises(UserError, match=r"as little as budget 0.4: the cheapest way .* takes 0.500 of the full"):
        check_budgets((0.5, 0.4), 50, 100)
