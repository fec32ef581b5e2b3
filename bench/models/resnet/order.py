"""Which channels of a slimmable ResNet, a classifier or a detector, move together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from bench.models.order import Channels, order_sets
from bench.models.resnet.units import GateInput, Residual, Stem
from bench.slicing.supernet import Supernet


def order(net: Supernet, generator: torch.Generator | None) -> None:
    """Permute the channels in place."""
    order_sets(channels_of(net), generator)


def channels_of(net: Supernet) -> Iterator[Channels]:
    """All sets of channels that may be permuted, in network order: those within a block, and the residual stream from
    one projection to the next."""
    stream = Channels()
    for unit in net.units:
        if isinstance(unit, Stem):
            stream.write(unit.conv.conv.weight, unit.conv.norm)
        elif isinstance(unit, Residual):
            yield from _inner(unit)
            stream.readers.append(unit.conv1.conv.weight)
            if unit.shortcut is not None:
                stream.readers.append(unit.shortcut.conv.weight)
                yield stream
                stream = Channels()
                stream.write(unit.shortcut.conv.weight, unit.shortcut.norm)
            stream.write(unit.convs[-1].conv.weight, unit.convs[-1].norm)
        elif not isinstance(unit, GateInput):
            stream.readers.append(unit.reads)
            yield stream


def _inner(block: Residual) -> Iterator[Channels]:
    for layer, reader in pairwise(block.convs):
        channels = Channels(readers=[reader.conv.weight])
        channels.write(layer.conv.weight, layer.norm)
        yield channels
