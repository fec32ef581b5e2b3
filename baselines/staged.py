"""A preset's full network as plain pieces: stem, blocks and head, between which dynamic baselines take decisions."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.data.dataset import Dataset
from bench.models.mobilenet.units import Depthwise
from bench.models.plain.cut import pieces
from bench.models.plain.network import whole_of
from bench.models.vit.plain import PlainStage
from bench.profilers.madds import executed_madds
from bench.slicing.supernet import Supernet, to_channels_last


class Staged(nn.Module):
    """An ordinary network in pieces: (B, C, H, W) through stem, blocks and head to (B, classes).

    channel: which dimension of the maps between them holds the channels: 1, or 3 where they are (B, H, W, C).
    """

    def __init__(self, stem: nn.Module, blocks: Iterable[nn.Module], head: nn.Module, channel: int = 1) -> None:
        super().__init__()
        self.channel = channel
        self.stem, self.blocks, self.head = stem, nn.Sequential(*blocks), head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def staged(net: Supernet) -> Staged:
    """The widest network of the model's ladder, extracted, open to training, channels last.

    A block is a depth-wise separable pair, a bottleneck or a transformer block; in a family of somebody else's, a unit;
    in a plain network, what lies between two of its stages. Raises `UserError` for one that cannot be cut so.
    """
    whole = whole_of(net)
    if whole is not None:
        stem, *middle, head = pieces(copy.deepcopy(whole.network), whole.stages)
        channel = 3 if getattr(whole.network, "output_fmt", None) == "NHWC" else 1
        return to_channels_last(Staged(stem, middle, head, channel).requires_grad_(True).train())  # type: ignore[return-value]
    choice = net.space.uniform_choices[-1]
    units = [unit for segment in net.segments for unit in segment.units]  # type: ignore[union-attr, attr-defined]
    stem, *middle, head = [unit.extract(choice) for unit in units]
    blocks: list[nn.Module] = []
    front: list[nn.Module] = []  # the first half of a block whose second half is another unit
    for unit, plain in zip(units[1:-1], middle, strict=True):
        if isinstance(unit, Depthwise):
            front = [plain]
        elif isinstance(plain, PlainStage):
            blocks += plain.blocks  # the full network has no idle channels
        elif type(plain) is not nn.Sequential or len(plain):  # what a gate reads is no layer
            blocks.append(nn.Sequential(*front, plain) if front else plain)
            front = []
    return to_channels_last(Staged(stem, blocks, head).requires_grad_(True).train())


@torch.no_grad()
def costs_of(pieces: Iterable[nn.Module], x: Tensor) -> tuple[list[int], list[Tensor]]:
    """Executed multiply-adds of each of these modules, run one behind the other on one image, and what each returns."""
    costs, outputs = [], []
    for piece in pieces:
        was_training = piece.training
        piece.eval()
        costs.append(executed_madds(piece, x))
        x = piece(x)
        outputs.append(x)
        piece.train(was_training)
    return costs, outputs


def pooled(x: Tensor) -> Tensor:
    """Mean over positions: (B, C, H, W) or tokens (B, N, C) to (B, C)."""
    return x.mean((2, 3)) if x.dim() == 4 else x.mean(1)


def require_pairs(method: str, batch_size: int, gate_epochs: int) -> None:
    """Raises `UserError` for batches of one image where gates are trained: their batch norm has nothing to compare."""
    if gate_epochs > 0 and batch_size < 2:
        raise UserError(f"{method} trains gates with batch norm, so train.batch_size must be at least 2")


def require_classes(method: str, data: Dataset) -> None:
    """Raises `UserError` for data that are not classified."""
    if data.task != "classification":
        raise UserError(f"{method} serves classification only, and the task of {data.id} is {data.task}")
