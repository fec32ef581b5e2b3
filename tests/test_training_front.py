"""A front that all sub-networks share, forwarded once a step: equal gradients, one update of its statistics."""

import random
from dataclasses import replace

import pytest
import torch
from small_runs import DATA, digits, run_of, small_net

from bench.core.errors import UserError
from bench.core.spec import RunSpec, TrainSpec
from bench.methods import method_of
from bench.models import PRESETS
from bench.tasks.classification import Classification
from bench.training.joint import Lesson, joint_step
from bench.training.precision import computing_in
from bench.training.supernet import StageOne, supernet_step

MODELS = {
    "ds_net": "ds_resnet_basic_micro8",
    "ds_net_pp": "ds_resnet_basic_pp_micro8",
    "us_net": "us_resnet_basic_micro8",
    "s_net": "s_resnet_basic_micro8",
}
TAUGHT = {"ds_net": "bootstrap", "ds_net_pp": "ensemble_bootstrap", "us_net": "inplace"}


def step_of(method, shared, dtype=torch.float64, precision="float32"):
    """A network after one step of a method, its losses, and how often its front ran."""
    net, teacher = small_net(MODELS[method]).to(dtype).train(), small_net(MODELS[method], 1).to(dtype).eval()
    batch, front, runs = next(digits().train.batches(16)), net.segments[0], []
    batch = batch._replace(views=tuple(view.to(dtype) for view in batch.views))
    front.units[0].register_forward_pre_hook(lambda *_: runs.append(1))
    with computing_in(precision, "cpu"):
        if method == "s_net":
            choices = [net.space.uniform(index) for index in range(4)]
            segments = net.space.shared_segments(choices) if shared else 0
            losses = joint_step(net, batch, [Lesson(choice) for choice in choices], Classification(), 0.1, segments)
        else:
            settings = StageOne(TAUGHT[method], shared_front=shared)
            losses = supernet_step(net, teacher, batch, settings, Classification(), 0.1, random.Random(3))
    return net, losses, len(runs)


@pytest.mark.parametrize("method", MODELS)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_gradients_are_those_of_a_front_for_each_sub_network(method, dtype, close):
    usual, expected, often = step_of(method, False, dtype)
    net, losses, once = step_of(method, True, dtype)
    assert (often, once) == (4 if method == "s_net" else 2, 1)
    assert losses == pytest.approx(expected, rel=close)
    for (name, parameter), other in zip(net.named_parameters(), usual.parameters(), strict=True):
        assert (parameter.grad - other.grad).norm() <= close * other.grad.norm(), name


@pytest.mark.parametrize("method", MODELS)
def test_running_statistics_of_the_front_move_once_a_step(method):
    net, *_ = step_of(method, True)
    usual, *_ = step_of(method, False)
    once = small_net(MODELS[method]).double().train()
    once(next(digits().train.batches(16)).x.double(), once.space.largest, stop=1)
    for name, buffer in once.segments[0].named_buffers():
        torch.testing.assert_close(net.segments[0].get_buffer(name), buffer, rtol=1e-12, atol=0)
        assert not torch.allclose(usual.segments[0].get_buffer(name), buffer), "they moved for each forward pass"
    for name, buffer in usual.segments[1].named_buffers():
        torch.testing.assert_close(net.segments[1].get_buffer(name), buffer, rtol=1e-12, atol=1e-15)


@pytest.mark.skipif(
    not any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16")),
    reason="this processor does not compute in bfloat16",
)
@pytest.mark.parametrize("method", MODELS)
def test_bfloat16_has_the_same_gradients_up_to_its_rounding(method):
    nets = [step_of(method, shared, torch.float32, "bfloat16")[0] for shared in (False, True)]
    one, other = (torch.cat([p.grad.flatten() for p in net.parameters()]) for net in nets)
    assert one.dtype == torch.float32
    assert (one - other).norm() < 0.02 * one.norm()


@pytest.mark.parametrize("method", MODELS)
def test_a_run_with_mixed_images_in_parts_gives_the_same_weights(method, tmp_path):
    train = TrainSpec(epochs=1, batch_size=64, lr=0.01, mixup=0.4, accumulate=2, max_steps=1)
    weights, ids = {}, set()
    for shared in (False, True):
        options = {"shared_front": shared, **({} if method in ("s_net", "us_net") else {"gate_epochs": 0})}
        spec = RunSpec(method, MODELS[method], data=DATA, train=train, options=options)
        run = run_of(spec, tmp_path / str(shared))
        method_of(method).train(run)
        weights[shared] = run.state("final", "supernet")
        ids.add(spec.run_id)
    assert len(ids) == 2
    assert weights[True].keys() == weights[False].keys()
    for name, value in weights[True].items():
        if not name.split(".")[-1].startswith(("mean_", "var_")):
            torch.testing.assert_close(value, weights[False][name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("method", "model"),
    [("ds_net", "ds_mobilenet_micro8"), ("us_net", "us_mobilenet_micro8"), ("s_net", "s_mobilenet_micro8")],
)
def test_sub_networks_that_share_nothing_refuse_it(method, model):
    net, spec = PRESETS.get(model).build(), RunSpec(method, model, options={"shared_front": True})
    with pytest.raises(UserError, match=r"share no segment; leave it out"):
        method_of(method).check(spec, net, 8)
    method_of(method).check(replace(spec, options={}), net, 8)
    method_of(method).check(replace(spec, model=MODELS[method]), PRESETS.get(MODELS[method]).build(), 8)
