"""Early exit: thresholds from validation images meet the budget, and what has left is really not computed any more."""

import math
from dataclasses import replace

import pytest
import torch
from small_runs import CPU, digits, small_net, small_spec, trained_points
from torch import nn

from baselines.early_exit import EarlyExit, EarlyExitOptions, exit_costs, places, with_exits
from baselines.exit_thresholds import confidence, cut, exits_taken, geometric, thresholds_for
from baselines.exits import Exits, confidences, exit_point, served
from baselines.staged import require_classes, staged
from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.evaluation.proof import Unproven, prove
from bench.methods import completed
from bench.models import PRESETS
from bench.profilers.madds import executed_by, executed_madds
from bench.runs.estimate import FirstImages
from bench.slicing.dynamic import Prediction
from bench.slicing.extract import extract

RESNETS = ["ds_resnet_micro8", "ds_resnet_bn_micro8", "us_resnet_basic_micro8"]
FAMILIES = ["ds_mobilenet_micro8", "us_mobilenet_micro8", *RESNETS, "ds_vit_micro8"]
IMAGE = torch.zeros(1, 1, 8, 8)


def images(count=24):
    return next(digits().validation.batches(count)).x


@pytest.fixture(scope="module", params=["ds_mobilenet_micro8", "ds_resnet_micro8", "ds_vit_micro8"])
def network(request):
    torch.manual_seed(0)
    network = with_exits(staged(small_net(request.param).eval()), (0.25, 0.5, 0.75), IMAGE).eval()
    with torch.no_grad():  # classifiers that tell images apart, as trained ones do
        for head, logits in zip(network.heads, network(images()), strict=True):
            [*(m for m in head.modules() if isinstance(m, nn.Linear))][-1].weight /= logits.std(0).mean()
    return network


def point_of(network, thresholds):
    return exit_point("p", network, thresholds, exit_costs(network, IMAGE)[0])


def spread(network):
    """Thresholds by which about half of what arrives leaves at each exit."""
    return geometric(confidences(served(network), FirstImages(digits().validation, 24), CPU), 0.5)


# A preset in pieces.


@pytest.mark.parametrize("model", FAMILIES)
def test_the_pieces_are_the_full_network(model):
    net = small_net(model).eval()
    choice = net.space.uniform_choices[-1]
    plain, pieces = extract(net, choice), staged(net).eval()
    with torch.no_grad():
        assert torch.equal(pieces(images()), plain(images()))
    assert executed_madds(pieces, IMAGE) == net.cost(choice, 8).madds
    assert len(pieces.blocks) == {"m": 5, "r": 6, "v": 4}[model.partition("_")[2][0]]


# Thresholds.


def test_confidence_orders_as_the_largest_probability_and_does_not_saturate():
    logits = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)) * 3
    largest = logits.double().softmax(1).amax(1)
    assert torch.equal(confidence(logits.double()).argsort(), largest.argsort())
    assert torch.allclose(confidence(logits.double()), (largest / (1 - largest)).log())
    sure = torch.tensor([[60.0, 0.0], [90.0, 0.0]])
    assert confidence(sure).tolist() == [60.0, 90.0]


def test_a_threshold_lies_between_two_confidences():
    values = torch.tensor([0.5, 3.0, 1.0, 2.0])
    assert [cut(values, n) for n in range(5)] == [math.inf, 2.5, 1.5, 0.75, -math.inf]
    close = torch.tensor([3.0, 2.0, 2.0 - 1e-6, 1.0])
    assert cut(close, 2) == cut(close, 3) == pytest.approx(1.5, abs=1e-5), "float noise decides nothing"
    assert cut(torch.ones(3), 1) == -math.inf


def test_an_image_takes_the_first_exit_that_is_sure():
    seen = torch.tensor([[0.0, 9.0], [5.0, 9.0], [0.0, 0.0]])
    assert exits_taken(seen, [4.0, 8.0]).tolist() == [1, 0, 2]


def test_the_same_share_of_what_arrives_leaves_at_each_exit():
    seen = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    taken = exits_taken(seen, geometric(seen, 0.5)).bincount()
    assert taken.tolist() == [32, 16, 16]


@pytest.mark.parametrize("budget", [1.0, 3.0, 5.5, 9.0, 20.0])
def test_the_budget_is_met_and_made_use_of(budget):
    seen = torch.rand(500, 3, generator=torch.Generator().manual_seed(1))
    costs = [1, 4, 7, 10]
    mean = torch.tensor(costs)[exits_taken(seen, thresholds_for(seen, costs, budget))].double().mean()
    assert mean <= budget
    assert mean >= min(budget, 10) - 0.1


