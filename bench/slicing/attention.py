"""Multi-head self-attention whose heads are sliced.

The rows of the query, key and value weights are stored as (heads, 3, head_dim), so the first h heads are one row
prefix, and the columns of the projection as (heads, head_dim), so they are one column prefix (DESIGN 2). A checkpoint
that stores (3, heads, head_dim), as timm's do, has its rows permuted when it is loaded.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bench.slicing.ops import Width, full, masked
from bench.slicing.tokens import TokenLinear


def attention_cost(tokens: int, width: int, heads: int, head_dim: int) -> int:
    """Multiply-adds of self-attention for one image: query, key and value, both products, and the projection."""
    inner = heads * head_dim
    return 3 * tokens * width * inner + 2 * tokens * tokens * inner + tokens * inner * width


def attend(qkv: Tensor, heads: int, head_dim: int) -> Tensor:
    """Scaled dot-product attention of packed rows: (B, N, heads * 3 * head_dim) to (B, heads, N, head_dim)."""
    batch, tokens, _ = qkv.shape
    query, key, value = qkv.reshape(batch, tokens, heads, 3, head_dim).permute(3, 0, 2, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(query, key, value)


class SlicedAttention(nn.Module):
    """Self-attention by the leading heads, from and to the leading channels of the stream.

    Args:
        channels: largest width of the stream.
        heads: largest number of heads, each of `head_dim` channels at every width.
    """

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = TokenLinear(channels, heads * 3 * head_dim)
        self.proj = TokenLinear(heads * head_dim, channels)

    def forward(self, x: Tensor, heads: Width, out: Width) -> Tensor:
        """(B, N, C) to (B, N, full(out))."""
        count = full(heads)
        qkv = self.qkv(x, count * 3 * self.head_dim)  # (B, N, h * 3 * d)
        mixed = masked(attend(qkv, count, self.head_dim), heads)  # (B, h, N, d): heads are what the mask covers
        return self.proj(mixed.transpose(1, 2).flatten(2), out)

    def extract(self, heads: int, width: int) -> PlainAttention:
        inner = heads * self.head_dim
        return PlainAttention(self.qkv.extract(width, 3 * inner), self.proj.extract(inner, width), heads)


class PlainAttention(nn.Module):
    """Self-attention of a fixed number of heads, with ordinary linear layers; qkv rows are (heads, 3, head_dim)."""

    def __init__(self, qkv: nn.Linear, proj: nn.Linear, heads: int) -> None:
        super().__init__()
        self.qkv, self.proj = qkv, proj
        self.heads, self.head_dim = heads, proj.in_features // heads

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.qkv(x))

    def mix(self, qkv: Tensor) -> Tensor:
        """Attention and projection of packed rows: (B, N, heads * 3 * head_dim) to (B, N, D)."""
        return self.proj(attend(qkv, self.heads, self.head_dim).transpose(1, 2).flatten(2))
