"""Nested Vision Transformers: narrower ones are slices of a wide one, its residual stream included.

What MatFormer, HydraViT and Scala slice (METHODS 13), in one family: the embedding, through patches, position, norms
and classifier, is one number for the whole network; heads and MLP hidden width may differ from block to block. The
ladder takes k heads, k times `head_dim` channels and the same part of each MLP, as HydraViT and, by its width ratio,
Scala do. The official code of Scala keeps the number of heads and narrows them; here heads keep their width under every
scheme, so that all three are compared on one family (multiply-adds are the same).

A slice is a range, not a count: it holds the leading channels, heads and hidden units or, where the choice says so,
the trailing ones. Scala's isolated activation (its code: models_scala.py) runs the widths between the smallest and the
full network on the trailing slice, so that the smallest shares less with them.

The full network is DeiT in timm's layout, as in `vit.py`, whose parameters this family has.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.vit.plain import PlainBlock, PlainEmbedding, PlainHead
from bench.models.vit.space import STREAM, NestedConfig, ViTConfig
from bench.models.vit.units import Block, Embedding, Head
from bench.slicing.attention import PlainAttention, SlicedAttention, attend
from bench.slicing.choice import Choice, ChoiceSpace, OneChoice
from bench.slicing.layers import Shape, SlicedLinear
from bench.slicing.norms import SlicedLayerNorm
from bench.slicing.ops import drop_path, drop_rates
from bench.slicing.supernet import Cost, Segment, Supernet, Unit


def part(count: int, full: int, leading: bool) -> slice:
    """The leading, or else the trailing, `count` of `full`."""
    return slice(0, count) if leading else slice(full - count, full)


def times(units: slice, factor: int) -> slice:
    """The range of numbers that belong to a range of units, `factor` to each."""
    return slice(units.start * factor, units.stop * factor)


def linear(x: Tensor, layer: SlicedLinear, out: slice, inp: slice) -> Tensor:
    """(..., inputs in the slice) to (..., outputs in the slice)."""
    return F.linear(x, layer.weight[out, inp], layer.bias[out])


def layer_norm(x: Tensor, norm: SlicedLayerNorm, channels: slice) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight[channels], norm.bias[channels], norm.eps)


@torch.no_grad()
def plain_linear(layer: SlicedLinear, out: slice, inp: slice) -> nn.Linear:
    """The ordinary layer with copies of a slice."""
    weight, bias = layer.weight[out, inp], layer.bias[out]
    plain: nn.Linear = nn.utils.skip_init(nn.Linear, *reversed(weight.shape), device=weight.device)  # type: ignore[assignment]
    plain.weight.copy_(weight)
    plain.bias.copy_(bias)
    return plain


@torch.no_grad()
def plain_norm(norm: SlicedLayerNorm, channels: slice) -> nn.LayerNorm:
    plain = nn.LayerNorm(channels.stop - channels.start, norm.eps, device=norm.weight.device)
    plain.weight.copy_(norm.weight[channels])
    plain.bias.copy_(norm.bias[channels])
    return plain


class NestedUnit(Unit):
    """A unit that reads or writes the stream. There are no gates here, so no choice is soft."""

    space: ChoiceSpace
    channels: int

    def stream(self, choice: OneChoice) -> slice:
        """The channels of the full stream that exist under a choice."""
        count = self.space.width(choice, STREAM, "embedding")
        return part(count, self.channels, self.leading(choice))

    def leading(self, choice: OneChoice) -> bool:
        return bool(self.space.width(choice, STREAM, "leading"))


class NestedEmbedding(Embedding, NestedUnit):
    """Image to tokens of the width that the choice says."""

    def __init__(self, config: ViTConfig, space: ChoiceSpace, input_channels: int) -> None:
        super().__init__(config, input_channels)
        self.space, self.channels = space, config.channels

    def forward(self, x: Tensor, choice: OneChoice) -> Tensor:
        self.check(tuple(x.shape[1:]))
        stream, conv = self.stream(choice), self.patches
        weight, bias = conv.weight[stream], conv.bias[stream]  # type: ignore[index]
        patches = F.conv2d(x, weight, bias, conv.stride).flatten(2).transpose(1, 2)  # (B, N - 1, D')
        token = self.token[..., stream].expand(x.shape[0], -1, -1)
        return torch.cat((token, patches), dim=1) + self.position[..., stream]

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        madds, pooled, (full, tokens, one) = super().cost(choice, shape)
        width = self.space.width(choice, STREAM, "embedding")
        return Cost(madds * width // full, pooled, (width, tokens, one))

    def plain(self, choice: OneChoice) -> nn.Module:
        stream, conv = self.stream(choice), self.patches
        width, patch = stream.stop - stream.start, self.patches.stride
        copy = nn.utils.skip_init(nn.Conv2d, conv.in_channels, width, patch, patch, device=conv.weight.device)  # type: ignore[arg-type]
        with torch.no_grad():
            copy.weight.copy_(conv.weight[stream])  # type: ignore[operator]
            copy.bias.copy_(conv.bias[stream])  # type: ignore[operator, index]
        token, position = self.token[..., stream], self.position[..., stream]
        return PlainEmbedding(copy, token.detach().clone(), position.detach().clone())  # type: ignore[arg-type]


class NestedBlock(NestedUnit):
    """A transformer block over the stream as it arrives, by a slice of its heads and hidden units."""

    def __init__(self, config: ViTConfig, space: ChoiceSpace, stage: int) -> None:
        super().__init__()
        self.space, self.stage = space, stage
        self.heads, self.hidden, self.channels = config.options[-1]
        rate = drop_rates(config.drop_path, len(config.stages))[stage - 1]
        self.block = Block(self.channels, self.heads, config.head_dim, self.hidden, rate)

    def parts(self, choice: OneChoice) -> tuple[slice, slice, slice]:
        """(heads, hidden units, channels of the stream) that run under a choice."""
        leading = self.leading(choice)
        heads, hidden = (self.space.width(choice, self.stage, dimension) for dimension in ("heads", "mlp"))
        return part(heads, self.heads, leading), part(hidden, self.hidden, leading), self.stream(choice)

    def forward(self, x: Tensor, choice: OneChoice) -> Tensor:
        """(B, N, D') to the same."""
        (heads, hidden, stream), block = self.parts(choice), self.block
        y = attention(layer_norm(x, block.norm1, stream), block.attention, heads, stream)
        x = x + drop_path(y, block.drop_path, self.training)
        y = F.gelu(linear(layer_norm(x, block.norm2, stream), block.fc1, hidden, stream))
        return x + drop_path(linear(y, block.fc2, stream, hidden), block.drop_path, self.training)

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        heads, hidden = (self.space.width(choice, self.stage, dimension) for dimension in ("heads", "mlp"))
        return Cost(self.block.cost(shape[1], heads, hidden, shape[0]), 0, shape)

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        (heads, hidden, stream), block = self.parts(choice), self.block
        rows, columns = head_parts(block.attention, heads)
        qkv = plain_linear(block.attention.qkv, rows, stream)
        proj = plain_linear(block.attention.proj, stream, columns)
        return PlainBlock(
            plain_norm(block.norm1, stream),
            PlainAttention(qkv, proj, heads.stop - heads.start),
            plain_norm(block.norm2, stream),
            plain_linear(block.fc1, hidden, stream),
            plain_linear(block.fc2, stream, hidden),
            block.drop_path,
        )


def head_parts(layer: SlicedAttention, heads: slice) -> tuple[slice, slice]:
    """Rows of the query, key and value weights and columns of the projection that belong to some heads."""
    return times(heads, 3 * layer.head_dim), times(heads, layer.head_dim)


def attention(x: Tensor, layer: SlicedAttention, heads: slice, stream: slice) -> Tensor:
    """Self-attention by some heads: (B, N, D') to the same."""
    rows, columns = head_parts(layer, heads)
    qkv = linear(x, layer.qkv, rows, stream)
    mixed = attend(qkv, heads.stop - heads.start, layer.head_dim)  # (B, h, N, d)
    return linear(mixed.transpose(1, 2).flatten(2), layer.proj, stream, columns)


class NestedHead(Head, NestedUnit):
    """Norm and classifier of the class token: its input is sliced, its output static."""

    def __init__(self, config: ViTConfig, space: ChoiceSpace, classes: int) -> None:
        super().__init__(config.channels, classes)
        self.space, self.channels, self.classes = space, config.channels, slice(0, classes)

    def forward(self, x: Tensor, choice: OneChoice) -> Tensor:
        stream = self.stream(choice)
        return linear(layer_norm(x[:, 0], self.norm, stream), self.linear, self.classes, stream)

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        return Cost(shape[0] * self.classes.stop, 0, (self.classes.stop, 1, 1))

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        stream = self.stream(choice)
        return PlainHead(plain_norm(self.norm, stream), plain_linear(self.linear, self.classes, stream))


def build(config: NestedConfig, classes: int, input_channels: int) -> Supernet:
    """The supernet of a configuration."""
    space = config.space()
    blocks = [NestedBlock(config, space, 1 + index) for index in range(len(config.stages))]
    units: list[Any] = [NestedEmbedding(config, space, input_channels), *blocks, NestedHead(config, space, classes)]
    return Supernet(space, [Segment(units, decides=False)], input_channels)
