"""What a sub-network of a Vision Transformer is extracted to: ordinary layers of fixed width, no trace of slicing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.slicing.attention import PlainAttention
from bench.slicing.ops import drop_path
from bench.slicing.supernet import Features
from bench.slicing.tokens import carried


class PlainEmbedding(nn.Module):
    """Image to tokens: patches by a convolution, the class token in front, the position embedding added."""

    def __init__(self, patches: nn.Conv2d, token: Tensor, position: Tensor) -> None:
        super().__init__()
        self.patches = patches
        self.token, self.position = nn.Parameter(token), nn.Parameter(position)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, N, D)."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat((self.token.expand(x.shape[0], -1, -1), patches), dim=1) + self.position


class PlainBlock(nn.Module):
    """A pre-norm transformer block of fixed widths, over all the channels that it is given."""

    def __init__(
        self,
        norm1: nn.LayerNorm,
        attention: PlainAttention,
        norm2: nn.LayerNorm,
        fc1: nn.Linear,
        fc2: nn.Linear,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1, self.attention = norm1, attention
        self.norm2, self.fc1, self.fc2 = norm2, fc1, fc2

    def forward(self, x: Tensor) -> Tensor:
        return self.feed_forward(x + drop_path(self.attention(self.norm1(x)), self.drop_path, self.training))

    def feed_forward(self, x: Tensor) -> Tensor:
        """The second half of the block: each token by itself, (B, N, D) to the same."""
        return x + drop_path(self.fc2(F.gelu(self.fc1(self.norm2(x)))), self.drop_path, self.training)


class PlainStage(nn.Module):
    """Blocks over the first `width` channels of the residual stream.

    Their residual additions are partial: channels from `width` on leave the stage as they came. A stage's blocks share
    one width, so the stream is split once in front of them and joined once behind them.
    """

    def __init__(self, blocks: list[PlainBlock], width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.width = width

    def forward(self, stream: Tensor) -> Tensor:
        return carried(self.blocks(stream[..., : self.width]), stream)


class PlainHead(nn.Module):
    """Norm and classifier of the class token: (B, N, D) to (B, classes)."""

    def __init__(self, norm: nn.LayerNorm, linear: nn.Linear) -> None:
        super().__init__()
        self.norm, self.linear = norm, linear

    def forward(self, stream: Tensor) -> Tensor:
        return self.linear(self.norm(stream[:, 0]))


class WithFeatures(nn.Module):
    """Plain layers in front of a gate: the stream, and the same for the gate to read."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> tuple[Tensor, Features]:
        stream = self.layers(x)
        return stream, Features(stream)
