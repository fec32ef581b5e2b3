"""Layers over tokens (B, N, D) whose last dimension is sliced, and the idle part of a residual stream.

Idle slicing (Li et al. 2022 name it for DS-ViT++; the mechanism is ours, METHODS 2): a block reads and writes the first
d' channels of the residual stream and normalises over those d'; the others stay idle and are carried unchanged, so the
stream keeps its width D. The width is passed to every layer; under a `SoftWidth` all channels are computed and those
outside an image's width come out zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.slicing import ops
from bench.slicing.layers import SlicedLinear
from bench.slicing.ops import Width, full


def masked_features(x: Tensor, width: Width) -> Tensor:
    """Zero the features (last dimension of (B, N, C)) outside a soft width; an int width needs no mask."""
    return x if isinstance(width, int) else x * width.mask()[:, None, :]


def active(stream: Tensor, width: Width) -> Tensor:
    """The channels of the residual stream (B, N, D) that a block works on: the first `full(width)`."""
    return stream if stream.shape[-1] == full(width) else stream[..., : full(width)]


def carried(worked: Tensor, stream: Tensor) -> Tensor:
    """The stream after a block: what was worked on, then the idle channels as they were in `stream`."""
    width = worked.shape[-1]
    return worked if width == stream.shape[-1] else torch.cat((worked, stream[..., width:]), dim=-1)


def truncated_normal(*shape: int, std: float) -> nn.Parameter:
    """Weights to start with: normal, cut at two units."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=std, a=-2 * std, b=2 * std))


class TokenLinear(SlicedLinear):
    """A linear layer over the features that arrive to the leading `out` outputs.

    It starts by its fan-in (variance 1 / I): timm's fixed 0.02 is made for wide networks and leaves narrow ones,
    which have as many steps but fewer weights, with next to no signal in their branches.
    """

    def __init__(self, inp: int, out: int) -> None:
        super().__init__(inp, out)
        self.weight = truncated_normal(out, inp, std=inp**-0.5)

    def forward(self, x: Tensor, out: Width | None = None) -> Tensor:
        """(B, N, I) to (B, N, out); to all outputs where `out` is None."""
        width = self.weight.shape[0] if out is None else out
        return masked_features(ops.linear(x, self.weight, self.bias, full(width)), width)
