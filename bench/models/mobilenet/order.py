"""Which channels of a slimmable MobileNet, a classifier or a detector, move together."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.models.mobilenet.units import Depthwise, Pointwise, Stem
from bench.models.order import Channels, order_sets
from bench.slicing.supernet import Supernet


def order(net: Supernet, generator: torch.Generator | None) -> None:
    """Permute the channels in place."""
    order_sets(channels_of(net), generator)


def channels_of(net: Supernet) -> Iterator[Channels]:
    """All sets of channels that may be permuted, in network order."""
    stream = Channels()
    for unit in net.units:
        if isinstance(unit, Stem):
            stream.write(unit.conv.weight, unit.norm)
        elif isinstance(unit, Depthwise):
            stream.followers.append(unit.conv.weight)
            stream.normalise(unit.norm)
            if unit.attention is not None:
                stream.readers.append(unit.attention.reduce.weight)
                stream.followers += [unit.attention.expand.weight, unit.attention.expand.bias]
        elif isinstance(unit, Pointwise):
            stream.readers.append(unit.conv.weight)
            yield stream
            stream = Channels()
            stream.write(unit.conv.weight, unit.norm)
        else:
            stream.readers.append(unit.reads)
            yield stream
