"""Norms of a supernet: scales and shifts at their largest width, and what they keep or need under a choice.

Batch norm keeps statistics for each prefix of the choice (DESIGN 2). Group norm has a fixed number of channels a group,
which divides every width, and keeps nothing: a group sees the same channels at every width that holds it, so a slice
normalises exactly as the same channels of a wider one do. It takes the place of batch norm where several gates reach
more sub-networks than statistics can be kept for (DESIGN 2; METHODS 3.2). Layer norm is over the leading channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.slicing import ops
from bench.slicing.ops import SoftWidth, Width, full


class BoundKey(Protocol):
    """A key that brings its own way to normalise (`bound.py`); a string is the name of stored statistics."""

    def normalise(self, norm: PrefixBatchNorm2d, x: Tensor) -> Tensor: ...


class CollectedKey(BoundKey, Protocol):
    """A key that brings statistics of its own, under the name `str(key)`."""

    def statistics(self, norm: PrefixBatchNorm2d) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Moments:
    """Sums over all images and positions seen under one key: count, sum and sum of squares of each channel."""

    count: float
    total: Tensor
    squares: Tensor

    def merge(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def mean_var(self) -> tuple[Tensor, Tensor]:
        """Pooled mean and unbiased variance: those of all the values together, not a mean over batches."""
        mean = self.total / self.count
        var = (self.squares / self.count - mean.square()).clamp_min(0)
        return mean, var * (self.count / max(self.count - 1, 1))


class PrefixBatchNorm2d(nn.Module):
    """Batch norm with shared affine parameters and statistics of its own for each prefix of the choice.

    Two choices may share a width here and differ upstream; then their activations are distributed differently, so their
    statistics are kept apart (DESIGN 2). In training mode the batch's statistics normalise and the running ones move.
    """

    def __init__(self, channels: int, widths: dict[str, int], eps: float = 1e-5, momentum: float = 0.1) -> None:
        """`widths` maps each key to the number of channels that arrive under it."""
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        for key, width in widths.items():
            self.register_buffer(f"mean_{key}", torch.zeros(width))
            self.register_buffer(f"var_{key}", torch.ones(width))

    def statistics(self, key: str | CollectedKey) -> tuple[Tensor, Tensor]:
        """Mean and variance under a key; `KeyError` when the space does not name such a choice."""
        if not isinstance(key, str):
            return key.statistics(self)
        return self._buffers[f"mean_{key}"], self._buffers[f"var_{key}"]  # type: ignore[return-value]

    def affine(self, key: str, width: int) -> tuple[Tensor, Tensor]:
        """Scale and shift (width,) under a key: the leading part of what all keys share."""
        return ops.rows(self.weight, width), ops.rows(self.bias, width)

    def forward(self, x: Tensor, key: str | BoundKey) -> Tensor:
        if not isinstance(key, str):
            return key.normalise(self, x)
        mean, var = self.statistics(key)
        weight, bias = self.affine(key, x.shape[1])
        return F.batch_norm(x, mean, var, weight, bias, self.training, self.momentum, self.eps)

    def extract(self, key: str | CollectedKey) -> nn.BatchNorm2d:
        """The ordinary batch norm; with the statistics that a `CollectedKey` brings."""
        mean, var = self.statistics(key)
        weight, bias = self.affine(str(key), len(mean))
        plain = nn.BatchNorm2d(len(mean), eps=self.eps, momentum=self.momentum, device=mean.device)
        with torch.no_grad():
            plain.weight.copy_(weight)
            plain.bias.copy_(bias)
            plain.running_mean.copy_(mean)  # type: ignore[union-attr]
            plain.running_var.copy_(var)  # type: ignore[union-attr]
        return plain.train(self.training)


class SwitchableBatchNorm2d(PrefixBatchNorm2d):
    """Batch norm whose affine parameters too are of its own for each prefix of the choice (Yu et al. 2019)."""

    def __init__(self, channels: int, widths: dict[str, int], eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, widths, eps, momentum)
        del self.weight, self.bias
        for key, width in widths.items():
            self.register_parameter(f"weight_{key}", nn.Parameter(torch.ones(width)))
            self.register_parameter(f"bias_{key}", nn.Parameter(torch.zeros(width)))

    def affine(self, key: str, width: int) -> tuple[Tensor, Tensor]:
        """Scale and shift (width,) of a key's own."""
        return self._parameters[f"weight_{key}"], self._parameters[f"bias_{key}"]  # type: ignore[return-value]


def by_batch(norm: PrefixBatchNorm2d, x: Tensor, key: str) -> Tensor:
    """Normalise (B, C, H, W) by its own statistics, whatever the mode; scale and shift are those of the key."""
    return F.batch_norm(x, None, None, *norm.affine(key, x.shape[1]), True, 0.0, norm.eps)


class SlicedGroupNorm(nn.Module):
    """Group norm over the channels that arrive.

    Args:
        channels: the largest width.
        group: channels of each group.
        widths: the widths that may arrive. Raises `UserError` for one that `group` does not divide.
    """

    def __init__(self, channels: int, group: int, widths: Iterable[int] = (), eps: float = 1e-5) -> None:
        super().__init__()
        for width in (channels, *widths):
            if width % group:
                raise UserError(f"group norm with {group} channels a group cannot run {width} channels")
        self.group, self.eps = group, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, width: Width) -> Tensor:
        """(B, C, H, W) to the same; channels outside a soft width come out zero."""
        count = x.shape[1]
        weight, bias = ops.rows(self.weight, count), ops.rows(self.bias, count)
        return ops.masked(F.group_norm(x, count // self.group, weight, bias, self.eps), width)

    def extract(self, width: int) -> nn.GroupNorm:
        plain = nn.GroupNorm(width // self.group, width, self.eps, device=self.weight.device)
        with torch.no_grad():
            plain.weight.copy_(self.weight[:width])
            plain.bias.copy_(self.bias[:width])
        return plain.train(self.training)


class SlicedLayerNorm(nn.Module):
    """Layer norm over the leading channels: nothing is kept for each width, so any choice can run."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, width: Width) -> Tensor:
        """(B, N, full(width)) normalised over the channels inside the width; those outside come out zero."""
        count = full(width)
        weight, bias = ops.rows(self.weight, count), ops.rows(self.bias, count)
        if isinstance(width, int):
            return F.layer_norm(x, (count,), weight, bias, self.eps)
        return soft_layer_norm(x, width, weight, bias, self.eps)

    def extract(self, width: int) -> nn.LayerNorm:
        plain = nn.LayerNorm(width, self.eps, device=self.weight.device)
        with torch.no_grad():
            plain.weight.copy_(self.weight[:width])
            plain.bias.copy_(self.bias[:width])
        return plain


def soft_layer_norm(x: Tensor, width: SoftWidth, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm over the number of channels chosen for each image, by masked sums over all of them."""
    mask = width.mask()[:, None, :]  # (B, 1, C)
    count = mask.sum(-1, keepdim=True)  # (B, 1, 1)
    centred = (x - (x * mask).sum(-1, keepdim=True) / count) * mask
    var = centred.square().sum(-1, keepdim=True) / count
    return (centred * torch.rsqrt(var + eps) * weight + bias) * mask
