"""`token_prune`: a Vision Transformer that drops tokens, as many as each image can do without.

Known (Liang et al., ICLR 2022, arXiv 2202.07800, "EViT", and its code): a token's importance is the attention that
the class token pays to it, averaged over the heads of one block; the least important tokens are dropped between that
block's attention and its MLP, and the rest of the network runs on those that are left. EViT keeps a fixed share of the
tokens of every image, so every image costs the same.

Our design, to make the number depend on the image: it keeps the smallest number of tokens, out of a short list, that
holds more than a threshold's share of the class token's attention to the patches (A-ViT, Yin et al. 2022, adapts to the
image too, by halting tokens with a learnt score). There is one drop, dropped tokens are not fused into one, and a
network that is trained with a number drawn anew at each step serves every budget.

Fused attention does not show its weights, so the class token's row is computed once more: heads * head_dim * N
multiply-adds, which are claimed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.one_decision import (
    OneDecision,
    OneDecisionPoint,
    State,
    check_budgets,
    fit_thresholds,
    fitted_thresholds,
)
from bench.core.errors import UserError
from bench.core.ranges import Fractions
from bench.core.spec import RunSpec
from bench.data.dataset import Batch
from bench.methods import Method, Run, build_model, fresh_model, plain_network, train_network, trainable_copy
from bench.models.plain.as_vit import as_vit
from bench.models.plain.network import whole_of
from bench.models.preset import ALONE, SLICED
from bench.models.vit.plain import PlainBlock, PlainEmbedding, PlainHead, PlainStage
from bench.points import OperatingPoint
from bench.profilers.madds import executed_madds
from bench.slicing.attention import attention_cost
from bench.slicing.extract import parameters_of
from bench.slicing.ops import drop_path
from bench.slicing.supernet import Supernet, View
from bench.training.loop import stable_seed


def class_attention(qkv: Tensor, heads: int, head_dim: int) -> Tensor:
    """What the class token, the first one, attends to: packed rows (B, N, heads * 3 * head_dim) to (B, N - 1), the mean
    over heads of its attention to each other token."""
    batch, tokens, _ = qkv.shape
    query, key, _ = qkv.reshape(batch, tokens, heads, 3, head_dim).permute(3, 0, 2, 1, 4).unbind(0)
    logits = query[:, :, :1] @ key.transpose(2, 3) * head_dim**-0.5  # (B, heads, 1, N)
    return logits.softmax(-1)[:, :, 0, 1:].mean(1)


def kept_tokens(stream: Tensor, order: Tensor, count: int) -> Tensor:
    """(B, N, D) to (B, 1 + count, D): the class token and the first `count` of the others, by `order` (B, N - 1)."""
    if count == order.shape[1]:
        return stream
    first = order[:, :count, None].expand(-1, -1, stream.shape[2])
    return torch.cat((stream[:, :1], stream[:, 1:].gather(1, first)), dim=1)


class TokenPruned(OneDecision):
    """A plain Vision Transformer that drops tokens in one of its blocks.

    Args:
        network: the transformer, as it is extracted.
        place: index of the block that drops. counts: numbers of patch tokens that may be kept, ascending; the last is
            all of them.
    """

    decides = "token count"

    def __init__(self, network: nn.Module, place: int, counts: Sequence[int]) -> None:
        super().__init__()
        parts = list(network.children())
        stages = [part for part in parts if isinstance(part, PlainStage)]
        self.embedding: PlainEmbedding = parts[0]  # type: ignore[assignment]
        self.blocks = nn.ModuleList([block for stage in stages for block in stage.blocks])
        self.head: PlainHead = parts[-1]  # type: ignore[assignment]
        self.place, self.counts = place, tuple(counts)

    @property
    def chain(self) -> list[PlainBlock]:
        """The blocks, in their order."""
        return list(self.blocks)  # type: ignore[arg-type]

    def begin(self, x: Tensor) -> tuple[State, Tensor]:
        """The state is the stream (B, N, D) behind the dropping block's attention, and the patch tokens in the order of
        their importance (B, N - 1); the confidence, the share of attention that each count of them holds."""
        stream = self.embedding(x)
        for block in self.chain[: self.place]:
            stream = block(stream)
        dropping = self.chain[self.place]
        attention = dropping.attention
        qkv = attention.qkv(dropping.norm1(stream))
        importance, order = class_attention(qkv, attention.heads, attention.head_dim).sort(1, descending=True)
        held = importance.cumsum(1) / importance.sum(1, keepdim=True)
        ends = [count - 1 for count in self.counts[:-1]]
        mixed = drop_path(attention.mix(qkv), dropping.drop_path, self.training)
        return (stream + mixed, order), held[:, ends]

    def finish(self, state: State, option: int) -> Tensor:
        stream, order = state
        stream = self.chain[self.place].feed_forward(kept_tokens(stream, order, self.counts[option]))
        for block in self.chain[self.place + 1 :]:
            stream = block(stream)
        return self.head(stream)

    def cost(self, option: int) -> int:
        """Multiply-adds of one image: METHODS 3.4's formula with fewer tokens behind the drop, and the class token's
        row of attention."""
        everything, kept = self.embedding.position.shape[1], 1 + self.counts[option]
        madds = (everything - 1) * self.embedding.patches.weight.numel() + self.head.linear.weight.numel()
        for index, block in enumerate(self.chain):
            width, hidden = block.fc1.in_features, block.fc1.out_features
            attending = everything if index <= self.place else kept
            feeding = everything if index < self.place else kept
            madds += attention_cost(attending, width, block.attention.heads, block.attention.head_dim)
            madds += 2 * feeding * width * hidden
        return madds + everything * self.chain[self.place].attention.proj.in_features


@dataclass(frozen=True)
class TokenPruneOptions:
    """
    Attributes:
        budgets: mean multiply-adds of an image as fractions of the full network's, one operating point each; met on
            the validation split.
        keep: shares of the patch tokens that an image may keep, rounded up; all of them is always among them.
        place: index of the block that drops tokens; null: behind a quarter of the blocks, EViT's first place.
    """

    budgets: Fractions = (0.8, 0.6)
    keep: Fractions = (0.125, 0.25, 0.375, 0.5, 0.75)
    place: int | None = None

    def counts(self, patches: int) -> tuple[int, ...]:
        """Numbers of tokens that may be kept, out of so many patches."""
        return tuple(sorted({math.ceil(share * patches) for share in (*self.keep, 1.0)}))


class TokenPrune(Method):
    """A point for each budget, all of one network."""

    name = "token_prune"
    kind = "dynamic"
    paper = "importance by Liang et al., ICLR 2022, arXiv 2202.07800; the number for each image is this suite's"
    trains = (SLICED, ALONE)
    families = ("vit", "plain")
    Options = TokenPruneOptions

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        options: TokenPruneOptions = self.options(spec)
        check_budgets(options.budgets, pruned(net, options, image_size).cost(0), full_madds(net, image_size))

    def train(self, run: Run) -> None:
        net, size = build_model(run), run.data.image_size
        network = pruned(net, run.options, size)
        train_with_random_counts(network, run)
        fit_thresholds(network, costs_of(network), full_madds(net, size), run)

    def points(self, run: Run) -> list[OperatingPoint]:
        network = pruned(fresh_model(run), run.options, run.data.image_size)
        run.restore("pruned", {"network": network})
        costs, thresholds = costs_of(network.eval()), fitted_thresholds(run)
        params = [parameters_of(network)] * len(costs)
        return [OneDecisionPoint(name, {"extracted": network}, t, costs, params) for name, t in thresholds.items()]


def costs_of(network: TokenPruned) -> list[int]:
    """Multiply-adds of one image by the option that it takes."""
    return [network.cost(option) for option in range(len(network.counts))]


def full_madds(net: Supernet, image_size: int) -> int:
    """Multiply-adds of one image in the full network, without a drop."""
    parameter = next(net.parameters())
    x = torch.zeros(1, net.input_channels, image_size, image_size, device=parameter.device)
    return executed_madds(View(net, net.space.largest).eval(), x)


def pruned(net: Supernet, options: TokenPruneOptions, image_size: int) -> TokenPruned:
    """The full network of a preset, with a drop. Raises `UserError` for a block that it does not have, and for a plain
    network that is no Vision Transformer of the suite's layout."""
    plain = plain_network(net, net.space.largest)
    if whole_of(net) is not None:
        plain = trainable_copy(as_vit(plain[0], image_size, net.input_channels))  # type: ignore[index]
    depth = sum(len(part.blocks) for part in plain.children() if isinstance(part, PlainStage))
    place = depth // 4 if options.place is None else options.place
    if not 0 <= place < depth:
        raise UserError(f"no block {place}: this network has blocks 0 to {depth - 1}")
    tokens = next(part.position.shape[1] for part in plain.children() if isinstance(part, PlainEmbedding))
    return TokenPruned(plain, place, options.counts(tokens - 1))


def train_with_random_counts(network: TokenPruned, run: Run) -> None:
    """Train on labels; at each step all images keep a number of tokens that is drawn for it."""

    def loss(batch: Batch, index: int) -> Tensor:
        option = random.Random(stable_seed(run.spec.seed, "kept tokens", index)).randrange(len(network.counts))
        return run.loss(network(batch.x, option), batch)

    train_network("pruned", network, run, loss)
