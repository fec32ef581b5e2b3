"""Weights of timm's and torchvision's ResNets in and out of a slimmable ResNet.

The key map, equal for both libraries: `conv1`, `bn1` and `fc` are the stem and the head; `layer<s>.<b>` is the b-th
block of stage s (from 1), with `conv1..3`, `bn1..3` within it, and its projection `downsample.0` (convolution) and
`downsample.1` (norm). The full network takes all values as they are, running statistics included; narrower prefixes
start from the leading part of the full network's statistics and need recalibration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from bench.core.errors import UserError
from bench.models.resnet.units import ConvNorm, Head, Residual, Stem
from bench.models.transfer import check_tensors
from bench.slicing.norms import SlicedGroupNorm
from bench.slicing.supernet import Supernet

State = Mapping[str, Tensor]

STATISTICS = {"mean": "running_mean", "var": "running_var"}
IGNORED = "num_batches_tracked"


def layers(net: Supernet) -> Iterator[tuple[str, ConvNorm, str, str]]:
    """Each convolution with its norm: name here, the layer, and the names of both in timm's state dict."""
    stage, block = 0, 0
    for name, module in net.named_modules():
        if isinstance(module, Stem):
            yield f"{name}.conv", module.conv, "conv1", "bn1"
        elif isinstance(module, Residual):
            stage, block = (stage, block + 1) if module.conv1.stage == stage else (module.conv1.stage, 0)
            theirs = f"layer{stage}.{block}"
            for index, layer in enumerate(module.convs, 1):
                yield f"{name}.conv{index}", layer, f"{theirs}.conv{index}", f"{theirs}.bn{index}"
            if module.shortcut is not None:
                yield f"{name}.shortcut", module.shortcut, f"{theirs}.downsample.0", f"{theirs}.downsample.1"


def key_map(net: Supernet) -> dict[str, str]:
    """The name in timm's state dict of every parameter and statistic of a supernet."""
    names = {}
    for name, layer, conv, norm in layers(net):
        names[f"{name}.conv.weight"] = f"{conv}.weight"
        for key in layer.norm.state_dict():
            kind, _, prefix = key.partition("_")
            names[f"{name}.norm.{key}"] = f"{norm}.{STATISTICS.get(kind, kind) if prefix else key}"
    for name, module in net.named_modules():
        if isinstance(module, Head):
            names |= {f"{name}.linear.{part}": f"fc.{part}" for part in ("weight", "bias")}
    return names


def group_of(net: Supernet) -> int:
    """Channels a group of the network's group norm; 0 where it has batch norm."""
    norm = next(layers(net))[1].norm
    return norm.group if isinstance(norm, SlicedGroupNorm) else 0


def from_timm(state: State, net: Supernet, head: bool = True, group: int | None = None) -> dict[str, Tensor]:
    """The state dict of `net` with the values of a timm or torchvision state dict.

    Args:
        head: take the classifier too; without it the classifier of `net` stays, and so may its number of classes.
        group: channels a group of the checkpoint's group norm, which a state dict does not tell; None for batch norm.

    Raises:
        UserError: the checkpoint is of another architecture, shape or normalisation; the message says what differs.
    """
    own, names = net.state_dict(), key_map(net)
    state = {name: value for name, value in state.items() if not name.endswith(IGNORED)}
    if not head:
        names = {key: name for key, name in names.items() if not name.startswith("fc.")}
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    _check_norm(state, group_of(net), group)
    check_tensors(state, _shapes(own, names))
    return {**own, **{key: state[name][: len(own[key])] for key, name in names.items()}}


def to_timm(net: Supernet) -> dict[str, Tensor]:
    """The full network of a supernet as a state dict for timm or torchvision: the inverse of `from_timm`."""
    own = net.state_dict()
    state: dict[str, Tensor] = {}
    for key, name in key_map(net).items():
        is_wider = name not in state or len(own[key]) > len(state[name])
        if is_wider or key.endswith("_" + net.space.largest.key(_depth(net, key))):
            state[name] = own[key]
    return state


def load_timm(net: Supernet, state: State, head: bool = True, group: int | None = None) -> None:
    """Put timm's weights into a supernet. Raises `UserError` as `from_timm` does; then the supernet is as it was."""
    net.load_state_dict(from_timm(state, net, head, group))


def _depth(net: Supernet, key: str) -> int:
    """The stages that the statistics of a layer depend on; 0 for what is no statistic."""
    name, _, kind = key.rpartition(".norm.")
    return net.get_submodule(name).stage + 1 if kind.startswith(("mean_", "var_")) else 0  # type: ignore[operator]


def _shapes(own: State, names: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """The shape that each name of the checkpoint must have: the largest of what is taken from it."""
    shapes: dict[str, tuple[int, ...]] = {}
    for key, name in names.items():
        shapes[name] = max(shapes.get(name, (0,)), tuple(own[key].shape))
    return shapes


def _check_norm(state: State, ours: int, theirs: int | None) -> None:
    has_statistics = any(name.endswith(tuple(STATISTICS.values())) for name in state)
    if not ours and not has_statistics:
        raise UserError(
            "the checkpoint has no batch-norm statistics, so its normalisation is not this network's batch norm; "
            "take a checkpoint with batch norm"
        )
    if not ours:
        return
    if has_statistics:
        raise UserError(
            f"the checkpoint has batch norm, and this network group norm of {ours} channels a group; "
            "use a preset with batch norm (ds_resnet50_bn, us_resnet50)"
        )
    if theirs != ours:
        said = "nothing says how many channels its groups have" if theirs is None else f"its groups have {theirs}"
        raise UserError(
            f"this network has group norm of {ours} channels a group, and of the checkpoint {said} "
            "(timm's resnet50_gn has 32 groups at any width, which fits no slice)"
        )
