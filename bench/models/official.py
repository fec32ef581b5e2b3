"""Weights that authors published, in the names of their own code: what they are called, and their way into a network.

The formats stand with their families (`Family.official`), each with its adapter, a pure function from the authors'
state dict to ours. All were trained on the 1,000 classes of ImageNet, in the order of their WordNet ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.core.errors import UserError, unknown
from bench.models import PRESETS, Preset
from bench.models.preset import Official, load
from bench.models.transfer import Transferred, check_tensors, head_of
from bench.slicing.choice import ChoiceSpace
from bench.slicing.norms import PrefixBatchNorm2d
from bench.slicing.supernet import Supernet

State = Mapping[str, Tensor]
COUNTERS = ".num_batches_tracked"
STATISTICS = {"mean": "running_mean", "var": "running_var"}


class Adapted(NamedTuple):
    """A network's whole state with the authors' values, and tensors that a method may use beside the network, by the
    authors' names."""

    state: dict[str, Tensor]
    beside: dict[str, Tensor]


def format_of(name: str) -> Official:
    """The format that a user names. Raises `UserError` for one that nobody knows, or that no network here can hold."""
    formats = {one.name: one for preset in map(PRESETS.get, PRESETS.names()) for one in preset.family.official}
    if name not in formats:
        raise unknown("format of official weights", name, list(formats))
    if formats[name].adapt is None:
        raise UserError(f"official:{name} cannot be read: {formats[name].refused}")
    return formats[name]


def from_official(name: str, state: State, net: Supernet, preset: Preset, classes: Sequence[str]) -> Transferred:
    """The state of `net` with the values of an official checkpoint, every tensor of which is used or named.

    Args:
        name: of the format. preset: of the network.
        classes: of the data. Where they are classes of ImageNet, the classifier's rows for them are taken; where they
            are not, the classifier of `net` stays as it is.

    Raises:
        UserError: a preset that such weights are not for; a tensor is missing, one too many or misshapen.
    """
    fmt = format_of(name)
    if preset.name not in fmt.presets:
        raise UserError(f"official:{name} are weights of {', '.join(fmt.presets)}, not of {preset.name}")
    with torch.device("meta"):
        whole = preset.build(channels=net.input_channels)  # with the authors' number of classes
    values = {key: value for key, value in state.items() if not key.endswith(COUNTERS)}
    adapted: Adapted = load(fmt.adapt or "")(values, whole)
    rows, heads = imagenet_rows(classes), tuple(head_of(net))
    kept = {key: value for key, value in adapted.state.items() if not key.startswith(heads)}
    head = {key: value for key, value in adapted.state.items() if key.startswith(heads)}
    counters = tuple(key for key in state if key.endswith(COUNTERS))
    if rows is None:
        theirs = tuple(key for key, value in state.items() if any(value is each for each in head.values()))
        return Transferred({**net.state_dict(), **kept}, tuple(head), (*counters, *theirs), adapted.beside)
    kept |= {key: value[torch.tensor(rows)] for key, value in head.items()}
    return Transferred(kept, (), counters, adapted.beside)


def imagenet_rows(classes: Sequence[str]) -> list[int] | None:
    """The places of classes, named by WordNet ids, among the 1,000 of ImageNet; None where one is not among them."""
    from timm.data.imagenet_info import ImageNetInfo  # takes seconds to import

    places = {wordnet_id: place for place, wordnet_id in enumerate(ImageNetInfo().label_names())}
    return [places[name] for name in classes] if classes and set(classes) <= places.keys() else None


def matched(state: State, net: Supernet, names: Mapping[str, str], beside: Mapping[str, tuple[int, ...]]) -> State:
    """The values of a state dict under our names, once it is sure that it holds all of them and nothing else.

    Args:
        names: theirs for each of our network's tensors; several of ours may take one of theirs.
        beside: shapes of what else the state dict holds, by its names.

    Raises:
        UserError: a tensor is missing, one too many or misshapen.
    """
    shapes = {names[key]: tuple(value.shape) for key, value in net.state_dict().items()}
    check_tensors(state, {**shapes, **beside})
    return {key: state[theirs] for key, theirs in names.items()}


def norm_names(norm: PrefixBatchNorm2d, space: ChoiceSpace, depth: int, shared: str, each: str) -> dict[str, str]:
    """The authors' names of a batch norm's tensors, by ours.

    The k-th of their norms is that of the k-th width of the layer's own list, so choices that differ only in front of
    the layer have one in common.

    Args:
        depth: how many stages the statistics depend on.
        shared: the norm of theirs with scale and shift of all widths. each: that of the k-th width, k as `{}`.
    """
    places = {key: prefix.indices[-1][0] for key, prefix in space.prefix_keys(depth).items()}
    names = {}
    for ours in norm.state_dict():
        kind, _, key = ours.partition("_")
        theirs = STATISTICS.get(kind, kind)
        names[ours] = f"{each.format(places[key])}.{theirs}" if key else f"{shared}.{theirs}"
    return names
