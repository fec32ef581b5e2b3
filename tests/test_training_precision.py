"""bfloat16 training: what is rounded, what stays float32, that it learns, and where it is refused."""

import random
from dataclasses import replace

import pytest
import torch
from small_runs import Interrupted, checkpoint_bytes, digits, interrupt_after, run_at, run_of, small_net, small_spec
from torch import nn

from bench.core.errors import UserError
from bench.core.spec import TrainSpec
from bench.methods import METHODS, method_of
from bench.runs.prepare import placed
from bench.tasks.classification import Classification
from bench.training.loop import train_network
from bench.training.precision import back_propagate, check_precision, computing_in, precision_of
from bench.training.supernet import StageOne, supernet_step

HAS_BF16 = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this processor does not compute in bfloat16")
SPEC = TrainSpec(epochs=1, batch_size=32, precision="bfloat16")


def test_a_processor_without_the_instructions_refuses(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": False, "avx2": True})
    spec = small_spec("uniform", train=SPEC)
    for refused in (
        lambda: check_precision("bfloat16", "cpu"),
        lambda: placed([spec], "cpu"),
        lambda: train_network("net", nn.Linear(1, 1), run_at(tmp_path, SPEC)),
    ):
        with pytest.raises(UserError, match=r"needs a processor with AVX-512 BF16 or AMX instructions, and this one"):
            refused()
    check_precision("float32", "cpu")
    assert placed([spec], "cpu", local=False), "a cluster has machines of its own"
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True})
    check_precision("bfloat16", "cpu")
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(UserError, match="needs a GPU that computes in it"):
        check_precision("bfloat16", "cuda")


def test_what_a_run_says_of_its_numbers():
    assert precision_of("float32", torch.device("cpu")) == {}
    assert precision_of("bfloat16", torch.device("cpu")) == {"precision": "bfloat16"}
    told = precision_of("float32", torch.device("cuda"))
    assert told["precision"] == "float32"
    assert told["tf32"].keys() == {"matmul", "conv"}


@pytest.mark.parametrize("model", ["ds_resnet_bn_micro8", "ds_resnet_micro8", "ds_vit_micro8", "ds_mobilenet_micro8"])
def test_a_sandwich_step_rounds_its_products_and_nothing_else(model):
    """Batch norm, group norm, layer norm and attention. Gradients are near those of float32, and they are float32."""
    batch, gradients, inputs = next(digits().train.train_batches(32, seed=0, epoch=0)), {}, []
    for precision in ("float32", "bfloat16"):
        net, teacher = small_net(model).train(), small_net(model, 1).eval()
        with computing_in(precision, "cpu"):
            step = (batch, StageOne(), Classification(), 0.1, random.Random(3))
            losses = supernet_step(net, teacher, *step)
        assert all(tensor.dtype == torch.float32 for tensor in net.state_dict().values() if tensor.is_floating_point())
        gradients[precision] = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        inputs.append(losses["largest"])
    one, other = gradients.values()
    assert other.dtype == torch.float32
    assert not torch.equal(one, other), "something was rounded"
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.9
    assert inputs[0] == pytest.approx(inputs[1], rel=0.03)


def test_losses_are_float32_and_backward_passes_are_outside_of_autocast():
    output, labels = torch.randn(8, 10, dtype=torch.bfloat16, requires_grad=True), torch.arange(8)
    seen = []
    with computing_in("bfloat16", "cpu"):
        loss = Classification().loss(output, labels, 0.1)
        loss.register_hook(lambda gradient: seen.append(torch.is_autocast_enabled("cpu")))
        back_propagate(loss)
        assert Classification().distill(output, Classification().soften(output)).dtype == torch.float32
        assert torch.is_autocast_enabled("cpu")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, Classification().loss(output.float(), labels, 0.1), rtol=0, atol=0)
    assert seen == [False]


def test_a_forward_pass_without_gradients_does_not_take_them_from_the_next():
    layer, x = nn.Linear(4, 4), torch.randn(2, 4)
    with computing_in("bfloat16", "cpu"):
        with torch.no_grad():
            layer(x)
        back_propagate(layer(x).float().sum())
    assert layer.weight.grad is not None


@needs_bf16
def test_an_interrupted_training_in_bfloat16_ends_in_the_same_bytes(tmp_path):
    spec = replace(SPEC, ema=0.5, optimizer="adamw", lr=0.003)
    for name in ("whole", "broken", "broken"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        if name == "broken" and not (tmp_path / name).exists():
            with pytest.raises(Interrupted):
                train_network("net", net, run_at(tmp_path / name, spec, progress=interrupt_after(2), checkpoint_s=0.0))
        else:
            train_network("net", net, run_at(tmp_path / name, spec))
    assert checkpoint_bytes(tmp_path / "broken") == checkpoint_bytes(tmp_path / "whole")


@needs_bf16
def test_bfloat16_learns_what_float32_learns(tmp_path):
    losses = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))
        spec = TrainSpec(epochs=8, batch_size=32, precision=precision, label_smoothing=0.0)
        losses.append(train_network("net", net, run_at(tmp_path / precision, spec))["losses"]["loss"])
    assert max(losses) < 1.0, "that of guessing is 2.3"
    assert abs(losses[0] - losses[1]) < 0.1


@needs_bf16
@pytest.mark.parametrize("name", [name for name in METHODS.names() if not METHODS.get(name).needs_parent])
def test_every_method_trains_in_bfloat16(tmp_path, name):
    run = run_of(replace(small_spec(name), train=replace(SPEC, batch_size=64)), tmp_path)
    method_of(name).train(run)
    assert method_of(name).points(run)
