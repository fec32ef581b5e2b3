"""Budgets: the offset is exact by counting, for one gate and by search for several, and lies apart from every image."""

import pytest
import torch
from small_runs import (
    CPU,
    DATA,
    Trained,
    digits,
    full_routing,
    routed_point,
    small_spec,
    trained_points,
)

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.evaluation.proof import prove
from bench.points import RoutedPoint
from bench.runs.check import check
from bench.runs.estimate import FirstImages
from bench.slicing.gate import Gate, ScalarGate, decide
from bench.training.budget import (
    GAP,
    Span,
    budget_offsets,
    check_budgets,
    fit_offset,
    option_costs,
    search_offset,
    spendable,
)

COSTS = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64)
KINDS = [Gate, ScalarGate]


def raw_outputs(kind, images=300, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, kind.outputs(len(COSTS)), generator=generator) * 2


def taken(kind, raw, offset):
    """The option of each image at an offset, by the gate's own rule."""
    gate = kind(3, len(COSTS))
    return decide(gate.scores(raw.double() + offset * gate.slopes(COSTS)))


@pytest.mark.parametrize("kind", KINDS)
def test_switches_say_at_which_offset_an_image_takes_a_costlier_option(kind):
    raw = raw_outputs(kind)
    offsets, added = kind(3, len(COSTS)).switches(raw, COSTS)
    assert (offsets.diff(dim=1) >= 0)[offsets[:, 1:].isfinite()].all()
    for offset in torch.linspace(-30, 30, 41):
        costs = COSTS[taken(kind, raw, offset)]
        torch.testing.assert_close(costs, torch.where(offsets < offset, added, 0.0).sum(1), rtol=0, atol=1e-9)
    assert COSTS[taken(kind, raw, 1e6)].mean() == 1
    assert COSTS[taken(kind, raw, -1e6)].mean() == 0


def test_an_option_below_the_envelope_is_never_taken():
    """Options 0 and 2 are level at offset 4, where option 1 is still worse than both."""
    offsets, added = Gate(3, 3).switches(torch.tensor([[2.0, 0.0, -2.0]]), torch.tensor([0.0, 0.25, 1.0]))
    assert offsets.tolist() == [[4.0, torch.inf]]
    assert added.tolist() == [[1.0, 0.0]]


def test_of_two_options_that_cost_the_same_the_preferred_one_is_taken():
    costs = torch.tensor([0.0, 0.0, 1.0, 1.0])
    offsets, added = Gate(3, 4).switches(torch.tensor([[1.0, 3.0, -1.0, 0.0]]), costs)
    assert offsets.tolist() == [[3.0, torch.inf, torch.inf]]
    assert added.tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [0.1, 0.37, 0.5, 0.9])
def test_the_fitted_offset_meets_its_budget_as_nearly_as_any(kind, budget):
    raw = raw_outputs(kind)
    offsets, added = kind(3, len(COSTS)).switches(raw, COSTS)
    offset = fit_offset(offsets, added, 0.0, budget)
    error = abs(COSTS[taken(kind, raw, offset)].mean() - budget)
    tried = torch.linspace(-30, 30, 4001).tolist()
    assert error <= min(abs(COSTS[taken(kind, raw, other)].mean() - budget) for other in tried) + 1e-3
    assert error < 0.5 / len(raw) + 1e-9, "half of what one image can change"


def test_images_that_decide_alike_stay_together():
    """Within a gap no offset fits in between: half of the images cannot be had, so none or all of a crowd is taken."""
    offsets = torch.tensor([[0.0], [GAP / 2], [GAP], [1.0]], dtype=torch.float64)
    added = torch.ones(4, 1, dtype=torch.float64)
    assert fit_offset(offsets, added, 0.0, 0.45) == pytest.approx((GAP + 1.0) / 2), "3 of 4"
    assert fit_offset(offsets, added, 0.0, 0.3) == -1.0, "none"
    assert fit_offset(offsets, added, 0.0, 1.0) == 2.0, "all"
    assert fit_offset(torch.empty(3, 0), torch.empty(3, 0), 5.0, 7.0) == 0.0, "one option leaves no choice"


def test_a_search_finds_the_offset_of_a_rising_cost():
    switches = torch.arange(-50.0, 50.0)

    def measure(offset):
        return (switches < offset).double().mean().item(), switches

    assert search_offset(measure, 0.25) == pytest.approx(-25.5)
    assert search_offset(measure, 0.5) == pytest.approx(-0.5)
    assert search_offset(measure, 0.99) == pytest.approx(48.5)


