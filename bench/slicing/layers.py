"""Sliced layers: convolutions and linear layers that hold their parameters at the largest width and nothing else.

Each layer can run sliced (`layer(x, width)`), say what it costs, and be extracted: copied at one width into the
ordinary torch layer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bench.slicing import ops
from bench.slicing.ops import Width

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
