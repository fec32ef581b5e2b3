"""The authors' weights of S-ResNet-50, from the names of slimmable_networks to ours (METHODS 14)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bench.models.official import Adapted, matched, norm_names
from bench.models.resnet.units import ConvNorm, Head, Residual, Stem
from bench.slicing.norms import PrefixBatchNorm2d
from bench.slicing.supernet import Supernet


def slimmable(state: Mapping[str, Tensor], net: Supernet) -> Adapted:
    """The k-th norm of a layer, scale and shift included, is that of the k-th width."""
    names: dict[str, str] = {}

    def put(ours: str, layer: ConvNorm, place: str, at: int) -> None:
        assert isinstance(layer.norm, PrefixBatchNorm2d)
        norm = f"{place}.{at + 1}"
        names[f"{ours}.conv.weight"] = f"{place}.{at}.weight"
        theirs = norm_names(layer.norm, net.space, layer.stage + 1, norm, f"{norm}.bn.{{}}")
        names.update({f"{ours}.norm.{key}": value for key, value in theirs.items()})

    blocks = 0
    for ours, unit in net.named_modules():
        if isinstance(unit, Stem):
            put(f"{ours}.conv", unit.conv, "features.0", 0)
        elif isinstance(unit, Residual):
            blocks += 1
            for index, layer in enumerate(unit.convs):
                put(f"{ours}.conv{index + 1}", layer, f"features.{blocks}.body", 3 * index)
            if unit.shortcut is not None:
                put(f"{ours}.shortcut", unit.shortcut, f"features.{blocks}.shortcut", 0)
        elif isinstance(unit, Head):
            names |= {f"{ours}.linear.{part}": f"classifier.0.{part}" for part in ("weight", "bias")}
    return Adapted(dict(matched(state, net, names, {})), {})