@pytest.mark.parametrize(
    ("model", "design"),
    [
        ("ds_mobilenet_micro8", {}),
        ("ds_mobilenet_micro8", {"head": "scalar", "trunk": "separate"}),
        ("ds_mobilenet_pp_micro8", {}),
        ("ds_resnet_micro8", {}),
        ("ds_vit_micro8", {"head": "scalar"}),
    ],
)
@torch.no_grad()
def test_gates_that_lean_spend_the_budget_on_the_images_it_was_fitted_to(model, design):
    point = routed_point(model, **design)
    net, gates, split = point.supernet, list(point.gates), FirstImages(digits().validation, 60)
    routing = full_routing(net)
    costs = option_costs(net, routing, 8)
    assert all(cost[0] == 0 and (cost.diff() >= 0).all() for cost in costs)
    assert sum(cost[-1] for cost in costs) == pytest.approx(1, abs=0.5)
    ends = point.madds(torch.tensor([[options[end] for options in routing] for end in (0, -1)])).tolist()
    budgets = [(ends[0] + share * (ends[1] - ends[0])) / ends[1] for share in (0.25, 0.5, 0.75)]
    offsets = budget_offsets(net, gates, routing, budgets, 8, split, CPU)
    assert offsets == budget_offsets(net, gates, routing, budgets, 8, split, CPU), "the same every time"
    assert sorted(offsets) == offsets
    (x,) = (batch.x for batch in split.batches(60))
    for budget, offset in zip(budgets, offsets, strict=True):
        leaning = [gate.leaning(offset, cost) for gate, cost in zip(gates, costs, strict=True)]
        bound = RoutedPoint("budget", net, leaning, routing, 8)
        route = bound(x).route
        spent = bound.madds(route).double().mean().item() / ends[1]
        assert spent == pytest.approx(budget, abs=(1 - ends[0] / ends[1]) / 60), "to what one image can change"
        alone = torch.cat([bound(x[row : row + 1]).route for row in range(12)])
        assert torch.equal(alone, route[:12]), "no image lies on the edge"
    assert all((gate.offset == 0).all() for gate in gates), "the gates themselves stay as they were"


def test_a_budget_out_of_reach_is_refused():
    spans = [Span(50, 100), Span(70, 100)]
    check_budgets([0.6, 0.9], spans)
    assert [spendable([0.6, 0.9], span) for span in spans] == [[0.6, 0.9], [0.9]]
    for budget in (0.4, 0.5, 1.0, 1.2):
        with pytest.raises(UserError, match=f"budget {budget:g} is out of reach: .* above the cheapest, 0.500, 0.700"):
            check_budgets([0.6, budget], spans)
    with pytest.raises(UserError, match="each fraction once"):
        check_budgets([0.6, 0.6], spans)


# The method.


@pytest.fixture(scope="module", params=["ds_net", "ds_net_pp"])
def trained(request, tmp_path_factory):
    """Runs of three routing spaces, or several gates, with two budgets."""
    model, routing = {"ds_net": ("ds_mobilenet_micro8", [[0, 1, 2, 3], [1, 2]]), "ds_net_pp": ("ds_vit_micro8", [])}[
        request.param
    ]
    options = {"routing": routing, "budgets": [0.8, 0.4], "gate_epochs": 2, "gate_ema": 0.9, "sgs_smoothing": 0.1}
    spec, directory = small_spec(request.param, model=model, options=options), tmp_path_factory.mktemp(request.param)
    return Trained(spec, directory), trained_points(spec, directory)


@torch.no_grad()
def test_a_run_has_a_point_for_argmax_and_one_for_each_budget_that_a_space_can_spend(trained, tmp_path):
    run, points = trained
    names = [point.name for point in points]
    whole = ["dynamic0-1-2-3", "dynamic0-1-2-3-budget0.8", "dynamic0-1-2-3-budget0.4"]
    assert names == [*whole, *(["dynamic1-2", "dynamic1-2-budget0.8"] if run.spec.method == "ds_net" else [])]
    x = torch.cat([batch.x for batch in digits().validation.batches(150)])
    for point in points:
        _, _, budget = point.name.partition("-budget")
        ends = [[options[end] for options in point.routing] for end in (0, -1)]
        cheapest, costliest = point.madds(torch.tensor(ends)).tolist()
        assert all((gate.offset != 0).any() == bool(budget) for gate in point.gates), "argmax has no offset"
        if budget:
            step = (costliest - cheapest) / 150  # what one image can change
            assert point.madds(point(x).route).double().mean() == pytest.approx(float(budget) * costliest, abs=2 * step)
    randoms = trained_points(small_spec("random_gate", run, model=run.spec.model), tmp_path, run)
    assert [point.name for point in randoms] == names
    fixed = trained_points(small_spec("fixed_choice", run, model=run.spec.model), tmp_path, run)
    assert [point.name for point in fixed] == ["uniform0", "uniform1", "uniform2", "uniform3"]


def test_a_budgeted_point_is_proven(trained):
    _, points = trained
    assert prove(points[1], FirstImages(digits().validation, 40), CPU)["networks"]


def test_a_budget_that_no_routing_space_reaches_is_refused_before_anything_runs():
    options = {"routing": [[0, 1], [2, 3]], "budgets": [0.8, 0.4]}
    with pytest.raises(UserError, match=r"budget 0.4 is out of reach: .* above the cheapest, 0.5\d+, 0.5\d+"):
        check([RunSpec("ds_net", "ds_mobilenet_micro8", data=DATA, options=options)], None)
