"""Channel gating: only the filters an image selected run; what theory adds to that is shown and never claimed."""

from itertools import combinations

import pytest
import torch
from small_runs import CPU, digits, small_net, small_spec
from torch import nn

from baselines.channel_gate import ChannelGate, ChannelPoint, Runner, suppressed_products
from baselines.channel_selection import GatedConv, GatedNetwork, masked, saliency
from baselines.staged import staged
from bench.core.errors import UserError
from bench.core.spec import RunSpec, TrainSpec
from bench.core.store import Store
from bench.evaluation.proof import Unproven, prove
from bench.methods import completed
from bench.profilers.madds import executed_by
from bench.runs.estimate import FirstImages
from bench.runs.phases import run_phase
from bench.slicing.dynamic import Prediction
from bench.slicing.extract import folded

IMAGE = torch.zeros(1, 1, 8, 8)
FAMILIES = [
    "ds_mobilenet_micro8",
    "us_mobilenet_micro8",
    "ds_resnet_micro8",
    "ds_resnet_bn_micro8",
    "ds_resnet_basic_micro8",
]


def images(count=24):
    return next(digits().validation.batches(count)).x


def network_of(model, kept=2, groups=4):
    torch.manual_seed(0)
    network = GatedNetwork(staged(small_net(model).eval()), groups, kept)
    for conv in network.gated:
        nn.init.normal_(conv.predictor.weight)  # a new predictor parts no images
    for module in network.modules():
        module.train(isinstance(module, nn.BatchNorm1d))
    with torch.no_grad():
        for _ in range(50):  # the predictors' running statistics
            network(images(), masked)
    return network.eval()


def conv_of(kept=2):
    torch.manual_seed(0)
    conv = GatedConv(nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.GroupNorm(4, 8), 4, kept).eval()
    nn.init.normal_(conv.predictor.weight)
    return conv


# One convolution.


def test_a_selection_is_the_place_among_all_combinations():
    conv = conv_of()
    scores = torch.full((6, 4), -1.0)
    for row, chosen in enumerate(combinations(range(4), 2)):
        scores[row, list(chosen)] = torch.tensor([1.0, 2.0])
    assert conv.selection(scores).tolist() == list(range(6))
    assert conv.chosen(scores).sum(1).tolist() == [2.0] * 6


@torch.no_grad()
def test_an_image_gets_its_groups_scaled_and_zeros_elsewhere():
    conv, x = conv_of(), torch.randn(10, 6, 5, 5)
    scores = conv.scores(x)
    selection = conv.selection(scores)
    assert len(selection.unique()) > 1
    y = conv.grouped(x, scores, selection)
    whole = conv.layers(x)
    for row, number in enumerate(selection.tolist()):
        for group in range(4):
            part = slice(2 * group, 2 * group + 2)
            chosen = group in conv.combinations[number]
            expected = whole[row, part] * saliency(scores)[row, group] * chosen
            assert (y[row, part] - expected).abs().max() < 1e-5
    assert (conv.masked(x) - y).abs().max() < 1e-5


@torch.no_grad()
def test_the_predictor_learns_by_the_saliency():
    conv, x = conv_of(), torch.randn(10, 6, 5, 5)
    with torch.enable_grad():
        conv.masked(x).square().mean().backward()
    assert conv.predictor.weight.grad is not None
    assert conv.predictor.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_filters_that_no_image_selected_do_not_run():
    conv, x = conv_of(kept=1), torch.randn(10, 6, 5, 5)
    scores = conv.scores(x)
    executed = executed_by(lambda: conv.grouped(x, scores, conv.selection(scores)))
    assert executed == 10 * 6 * 2 * 9 * 25
    assert conv.idle_parameters == (8 * 6 * 9 + 16) * 3 // 4


# A network.


@torch.no_grad()
@pytest.mark.parametrize("model", FAMILIES)
def test_grouped_is_masked_is_one_by_one(model):
    network = network_of(model)
    runner = Runner(folded(network))
    output, route = runner.predict(images())
    scale = output.abs().max()
    assert len(route.unique(dim=0)) > 2
    assert (network(images(), masked) - output).abs().max() < 1e-4 * scale
    alone = [runner.predict(images()[row : row + 1]) for row in range(24)]
    assert (torch.cat([part.output for part in alone]) - output).abs().max() < 1e-4 * scale
    assert torch.equal(torch.cat([part.route for part in alone]), route)


@torch.no_grad()
@pytest.mark.parametrize("model", FAMILIES)
def test_all_groups_at_equal_saliency_are_the_plain_network(model):
    network = network_of(model, kept=4)
    for conv in network.gated:
        conv.predictor.weight.zero_()
        conv.predictor.bias.zero_()
    plain = staged(small_net(model).eval()).eval()(images())
    assert (Runner(folded(network))(images()) - plain).abs().max() < 1e-4 * plain.abs().max()


