"""A Vision Transformer that looks twice: a narrow round, then all of the network on top of what the first one saw.

The rounds are nested: the first uses the leading heads, hidden units and channels of the same weights. The embedding is
sliced all the way through (patches, tokens, norms, classifier), not idle as in DS-ViT++.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from baselines.one_decision import OneDecision, State
from bench.models.vit.plain import PlainEmbedding
from bench.models.vit.units import Block, Embedding, Head
from bench.slicing.ops import conv2d
from bench.slicing.supernet import Supernet

MOST_PROBABLE = 10


class RoundWidth(NamedTuple):
    """What a round uses of the network: its leading heads, hidden units of each MLP, and channels."""

    heads: int
    hidden: int
    channels: int


def entropy(logits: Tensor) -> Tensor:
    """(B, classes) to (B,): entropy in nats of the ten largest probabilities, which are first scaled to sum to one."""
    likely = logits.softmax(1).topk(min(MOST_PROBABLE, logits.shape[1]), dim=1).values
    likely = likely / likely.sum(1, keepdim=True)
    return -(likely * likely.clamp_min(torch.finfo(likely.dtype).tiny).log()).sum(1)


def sliced_embedding(embedding: Embedding, x: Tensor, channels: int) -> Tensor:
    """Image to tokens of the leading channels: (B, C, H, W) to (B, N, channels)."""
    conv = embedding.patches
    patches = conv2d(x, conv.weight, conv.bias, channels, conv.stride[0], 0).flatten(2).transpose(1, 2)
    token = embedding.token[..., :channels].expand(len(x), -1, -1)
    return torch.cat((token, patches), dim=1) + embedding.position[..., :channels]


class Nested(nn.Module):
    """The weights that both rounds share, taken from a supernet's full network, and those of token recycling."""

    def __init__(self, net: Supernet, first: RoundWidth, second: RoundWidth) -> None:
        super().__init__()
        parts = list(net.modules())
        self.embedding = next(part for part in parts if isinstance(part, Embedding))
        self.blocks = nn.ModuleList([part for part in parts if isinstance(part, Block)])
        self.head = next(part for part in parts if isinstance(part, Head))
        self.recycle = nn.Linear(first.channels, second.channels)
        self.alpha = nn.Parameter(torch.zeros(1))

    def run(self, x: Tensor, width: RoundWidth, recycled: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One round: images to logits and the normalised tokens (B, N, channels) that a next round may recycle."""
        stream = sliced_embedding(self.embedding, x, width.channels)
        if recycled is not None:
            stream = stream + self.alpha * self.recycle(recycled)
        for block in self.blocks:
            stream = block(stream, *width)
        tokens = self.head.norm(stream, width.channels)
        return self.head.linear(tokens[:, 0]), tokens


class PlainRound(nn.Module):
    """One round as ordinary layers; with what it adds of the round before, unless it is the first."""

    def __init__(self, nested: Nested, width: RoundWidth, first: bool) -> None:
        super().__init__()
        self.embedding = plain_embedding(nested.embedding, width.channels)
        self.blocks = nn.Sequential(*[block.extract(*width) for block in nested.blocks])  # type: ignore[operator]
        self.norm = nested.head.norm.extract(width.channels)
        self.linear = nested.head.linear.extract(width.channels)
        self.recycle = nn.Identity() if first else scaled(nested.recycle, nested.alpha)

    def forward(self, x: Tensor, recycled: Tensor | None = None) -> tuple[Tensor, Tensor]:
        stream = self.embedding(x)
        if recycled is not None:
            stream = stream + self.recycle(recycled)
        tokens = self.norm(self.blocks(stream))
        return self.linear(tokens[:, 0]), tokens


@torch.no_grad()
def scaled(linear: nn.Linear, alpha: Tensor) -> nn.Linear:
    """A copy of a linear layer with a factor multiplied into it."""
    plain = nn.Linear(linear.in_features, linear.out_features, device=linear.weight.device)
    plain.weight.copy_(alpha * linear.weight)
    plain.bias.copy_(alpha * linear.bias)
    return plain


@torch.no_grad()
def plain_embedding(embedding: Embedding, channels: int) -> PlainEmbedding:
    """The leading channels of an embedding as ordinary layers, with copies of the weights."""
    whole = embedding.patches
    conv = nn.Conv2d(whole.in_channels, channels, whole.kernel_size, whole.stride, device=whole.weight.device)  # type: ignore[arg-type]
    conv.weight.copy_(whole.weight[:channels])
    conv.bias.copy_(whole.bias[:channels])  # type: ignore[index, union-attr]
    token, position = (part[..., :channels].clone() for part in (embedding.token, embedding.position))
    return PlainEmbedding(conv, token, position)


Round = Callable[..., tuple[Tensor, Tensor]]
"""(x, and in the second round the first one's tokens) to logits and tokens."""


class TwoRounds(OneDecision):
    """Option 0 answers after the first round, option 1 runs the second; one is the surer of the first the lower the
    entropy of its answer. Subclasses hold the rounds."""

    decides = "rounds"

    def rounds(self) -> tuple[Round, Round]:
        raise TypeError(f"{type(self).__name__} has no rounds")

    def begin(self, x: Tensor) -> tuple[State, Tensor]:
        logits, tokens = self.rounds()[0](x)
        return (x, logits, tokens), -entropy(logits)[:, None]

    def finish(self, state: State, option: int) -> Tensor:
        x, logits, tokens = state
        return logits if option == 0 else self.rounds()[1](x, tokens)[0]


class NestedRounds(TwoRounds):
    """Both rounds by slicing the shared weights at run time (form `view`)."""

    def __init__(self, nested: Nested, first: RoundWidth, second: RoundWidth) -> None:
        super().__init__()
        self.nested, self.first, self.second = nested, first, second

    def rounds(self) -> tuple[Round, Round]:
        def first(x: Tensor) -> tuple[Tensor, Tensor]:
            return self.nested.run(x, self.first)

        def second(x: Tensor, recycled: Tensor) -> tuple[Tensor, Tensor]:
            return self.nested.run(x, self.second, recycled)

        return first, second

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The answers of both rounds, each (B, classes): what is trained."""
        early, tokens = self.nested.run(x, self.first)
        return early, self.nested.run(x, self.second, tokens)[0]

    def extract(self) -> PlainRounds:
        return PlainRounds(PlainRound(self.nested, self.first, True), PlainRound(self.nested, self.second, False))

    def costs(self) -> tuple[int, int]:
        """Multiply-adds of an image that stops after the first round, and of one that takes both: METHODS 3.4's formula
        for each, and the projection of the recycled tokens."""
        first, second = self._cost(self.first), self._cost(self.second)
        tokens = self.nested.embedding.position.shape[1]
        return first, first + second + tokens * self.first.channels * self.second.channels

    def _cost(self, width: RoundWidth) -> int:
        tokens = self.nested.embedding.position.shape[1]
        patch = self.nested.embedding.patches.weight[0].numel()
        blocks = sum(block.cost(tokens, *width) for block in self.nested.blocks)  # type: ignore[operator]
        return (tokens - 1) * patch * width.channels + blocks + width.channels * len(self.nested.head.linear.weight)


class PlainRounds(TwoRounds):
    """Both rounds as plain copies (form `extracted`)."""

    def __init__(self, first: PlainRound, second: PlainRound) -> None:
        super().__init__()
        self.first, self.second = first, second

    def rounds(self) -> tuple[Round, Round]:
        return self.first, self.second
