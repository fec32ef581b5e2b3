"""Importance order of a CNN: its most important channels go first, so that prefixes hold what matters most.

Li et al. 2022 obtain an order by nested residual learning, whose mechanism is unknown to us (METHODS 1); ours is the L1
norm of the filters that write a channel. Channels are permuted together with everything that reads them, so the full
network stays as it was. Narrower networks become others: their batch-norm statistics start from the full network's and
need recalibration.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.models.detector.head import DetectorHead
from bench.models.mobilenet.blocks import Classifier, Depthwise, Pointwise, Stem
from bench.models.resnet.bottleneck import Bottleneck, ConvNorm, Head
from bench.models.resnet.bottleneck import Stem as ResNetStem
from bench.slicing.group_norm import SlicedGroupNorm
from bench.slicing.layers import PrefixBatchNorm2d, SwitchableBatchNorm2d
from bench.slicing.supernet import Supernet


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
        if isinstance(norm, SwitchableBatchNorm2d):
            raise UserError("switchable batch norm has scales for each width, so its channels cannot change places")
        self.followers += [norm.weight, norm.bias]  # type: ignore[list-item]
        if isinstance(norm, PrefixBatchNorm2d):
            self.norms.append(norm)
        elif isinstance(norm, SlicedGroupNorm):
            self.group = norm.group


@torch.no_grad()
def order_channels(net: Supernet, generator: torch.Generator | None = None) -> Supernet:
    """A copy of a MobileNet or ResNet supernet, a classifier or a detector, with the same full network, its channels in
    falling order of importance; in a random order where a generator is given (the control)."""
    net = copy.deepcopy(net)
    for channels in channels_of(net):
        permute(channels, importance_order(channels, generator))
        for norm in channels.norms:
            narrow_statistics(norm)
    return net


def channels_of(net: Supernet) -> Iterator[Channels]:
    """All sets of channels of a supernet that may be permuted, in network order."""
    stream = Channels()
    for module in net.modules():
        if isinstance(module, Stem | ResNetStem):
            layer = module.conv
            conv, norm = (layer.conv, layer.norm) if isinstance(layer, ConvNorm) else (layer, module.norm)
            stream.write(conv.weight, norm)  # type: ignore[arg-type]
        elif isinstance(module, Depthwise):
            _pass_depthwise(module, stream)
        elif isinstance(module, Pointwise):
            stream.readers.append(module.conv.weight)
            yield stream
            stream = Channels()
            stream.write(module.conv.weight, module.norm)
        elif isinstance(module, Bottleneck):
            yield from _inner(module)
            stream.readers.append(module.conv1.conv.weight)
            if module.shortcut is not None:
                stream.readers.append(module.shortcut.conv.weight)
                yield stream
                stream = Channels()
                stream.write(module.shortcut.conv.weight, module.shortcut.norm)
            stream.write(module.conv3.conv.weight, module.conv3.norm)
        elif isinstance(module, Classifier | Head):
            stream.readers.append(module.linear.weight)
            yield stream
        elif isinstance(module, DetectorHead):
            stream.readers.append(module.reduce.weight)
            yield stream


def _pass_depthwise(module: Depthwise, stream: Channels) -> None:
    stream.followers.append(module.conv.weight)
    stream.normalise(module.norm)
    if module.attention is not None:
        stream.readers.append(module.attention.reduce.weight)
        stream.followers += [module.attention.expand.weight, module.attention.expand.bias]


def _inner(block: Bottleneck) -> Iterator[Channels]:
    for layer, reader in ((block.conv1, block.conv2), (block.conv2, block.conv3)):
        channels = Channels(readers=[reader.conv.weight])
        channels.write(layer.conv.weight, layer.norm)
        yield channels


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
