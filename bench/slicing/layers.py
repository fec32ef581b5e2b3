"""Layers of a supernet: parameters at their largest width, statistics keyed by the prefix of the choice, nothing else.

Each layer can run sliced (`layer(x, width)`), say what it costs, and be extracted: copied at one width into the
ordinary torch layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.slicing import ops
from bench.slicing.choice import Choice
from bench.slicing.ops import SoftWidth, Width

Shape = tuple[int, int, int]  # channels, height, width of one image's activation


def conv_cost(shape: Shape, out: int, kernel: int, stride: int, groups: int = 1) -> tuple[int, Shape]:
    """Multiply-adds of a padded convolution for one image of `shape`, and the shape of its result."""
    channels, height, width = shape
    height, width = -(-height // stride), -(-width // stride)
    return channels // groups * out * kernel * kernel * height * width, (out, height, width)


class SlicedConv2d(nn.Module):
    """A convolution whose leading filters are used; depth-wise where `depthwise`, then its width is what arrives.

    A smaller kernel than the stored one is its centre window, padded so that the result keeps its size (METHODS 2).
    """

    def __init__(
        self, inp: int, out: int, kernel: int, stride: int = 1, *, bias: bool = False, depthwise: bool = False
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.depthwise = kernel, stride, depthwise
        self.weight = nn.Parameter(torch.empty(out, 1 if depthwise else inp, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        fan_out = kernel * kernel * (1 if depthwise else out)
        nn.init.normal_(self.weight, 0.0, math.sqrt(2.0 / fan_out))

    def forward(self, x: Tensor, out: Width | None = None, kernel: Width | None = None) -> Tensor:
        """(B, I, H, W) to (B, out, H', W'); a depth-wise convolution takes no `out`. All of the kernel where None."""
        weight, size = self.weight, self.kernel
        if kernel is not None:
            if not isinstance(kernel, int):
                return ops.mixed(kernel, lambda size: self(x, out, size))
            weight, size = ops.centre(weight, kernel), kernel
        if self.depthwise:
            return ops.depthwise_conv2d(x, weight, self.stride, size // 2)
        width = weight.shape[0] if out is None else out
        return ops.conv2d(x, weight, self.bias, width, self.stride, size // 2)

    def extract(self, inp: int, out: int | None = None, kernel: int | None = None) -> nn.Conv2d:
        """The ordinary convolution of `inp` to `out` channels with copies of the weights."""
        out = inp if self.depthwise else (self.weight.shape[0] if out is None else out)
        groups = inp if self.depthwise else 1
        kernel = self.kernel if kernel is None else kernel
        args = (inp, out, kernel, self.stride, kernel // 2, 1, groups, self.bias is not None)
        plain: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, *args, device=self.weight.device)  # type: ignore[assignment]
        with torch.no_grad():
            plain.weight.copy_(ops.centre(self.weight, kernel)[:out, : plain.weight.shape[1]])
            if self.bias is not None and plain.bias is not None:
                plain.bias.copy_(self.bias[:out])
        return plain


class SlicedLinear(nn.Module):
    """A linear layer over the leading features; its output is static unless a width is passed."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(out)  # uniform by fan-out, as the official code initialises its classifier
        self.weight = nn.Parameter(torch.empty(out, inp).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor, out: int | None = None) -> Tensor:
        return ops.linear(x, self.weight, self.bias, out)

    def extract(self, inp: int, out: int | None = None) -> nn.Linear:
        out = self.weight.shape[0] if out is None else out
        plain: nn.Linear = nn.utils.skip_init(nn.Linear, inp, out, device=self.weight.device)  # type: ignore[assignment]
        with torch.no_grad():
            plain.weight.copy_(self.weight[:out, :inp])
            plain.bias.copy_(self.bias[:out])
        return plain


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

    def statistics(self, key: str | CollectingKey) -> tuple[Tensor, Tensor]:
        """Mean and variance under a key; `KeyError` when the space does not name such a choice."""
        if isinstance(key, CollectingKey):
            return key.moments[self, key.key].mean_var()
        return self._buffers[f"mean_{key}"], self._buffers[f"var_{key}"]  # type: ignore[return-value]

    def affine(self, key: str, width: int) -> tuple[Tensor, Tensor]:
        """Scale and shift (width,) under a key: the leading part of what all keys share."""
        return ops.rows(self.weight, width), ops.rows(self.bias, width)

    def forward(self, x: Tensor, key: Key) -> Tensor:
        if not isinstance(key, str):
            return key.normalise(self, x)
        mean, var = self.statistics(key)
        weight, bias = self.affine(key, x.shape[1])
        return F.batch_norm(x, mean, var, weight, bias, self.training, self.momentum, self.eps)

    def extract(self, key: str | CollectingKey) -> nn.BatchNorm2d:
        """The ordinary batch norm; under a `CollectingKey` with the statistics that were collected."""
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