def test_costs_of_a_mobilenet_by_hand():
    """Point-wise convolutions run half of their filters; in theory depth-wise ones and the classifier halve too."""
    point = ChannelPoint("p", network_of("ds_mobilenet_micro8"), IMAGE)
    pointwise = [8 * 12 * 64, 12 * 16 * 16, 16 * 72 * 16, 72 * 72 * 16, 72 * 144 * 4]
    predictors = 4 * (8 + 12 + 16 + 72 + 72)
    net = small_net("ds_mobilenet_micro8")
    full = net.cost(net.space.uniform_choices[-1], 8).madds
    depthwise = [9 * 12 * 16, 9 * 16 * 16, 9 * 72 * 16, 9 * 72 * 4]  # of the first block's the input is not gated
    assert point.executed == full - sum(pointwise) // 2 + predictors
    assert point.theoretical == point.executed - (sum(depthwise) + 144 * 10) // 2


def test_costs_of_a_resnet_by_hand():
    """Both inner convolutions run half of their filters; in theory the second and third have half of their inputs."""
    point = ChannelPoint("p", network_of("ds_resnet_micro8"), IMAGE)
    first = [32 * 16 * 64, 64 * 16 * 16, 64 * 32 * 16, 128 * 32 * 4, 128 * 32 * 4, 128 * 32 * 4]
    second = [9 * 16 * 16 * 16] * 2 + [9 * 32 * 32 * 4] * 4
    third = [16 * 64 * 16] * 2 + [32 * 128 * 4] * 4
    predictors = 4 * (32 + 16 + 64 + 16 + 64 + 32 + 128 + 32 + 128 + 32 + 128 + 32)
    net = small_net("ds_resnet_micro8")
    full = net.cost(net.space.uniform_choices[-1], 8).madds
    assert point.executed == full - (sum(first) + sum(second)) // 2 + predictors
    assert point.theoretical == point.executed - sum(second) // 4 - sum(third) // 2


def test_suppressed_inputs_are_those_of_the_next_product():
    assert suppressed_products([(100, 0.5), (0, 1.0), (60, 0.5), (40, 1.0), (10, 1.0)]) == 30 + 20
    assert suppressed_products([(100, 1.0), (60, 1.0)]) == 0


class Dense(ChannelPoint):
    """Computes all channels and masks them."""

    def __call__(self, x):
        return Prediction(self.network(x, masked), super().__call__(x).route)


class Theoretical(ChannelPoint):
    """Claims what papers report."""

    def madds(self, route):
        return self.madds_theoretical(route)


@pytest.mark.parametrize("model", ["ds_mobilenet_micro8", pytest.param("ds_resnet_micro8", marks=pytest.mark.slow)])
def test_neither_a_mask_nor_theory_is_a_saving(model):
    split = FirstImages(digits().validation, 4)
    proven = prove(ChannelPoint("p", network_of(model), IMAGE), split, CPU)
    assert (proven["images"], proven["alone"]) == (4, 4)
    for kind in (Dense, Theoretical):
        with pytest.raises(Unproven):
            prove(kind("p", network_of(model), IMAGE), split, CPU)


# The method.


@pytest.mark.slow
def test_both_counts_are_recorded(tmp_path):
    spec = small_spec("channel_gate", options={"gate_epochs": 1, "densities": [0.75, 0.5]})
    run_phase(spec, "train", tmp_path, None)
    run_phase(spec, "eval", tmp_path, None)
    body = Store(tmp_path).read(spec.run_id, "eval")
    records = {(record.point, record.metric): record for record in body["records"]}
    values = {key: record.value for key, record in records.items()}
    points = body["results"]["points"]
    assert list(points) == ["density0.75", "density0.5"]
    for name, point in points.items():
        spread = records[name, "madds"].details
        assert spread["min"] == spread["max"] == values[name, "madds"]
        assert values[name, "madds_theoretical"] < values[name, "madds"]
        assert point["executed_proof"]["images"] == 597
    assert values["density0.5", "madds"] < values["density0.75", "madds"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"densities": []}, "densities of channel_gate must be a list of 1 or more"),
        ({"densities": [0.6]}, "densities are fractions of 4 groups, not 0.6"),
        ({"groups": 1}, "groups of channel_gate must be at least 2"),
        ({"densities": [1.5]}, "densities of channel_gate must be at most 1, not 1.5"),
        ({"gate_lr": 0}, "gate_lr of channel_gate must be above 0, not 0"),
    ],
)
def test_impossible_options_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        completed(RunSpec("channel_gate", "ds_mobilenet_micro8", options=options))


def test_groups_that_divide_no_convolution_are_refused_before_any_work():
    spec = completed(RunSpec("channel_gate", "ds_resnet_micro8", options={"groups": 8}))
    with pytest.raises(UserError, match="8 groups do not divide a convolution of 16 channels and its norm"):
        ChannelGate().check(spec, small_net("ds_resnet_micro8"), 8)


def test_predictors_that_are_trained_need_two_images_a_batch():
    net, one = small_net(), TrainSpec(epochs=1, batch_size=1)
    with pytest.raises(UserError, match=r"channel_gate trains gates .* train.batch_size must be at least 2"):
        ChannelGate().check(small_spec("channel_gate", train=one), net, 8)
    ChannelGate().check(small_spec("channel_gate", train=one, options={"gate_epochs": 0}), net, 8)
