"""Layers over tokens (B, N, D) whose last dimension is sliced, and the idle part of a residual stream.

Idle slicing (Li et al. 2022 name it for DS-ViT++; the mechanism is ours, METHODS 2): a block reads and writes the first
d' channels of the residual stream and normalises over those d'; the others stay idle and are carried unchanged, so the
stream keeps its width D. The width is passed to every layer; under a `SoftWidth` all channels are computed and those
outside an image's width come out zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.slicing import ops
from bench.slicing.layers import SlicedLinear
from bench.slicing.ops import SoftWidth, Width, full


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