@dataclass(frozen=True)
class SoftKey:
    """Statistics chosen for each image: `weights` (B, K) over `keys`. Channels outside its width come out zero."""

    keys: tuple[str, ...]
    weights: Tensor

    def normalise(self, norm: PrefixBatchNorm2d, x: Tensor) -> Tensor:
        scales, shifts = [], []
        for key in self.keys:
            mean, var = norm.statistics(key)
            weight, bias = norm.affine(key, len(mean))
            scale = weight * torch.rsqrt(var + norm.eps)
            outside = (0, x.shape[1] - len(mean))
            scales.append(F.pad(scale, outside))
            shifts.append(F.pad(bias - mean * scale, outside))
        scale, shift = self.weights @ torch.stack(scales), self.weights @ torch.stack(shifts)  # (B, C)
        return x * scale[:, :, None, None] + shift[:, :, None, None]


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


@dataclass(frozen=True)
class CollectingKey:
    """A key under which a norm adds to `moments` what it sees, and normalises by the batch's own statistics."""

    key: str
    moments: dict[tuple[PrefixBatchNorm2d, str], Moments]

    def normalise(self, norm: PrefixBatchNorm2d, x: Tensor) -> Tensor:
        wide = x.detach().double()
        seen = Moments(x.numel() / x.shape[1], wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)))
        slot = (norm, self.key)
        self.moments[slot] = self.moments[slot].merge(seen) if slot in self.moments else seen
        return by_batch(norm, x, self.key)

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True)
class BatchKey:
    """A key under which a norm normalises by the batch's own statistics and keeps nothing."""

    key: str

    def normalise(self, norm: PrefixBatchNorm2d, x: Tensor) -> Tensor:
        return by_batch(norm, x, self.key)


def by_batch(norm: PrefixBatchNorm2d, x: Tensor, key: str) -> Tensor:
    """Normalise (B, C, H, W) by its own statistics, whatever the mode; scale and shift are those of the key."""
    return F.batch_norm(x, None, None, *norm.affine(key, x.shape[1]), True, 0.0, norm.eps)


Key = str | SoftKey | CollectingKey | BatchKey


@dataclass(frozen=True)
class SoftChoice:
    """A choice for each image: from stage `depth` on, what one gate decided: one of K options by `weights` (B, K).

    Stage II runs the supernet under it (Li et al. 2021, sec. 3.3): every channel is computed and then masked, so it
    saves nothing; it exists to carry a gradient to the gate and as the control of sliced inference.

    Attributes:
        depth: the stages in front of the gate. They run under `front`, which is itself soft where other gates decided
            them, or under what all options share where it is None.
    """

    options: tuple[Choice, ...]
    weights: Tensor
    depth: int
    front: Choice | SoftChoice | None = None

    @property
    def shared(self) -> Choice | SoftChoice:
        """What the stages in front of the gate run under."""
        return self.options[0] if self.front is None else self.front

    def key(self, depth: int) -> Key:
        if depth <= self.depth:
            return self.shared.key(depth)
        assert not isinstance(self.front, SoftChoice), "statistics of prefixes serve one gate (see ChoiceSpace)"
        return SoftKey(tuple(option.key(depth) for option in self.options), self.weights)

    def pick(self, stage: int, position: int, values: tuple[int, ...]) -> Width:
        if stage < self.depth:
            return self.shared.pick(stage, position, values)
        widths = tuple(option.pick(stage, position, values) for option in self.options)
        return widths[0] if len(set(widths)) == 1 else SoftWidth(widths, self.weights)


@dataclass(frozen=True)
class CollectingChoice:
    """A choice under which every batch norm collects pooled moments instead of using or moving its statistics."""

    choice: Choice
    moments: dict[tuple[PrefixBatchNorm2d, str], Moments] = field(default_factory=dict)

    def key(self, depth: int) -> CollectingKey:
        return CollectingKey(self.choice.key(depth), self.moments)

    def pick(self, stage: int, position: int, values: tuple[int, ...]) -> int:
        return self.choice.pick(stage, position, values)


@dataclass(frozen=True)
class BatchChoice:
    """A choice under which every batch norm uses the batch's own statistics: also one that has none of its own."""

    choice: Choice

    def key(self, depth: int) -> BatchKey:
        return BatchKey(self.choice.key(depth))

    def pick(self, stage: int, position: int, values: tuple[int, ...]) -> int:
        return self.choice.pick(stage, position, values)


AnyChoice = Choice | SoftChoice | CollectingChoice | BatchChoice | Any
