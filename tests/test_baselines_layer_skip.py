"""Layer skipping: who does not take a block is not in it, and noise ends with training."""

from functools import partial

import pytest
import torch
from small_runs import CPU, digits, small_net, small_spec, trained_points
from torch import nn

from baselines.layer_skip import RUN, LayerSkip, SkipNetwork, SkipPoint, is_skippable, rate_loss, run_for, skip_gate
from baselines.staged import staged
from bench.core.errors import UserError
from bench.core.spec import RunSpec, TrainSpec
from bench.evaluation.proof import Unproven, prove
from bench.methods import completed
from bench.profilers.madds import executed_by
from bench.runs.estimate import FirstImages
from bench.slicing.dynamic import Prediction

IMAGE = torch.zeros(1, 1, 8, 8)
MODELS = ["ds_resnet_micro8", "ds_resnet_bn_micro8", "ds_vit_micro8", "ds_resnet_basic_micro8"]
WIDTHS = {"ds_vit_micro8": [64] * 4, "ds_resnet_basic_micro8": [16, 16, 32, 64]}


def images(count=24):
    return next(digits().validation.batches(count)).x


def network_of(model="ds_resnet_micro8"):
    """An untrained network whose gates part digits, about half and half."""
    torch.manual_seed(0)
    plain = staged(small_net(model).eval())
    places = [index for index, block in enumerate(plain.blocks) if is_skippable(block)]
    widths = WIDTHS.get(model, [64, 128, 128])
    gates = {str(index): skip_gate(width, 16, 0.5) for index, width in zip(places, widths, strict=True)}
    network = SkipNetwork(plain, gates)
    for norm in network.modules():
        norm.train(isinstance(norm, nn.BatchNorm1d))
    with torch.no_grad():
        for _ in range(50):  # the gates' running statistics
            network.predict(images())
    return network.eval()


def decided(network, runs):
    """The same network with every gate always of one mind."""
    with torch.no_grad():
        for gate, run in zip(network.gates.values(), runs, strict=True):
            gate[-1].weight.zero_()
            gate[-1].bias.copy_(torch.tensor([0.0, 1000.0 if run else -1000.0]))
    return network


@pytest.mark.parametrize(
    ("model", "count", "skippable"),
    [(MODELS[0], 6, [1, 3, 5]), (MODELS[2], 4, [0, 1, 2, 3]), (MODELS[3], 6, [0, 1, 3, 5])],
)
def test_blocks_that_keep_the_shape_can_be_skipped(model, count, skippable):
    blocks = staged(small_net(model)).blocks
    assert len(blocks) == count
    assert [index for index, block in enumerate(blocks) if is_skippable(block)] == skippable


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
def test_each_image_gets_what_the_plain_network_of_its_route_gives(model):
    network = network_of(model)
    output, route = network.predict(images())
    assert len(route.unique(dim=0)) > 2
    for row in range(24):
        alone = network.along(tuple(route[row].tolist()))(images()[row : row + 1])
        assert (alone - output[row]).abs().max() < 1e-5 * output.abs().max() + 1e-6


def test_a_block_sees_only_the_images_that_run_it():
    seen = []

    def block(x):
        seen.append(x)
        return x + 1

    x = torch.arange(4.0)[:, None]
    assert run_for(block, x, torch.tensor([1, 3])).flatten().tolist() == [0, 2, 2, 4]
    assert seen.pop().flatten().tolist() == [1, 3]
    assert run_for(block, x, torch.empty(0, dtype=torch.int64)) is x
    assert seen == []
    assert x.flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("model", MODELS)
def test_what_all_images_skip_is_not_executed(model):
    gates = network_of(model).gates
    none, all_ = ([run] * len(gates) for run in (False, True))
    skipping, running = (SkipPoint("p", decided(network_of(model), runs), IMAGE) for runs in (none, all_))
    blocks = [block for block in staged(small_net(model)).blocks if is_skippable(block)]
    assert len(blocks) == len(gates)
    gap = executed_by(partial(running, images())) - executed_by(partial(skipping, images()))
    claimed = running.madds(running(images()).route) - skipping.madds(skipping(images()).route)
    assert gap == int(claimed.sum()) > 0
    net = small_net(model)
    full = net.cost(net.space.uniform_choices[-1], 8).madds
    assert running.madds(running(images()).route).tolist() == [full + running.overhead()] * 24


