"""US- and S-MobileNetV1 compute what the official code computes: its recorded logits, by weights from a formula."""

import pytest
import torch
from golden_networks import STATISTICS, fixture, images, state_of
from torch import Tensor, nn

from bench.models import PRESETS
from bench.models.mobilenet.units import Classifier, Depthwise, Pointwise
from bench.slicing.norms import PrefixBatchNorm2d
from bench.slicing.supernet import Supernet


def put_norm(norm: PrefixBatchNorm2d, state: dict[str, Tensor], name: str) -> None:
    """bn.i of the official norm is the i-th width of the list, as the i-th key is of ours."""
    for key, tensor in norm.state_dict().items():
        part, _, choice = key.partition("_")
        kinds = {ours: theirs for theirs, ours in STATISTICS.items()}
        index = [k for k in norm.state_dict() if k.startswith(f"{part}_")].index(key) if choice else None
        theirs = f"bn.{index}.{kinds.get(part, part)}" if choice else part
        tensor.copy_(state.pop(f"{name}.{theirs}"))


@torch.no_grad()
def loaded(name: str) -> Supernet:
    """Our network with all tensors of the official one."""
    net, state = PRESETS.get(name).build().eval(), state_of(fixture(name))
    stem, *units = net.units
    layers: list[tuple[nn.Module, str, str]] = [(stem, "features.0.0", "features.0.1")]
    blocks = 0
    for unit in units:
        blocks += isinstance(unit, Depthwise)
        if isinstance(unit, Depthwise | Pointwise):
            place = 0 if isinstance(unit, Depthwise) else 3
            layers.append((unit, f"features.{blocks}.body.{place}", f"features.{blocks}.body.{place + 1}"))
    for unit, conv, norm in layers:
        unit.conv.weight.copy_(state.pop(f"{conv}.weight"))
        put_norm(unit.norm, state, norm)
    assert isinstance(units[-1], Classifier)
    units[-1].linear.weight.copy_(state.pop("classifier.0.weight"))
    units[-1].linear.bias.copy_(state.pop("classifier.0.bias"))
    assert not state, "every tensor has a place"
    return net


@pytest.fixture(scope="module", params=["us_mobilenet_v1", "s_mobilenet_v1"])
def case(request):
    return loaded(request.param), fixture(request.param)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-8)])
@torch.no_grad()
def test_logits_are_those_of_the_official_code(case, dtype, tolerance):
    net, golden = case
    net, x = net.to(dtype), images().to(dtype)
    assert any("logits" in entry for entry in golden["outputs"])
    for entry in golden["outputs"]:
        expected = torch.tensor(entry.get("logits", entry.get("first_logits")), dtype=dtype)
        logits = net(x, net.space.uniform(entry["statistics_index"]))
        largest = entry.get("max_abs", logits.abs().max())
        assert (logits[:, : expected.shape[1]] - expected).abs().max() <= tolerance * largest, entry["width"]
