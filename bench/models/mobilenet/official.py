"""The authors' weights of slimmable MobileNetV1s, from the names of their code to ours (METHODS 14).

DS-Net's release of DS-MBNet, and slimmable_networks' US- and S-MobileNetV1. All number a norm's statistics by the place
of its width in the layer's list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from bench.models.mobilenet.units import Classifier, Depthwise, Pointwise, Stem
from bench.models.official import Adapted, matched, norm_names
from bench.slicing.supernet import Supernet

GATE = "blocks.3.first_block.gate.gate.0.weight"


def slimmable(state: Mapping[str, Tensor], net: Supernet) -> Adapted:
    """US-MobileNetV1 (scale and shift of a norm shared by all widths) or S-MobileNetV1 (each width its own)."""
    names: dict[str, str] = {}
    blocks = 0
    for ours, unit in net.named_modules():
        blocks += isinstance(unit, Depthwise)
        if isinstance(unit, Classifier):
            names |= {f"{ours}.linear.{part}": f"classifier.0.{part}" for part in ("weight", "bias")}
        elif isinstance(unit, Stem | Depthwise | Pointwise):
            place = "features.0" if isinstance(unit, Stem) else f"features.{blocks}.body"
            at = 3 if isinstance(unit, Pointwise) else 0
            norm = f"{place}.{at + 1}"
            names |= _conv_and_norm(net, ours, unit, f"{place}.{at}", norm, norm + ".bn.{}")
    return Adapted(dict(matched(state, net, names, {})), {})


def ds_mbnet(state: Mapping[str, Tensor], net: Supernet) -> Adapted:
    """DS-MBNet. Scale and shift of a norm stand with its widest; channel attention is by 1x1 convolutions. The gate of
    the release, which is untrained, is beside the network.

    Both `uniform13` and `largest` find the statistics of stages 3 and 4 that the release has for its width: it has one
    for both. Those of `largest` in front of them are there, but the release left them at mean 0 and variance 1, so it
    must be recalibrated before it says anything.
    """
    names: dict[str, str] = {}
    attention: dict[str, str] = {}
    place = ""
    places = _places(net)
    for ours, unit in net.named_modules():
        if isinstance(unit, Classifier):
            names |= {f"{ours}.linear.{part}": f"classifier.{part}" for part in ("weight", "bias")}
        elif isinstance(unit, Stem | Depthwise | Pointwise):
            place = next(places) if isinstance(unit, Depthwise) else place
            conv, number = ("conv_pw", 2) if isinstance(unit, Pointwise) else ("conv_dw" if place else "conv_stem", 1)
            norm, last = f"{place}bn{number}.aux_bn.", len(net.space.stages[_stage(unit)].values("filters")) - 1
            names |= _conv_and_norm(net, ours, unit, place + conv, f"{norm}{last}", norm + "{}")
            if isinstance(unit, Depthwise):
                for layer in ("reduce", "expand"):
                    for part in ("weight", "bias"):
                        attention[f"{ours}.attention.{layer}.{part}"] = f"{place}gate.conv_{layer}.{part}"
    matrices = set(attention.values())
    flat = {key: _matrix(value) if key in matrices else value for key, value in state.items() if key != GATE}
    beside = {GATE: _matrix(state[GATE])} if GATE in state else {}
    return Adapted(dict(matched(flat, net, names | attention, {})), beside)


def _places(net: Supernet) -> Iterator[str]:
    """Where each block stands in DS-Net's names: the first of a stage apart from the others, which are numbered."""
    stage, block = -1, 0
    for unit in net.units:
        if isinstance(unit, Pointwise):
            stage, block = (stage, block + 1) if unit.stage == stage else (unit.stage, 0)
            yield f"blocks.{stage - 1}." + (f"residual_blocks.{block - 1}." if block else "first_block.")


def _matrix(value: Tensor) -> Tensor:
    """A 1x1 convolution (O, I, 1, 1) as the matrix (O, I); anything else as it is."""
    return value.flatten(1) if value.shape[2:] == (1, 1) else value


def _stage(unit: Stem | Depthwise | Pointwise) -> int:
    """The stage of the space whose width a unit's norm has."""
    return 0 if isinstance(unit, Stem) else unit.inp_stage if isinstance(unit, Depthwise) else unit.stage


def _conv_and_norm(
    net: Supernet, ours: str, unit: Stem | Depthwise | Pointwise, conv: str, shared: str, each: str
) -> dict[str, str]:
    """The authors' names of a unit's convolution and norm, by ours; `shared` and `each` as in `norm_names`."""
    theirs = norm_names(unit.norm, net.space, _stage(unit) + 1, shared, each)
    return {f"{ours}.conv.weight": f"{conv}.weight", **{f"{ours}.norm.{key}": value for key, value in theirs.items()}}