def test_with_a_maximum_no_image_goes_further():
    seen = torch.rand(500, 3, generator=torch.Generator().manual_seed(1))
    thresholds = thresholds_for(seen, [1, 4, 7, 10], 6.0, maximum=8)
    assert thresholds[2] == -math.inf
    assert exits_taken(seen, thresholds).max() == 2
    with pytest.raises(ValueError, match="the first exit costs"):
        thresholds_for(seen, [2, 4, 7, 10], 6.0, maximum=1)


# Inference.


@torch.no_grad()
def test_the_outputs_are_those_of_the_exits_taken(network):
    point = point_of(network, spread(network))
    output, route = point(images())
    assert len(route.unique()) >= 3
    everything = torch.stack(served(network)(images()), 1)  # (B, exits, classes)
    taken = everything[torch.arange(24), route[:, 0]]
    assert torch.allclose(output, taken, rtol=1e-4, atol=1e-5 * float(everything.abs().max()))


def test_a_batch_that_leaves_early_executes_the_first_part_alone(network):
    """TRAPS: early exit simulated."""
    costs, full = exit_costs(network, IMAGE)
    early = point_of(network, [-math.inf] * (len(costs) - 1))
    assert early(images()).route.unique().tolist() == [0]
    first = network.until(0).eval()
    assert executed_by(lambda: early(images())) == 24 * costs[0] == executed_madds(first, images())
    assert costs[0] < full / 2
    late = point_of(network, [math.inf] * (len(costs) - 1))
    assert executed_by(lambda: late(images())) == 24 * costs[-1] > 24 * full


class Simulated(Exits):
    """Runs all parts for all images and selects afterwards."""

    def predict(self, x):
        route = super().predict(x).route
        everything = torch.stack(self.network(x), 1)
        return Prediction(everything[torch.arange(len(x)), route[:, 0]], route)


def test_a_simulated_exit_is_refused(network):
    split = FirstImages(digits().validation, 24)
    assert prove(point_of(network, spread(network)), split, CPU)["groups"] >= 3
    point = point_of(network, spread(network))
    point.forms = {"extracted": Simulated(served(network), spread(network))}
    with pytest.raises(Unproven):
        prove(point, split, CPU)


# The method.


def test_exits_stand_at_the_nearest_block():
    costs = [10, 20, 20, 20, 20, 10]  # ends of the blocks: 0.3 0.5 0.7 (0.9)
    assert places(costs, (0.25, 0.5, 0.75)) == [1, 2, 3]
    assert places(costs, (0.99, 0.31, 0.28)) == [1, 3], "behind the last block stands the classifier"
    with pytest.raises(UserError, match="no place for an exit"):
        places([1, 2, 3], (0.5,))


@pytest.mark.parametrize("model", ["ds_mobilenet_micro8", "ds_vit_micro8"])
def test_validation_images_meet_every_budget(model, tmp_path):
    options = {"budgets": [0.9, 0.5, 0.35], "maximum": 0.95}
    spec = small_spec("early_exit", model=model, options=options)
    points = trained_points(spec, tmp_path)
    net = PRESETS.get(model).build()
    full = net.cost(net.space.uniform_choices[-1], 8).madds
    means = []
    for point, budget in zip(points, options["budgets"], strict=True):
        madds = torch.cat([point.madds(point(batch.x).route) for batch in digits().validation.batches(50)])
        assert madds.max() <= 0.95 * full
        assert madds.double().mean() <= budget * full
        means.append(float(madds.double().mean()))
    assert means == sorted(means, reverse=True)
    assert [point.name for point in points] == ["budget0.9", "budget0.5", "budget0.35"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budgets": [0.5, 0.5]}, "budgets of early_exit must be a list that names each once"),
        ({"exits": []}, "exits of early_exit must be a list of 1 or more"),
        ({"exits": [1.0]}, "exits of early_exit must be below 1, not 1.0"),
        ({"exit_weight": 0}, "exit_weight of early_exit must be above 0"),
    ],
)
def test_impossible_options_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        completed(RunSpec("early_exit", "ds_vit_micro8", options=options))


@pytest.mark.parametrize("options", [{"budgets": [0.5, 0.2]}, {"maximum": 0.2}])
def test_a_budget_below_the_first_exit_is_refused_before_any_work(options):
    spec = completed(RunSpec("early_exit", "ds_vit_micro8", options=options))
    with pytest.raises(UserError, match=r"no image can leave within 0.2 .* costs 0.25"):
        EarlyExit().check(spec, PRESETS.get(spec.model).build(), 8)
    EarlyExit().check(completed(RunSpec("early_exit", "ds_vit_micro8")), PRESETS.get(spec.model).build(), 8)


def test_only_classification_is_served():
    with pytest.raises(UserError, match="early_exit serves classification only"):
        require_classes("early_exit", replace(digits(), task="detection"))
    assert EarlyExitOptions().maximum is None