@torch.no_grad()
def test_noise_is_for_training_alone():
    """TRAPS: noise at evaluation."""
    network, outputs, samples = network_of(), [], []
    for seed in range(2):
        torch.manual_seed(seed)
        outputs.append(network.predict(images()))
        samples.append(network.sampled(images(), 1.0)[1])
    assert torch.equal(outputs[0].output, outputs[1].output)
    assert torch.equal(outputs[0].route, outputs[1].route)
    assert not torch.equal(samples[0], samples[1])


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
def test_training_computes_what_evaluation_does_where_gates_are_sure(model):
    runs = [True, False, True, True][: len(network_of(model).gates)]
    network = decided(network_of(model), runs)
    output, taken = network.sampled(images(), 1.0)
    assert taken.tolist() == [[float(run) for run in runs]] * 24
    assert (output - network.predict(images()).output).abs().max() < 1e-5 * output.abs().max()


def test_the_loss_reaches_every_gate():
    network = network_of().train()
    output, runs = network.sampled(images(), 1.0)
    (output.square().mean() + rate_loss(runs, 0.5)).backward()
    linear = [layer for gate in network.gates.values() for layer in gate if isinstance(layer, nn.Linear)]
    assert len(linear) == 6
    assert all(layer.weight.grad.abs().sum() > 0 for layer in linear)


def test_the_rate_loss_by_hand():
    runs = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert rate_loss(runs, 0.5) == pytest.approx((0.25 + 0) / 2)
    assert rate_loss(runs, 1.0) == pytest.approx((0 + 0.25) / 2)


class Masked(SkipPoint):
    """Computes every block and takes back what an image was to skip."""

    def __call__(self, x):
        network = self.runner
        route = super().__call__(x).route
        x, gate = network.network.stem(x), 0
        for index, block in enumerate(network.network.blocks):
            y = block(x)
            if str(index) in network.gates:
                y = torch.where((route[:, gate] == RUN).view(-1, *[1] * (x.dim() - 1)), y, x)
                gate += 1
            x = y
        return Prediction(network.network.head(x), route)


def test_a_mask_is_not_a_saving():
    split = FirstImages(digits().validation, 24)
    assert prove(SkipPoint("p", network_of(), IMAGE), split, CPU)["groups"] > 2
    with pytest.raises(Unproven):
        prove(Masked("p", network_of(), IMAGE), split, CPU)


def test_training_moves_the_rates_to_their_target(tmp_path, monkeypatch):
    """From gates that start halfway, not near their target as they usually do: the loss alone must part them."""
    monkeypatch.setattr("baselines.layer_skip.skip_gate", lambda width, hidden, target: skip_gate(width, hidden, 0.5))
    options = {"targets": [0.95, 0.05], "gate_epochs": 10, "gate_lr": 0.1, "rate_weight": 10}
    spec = small_spec("layer_skip", model="ds_resnet_micro8", options=options)
    points = trained_points(spec, tmp_path)
    high, low = (float((point(images(150)).route == RUN).double().mean()) for point in points)
    assert high > 0.7
    assert low < 0.2


def test_one_point_a_target(tmp_path):
    spec = small_spec("layer_skip", model="ds_vit_micro8", options={"targets": [0.8, 0.3], "gate_epochs": 1})
    points = trained_points(spec, tmp_path)
    assert [point.name for point in points] == ["rate0.8", "rate0.3"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"targets": []}, "targets of layer_skip must be a list of 1 or more"),
        ({"targets": [1.5]}, "targets of layer_skip must be at most 1, not 1.5"),
        ({"gate_lr": 0}, "gate_lr of layer_skip must be above 0"),
        ({"gate_hidden": 0}, "gate_hidden of layer_skip must be at least 1"),
    ],
)
def test_impossible_options_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        completed(RunSpec("layer_skip", "ds_vit_micro8", options=options))


def test_gates_that_are_trained_need_two_images_a_batch():
    net, one = small_net("ds_resnet_micro8"), TrainSpec(epochs=1, batch_size=1)
    with pytest.raises(UserError, match=r"layer_skip trains gates .* train.batch_size must be at least 2"):
        LayerSkip().check(small_spec("layer_skip", train=one), net, 8)
    LayerSkip().check(small_spec("layer_skip", train=one, options={"gate_epochs": 0}), net, 8)


def test_a_network_without_residuals_is_refused():
    with pytest.raises(UserError, match=r"layer_skip serves .*, not ds_mobilenet_micro8"):
        completed(RunSpec("layer_skip", "ds_mobilenet_micro8"))
    spec = RunSpec("layer_skip", "ds_resnet_micro8")
    with pytest.raises(UserError, match="no block of ds_resnet_micro8 can be skipped"):
        LayerSkip().check(spec, small_net("ds_mobilenet_micro8"), 8)
