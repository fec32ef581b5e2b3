"""The order of a supernet's channels before it trains or is sliced: as it is, by importance, or at random.

A slice is a prefix, so the channels that matter most should go first. Li et al. 2022 obtain an order by nested residual
learning, whose mechanism is unknown to us (METHODS 1); ours is the L1 norm of the filters that write a channel.
Channels are permuted together with everything that reads them, so the full network stays as it was. Narrower networks
become others: their batch-norm statistics start from the full network's and need recalibration. A family knows which
channels move together (`order.py` in its folder).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.models.preset import Family, Preset, load
from bench.slicing.norms import PrefixBatchNorm2d, SlicedGroupNorm
from bench.slicing.supernet import Supernet

Order = Literal["none", "l1", "random"]


def check_order(preset: Preset, order: Order) -> None:
    """Raise `UserError` for a network whose channels cannot change places, where they would have to."""
    if order != "none" and preset.trains_as == "switchable":
        raise UserError("switchable batch norm has scales for each width, so its channels cannot change places")


def in_order(net: Supernet, family: Family, order: Order, seed: int) -> Supernet:
    """The supernet ("none"), or a copy with the same full network whose prefixes hold other channels.

    Args:
        order: "l1", the largest L1 norm first; "random", the control, drawn from `seed`.
    """
    if order == "none":
        return net
    return ordered(net, family, torch.Generator().manual_seed(seed) if order == "random" else None)


@torch.no_grad()
def ordered(net: Supernet, family: Family, generator: torch.Generator | None = None) -> Supernet:
    """A copy of a supernet with the same full network, its channels in falling order of importance; in a random order
    where a generator is given (the control)."""
    if family.order is None:
        raise UserError(f"nothing orders the channels of the family {family.name}")
    net = copy.deepcopy(net)
    load(family.order)(net, generator)
    return net


@dataclass
class Channels:
    """Channels that only move together.

    Attributes:
        writers: filters that compute them (dimension 0). Where several add into the same channels, as along a residual
            stream, all count.
        followers: parameters with an entry for each channel (dimension 0): depth-wise filters, biases, scales.
        readers: weights that take them as input (dimension 1).
        norms: batch norms with statistics of them.
        group: channels a group of group norm; groups stay together.
    """

    writers: list[Tensor] = field(default_factory=list)
    followers: list[Tensor] = field(default_factory=list)
    readers: list[Tensor] = field(default_factory=list)
    norms: list[PrefixBatchNorm2d] = field(default_factory=list)
    group: int = 1

    def write(self, weight: Tensor, norm: nn.Module) -> None:
        """Add a convolution that computes these channels, and the norm behind it."""
        self.writers.append(weight)
        self.normalise(norm)

    def normalise(self, norm: nn.Module) -> None:
        self.followers += [norm.weight, norm.bias]  # type: ignore[list-item]
        if isinstance(norm, PrefixBatchNorm2d):
            self.norms.append(norm)
        elif isinstance(norm, SlicedGroupNorm):
            self.group = norm.group


def order_sets(sets: Iterable[Channels], generator: torch.Generator | None) -> None:
    """Permute each set in place, in falling order of importance or at random, and start the statistics of narrower
    networks anew."""
    for channels in sets:
        permute(channels, importance_order(channels, generator))
        for norm in channels.norms:
            narrow_statistics(norm)


def importance_order(channels: Channels, generator: torch.Generator | None) -> Tensor:
    """Indices in falling order of the writers' L1 norm, equal ones in their old order; or a random permutation.

    Groups of group norm move as wholes, by their sum, and are ordered within: both leave what they compute unchanged.
    """
    scores = torch.stack([weight.abs().flatten(1).sum(1) for weight in channels.writers]).sum(0)
    if generator is not None:
        scores = torch.rand(len(scores), generator=generator).to(scores.device)
    groups = scores.unflatten(0, (-1, channels.group))  # (groups, channels a group)
    within = groups.argsort(dim=1, descending=True, stable=True)
    first = groups.sum(1).argsort(dim=0, descending=True, stable=True)
    starts = channels.group * torch.arange(len(groups), device=scores.device)
    return (starts[:, None] + within)[first].flatten()


def permute(channels: Channels, order: Tensor) -> None:
    """Permute a set of channels in place."""
    for parameter in (*channels.writers, *channels.followers):
        parameter.copy_(parameter.index_select(0, order))
    for weight in channels.readers:
        weight.copy_(weight.index_select(1, order))
    for norm in channels.norms:
        for key, statistics in norm.named_buffers():
            if len(statistics) == len(order):
                norm.get_buffer(key).copy_(statistics.index_select(0, order))


def narrow_statistics(norm: PrefixBatchNorm2d) -> None:
    """Start the statistics of narrower widths from the leading part of the full width's, the last one registered."""
    full = {key.partition("_")[0]: s for key, s in norm.named_buffers() if len(s) == len(norm.weight)}
    for key, statistics in norm.named_buffers():
        if len(statistics) < len(norm.weight):
            statistics.copy_(full[key.partition("_")[0]][: len(statistics)])
