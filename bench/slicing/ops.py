"""Sliced operators as pure functions: the output width is passed, the input width is what arrives.

A width is an int (the leading channels are computed, nothing else) or a `SoftWidth` (every channel is computed and a
mask for each image follows, which is how stage II trains gates and how masked inference is shown as a control).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SoftWidth:
    """A width chosen for each image by (nearly) one-hot weights.

    Attributes:
        widths: the K widths to choose from.
        weights: (B, K); one-hot forward, soft gradient (straight-through) while a gate is trained.
    """

    widths: tuple[int, ...]
    weights: Tensor

    @property
    def largest(self) -> int:
        return max(self.widths)

    def shares(self) -> list[tuple[int, Tensor]]:
        """Each distinct value with the weight (B,) that every image gives it."""
        return [
            (value, sum(self.weights[:, k] for k, other in enumerate(self.widths) if other == value))  # type: ignore[misc]
            for value in sorted(set(self.widths))
        ]

    def mask(self) -> Tensor:
        """(B, largest): 1 for the channels inside the width chosen for the image, 0 outside."""
        steps = torch.arange(self.largest, device=self.weights.device)
        inside = torch.stack([steps < width for width in self.widths]).to(self.weights.dtype)  # (K, C)
        return self.weights @ inside


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth (Huang et al. 2016) of what a residual block adds: in training each image of (B, ...) is without
    it with a chance of `rate`, and the others have it divided by 1 - `rate`, which keeps its mean."""
    if not rate or not training:
        return branch
    kept = branch.new_empty(len(branch), *([1] * (branch.dim() - 1))).bernoulli_(1 - rate)
    return branch * kept.div_(1 - rate)


def drop_rates(last: float, blocks: int) -> list[float]:
    """The rate of each block: it rises linearly from 0 at the first to `last`."""
    return [last * index / max(blocks - 1, 1) for index in range(blocks)]


Width = int | SoftWidth


def full(width: Width) -> int:
    """The number of channels that are computed: the width itself, or the widest of a soft width."""
    return width if isinstance(width, int) else width.largest


def masked(x: Tensor, width: Width) -> Tensor:
    """Zero the channels (dimension 1 of (B, C, ...)) outside a soft width; an int width needs no mask."""
    if isinstance(width, int):
        return x
    mask = width.mask()
    return x * mask.reshape(*mask.shape, *([1] * (x.dim() - 2)))


def times(width: Width, factor: int) -> Width:
    """A width that is a fixed multiple of another."""
    if isinstance(width, int):
        return width * factor
    return SoftWidth(tuple(factor * w for w in width.widths), width.weights)


def mixed(value: SoftWidth, run: Callable[[int], Tensor]) -> Tensor:
    """What `run` gives at the value chosen for each image, (B, ...): every value is run, results are weighted."""
    total: Tensor | None = None
    for option, share in value.shares():
        y = run(option)
        y = y * share.reshape(-1, *([1] * (y.dim() - 1)))
        total = y if total is None else total + y
    assert total is not None
    return total


def rows(parameter: Tensor, count: int) -> Tensor:
    """The first `count` rows; the parameter itself where that is all of them (no view to make)."""
    return parameter if parameter.shape[0] == count else parameter[:count]


def prefix(weight: Tensor, out: int, inp: int) -> Tensor:
    """`weight[:out, :inp]`, the slice that a sub-network uses (Li et al. 2021, sec. 3.1)."""
    if weight.shape[0] == out and weight.shape[1] == inp:
        return weight
    return weight[:out, :inp]


def centre(weight: Tensor, kernel: int) -> Tensor:
    """The centre window of a larger kernel: (O, I, K, K) to (O, I, kernel, kernel)."""
    margin = (weight.shape[-1] - kernel) // 2
    return weight if margin == 0 else weight[..., margin : margin + kernel, margin : margin + kernel]


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, out: Width, stride: int, padding: int) -> Tensor:
    """Dense convolution of the channels that arrive by the leading `out` filters: (B, I, H, W) to (B, out, H', W')."""
    count = full(out)
    bias = None if bias is None else rows(bias, count)
    y = F.conv2d(x, prefix(weight, count, x.shape[1]), bias, stride, padding)
    return y if bias is None else masked(y, out)


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Depth-wise convolution of the channels that arrive by the leading filters."""
    channels = x.shape[1]
    return F.conv2d(x, rows(weight, channels), None, stride, padding, 1, channels)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: int | None = None) -> Tensor:
    """Linear layer over the features that arrive: (..., I) to (..., out), or to all outputs."""
    count = weight.shape[0] if out is None else out
    return F.linear(x, prefix(weight, count, x.shape[-1]), None if bias is None else rows(bias, count))
