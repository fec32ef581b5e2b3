"""Choices that are bound to more than a sub-network: to weights for each image, or to a way of normalising.

A layer asks any choice for widths and for keys of statistics (`AnyChoice`). A `SoftChoice` answers with masks and
mixtures for each image, the others with keys under which batch norm collects statistics or uses those of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.slicing.choice import Choice
from bench.slicing.norms import BoundKey, Moments, PrefixBatchNorm2d, by_batch
from bench.slicing.ops import SoftWidth, Width


@dataclass(frozen=True)
class SoftKey:
    """Statistics chosen for each image: `weights` (B, K) over `keys`. Channels outside its width come out zero."""

    keys: tuple[str, ...]
    weights: Tensor

    def normalise(self, norm: PrefixBatchNorm2d, x: Tensor) -> Tensor:
        scales, shifts = [], []
        for key in self.keys:
            mean, var = norm.statistics(key)
            weight, bias = norm.affine(key, len(mean))
            scale = weight * torch.rsqrt(var + norm.eps)
            outside = (0, x.shape[1] - len(mean))
            scales.append(F.pad(scale, outside))
            shifts.append(F.pad(bias - mean * scale, outside))
        scale, shift = self.weights @ torch.stack(scales), self.weights @ torch.stack(shifts)  # (B, C)
        return x * scale[:, :, None, None] + shift[:, :, None, None]


@dataclass(frozen=True)
class CollectingKey:
    """A key under which a norm adds to `moments` what it sees, and normalises by the batch's own statistics."""

    key: str
    moments: dict[tuple[PrefixBatchNorm2d, str], Moments]

    def normalise(self, norm: PrefixBatchNorm2d, x: Tensor) -> Tensor:
        wide = x.detach().double()
        seen = Moments(x.numel() / x.shape[1], wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)))
        slot = (norm, self.key)
        self.moments[slot] = self.moments[slot].merge(seen) if slot in self.moments else seen
        return by_batch(norm, x, self.key)

    def statistics(self, norm: PrefixBatchNorm2d) -> tuple[Tensor, Tensor]:
        return self.moments[norm, self.key].mean_var()

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True)
class BatchKey:
    """A key under which a norm normalises by the batch's own statistics and keeps nothing."""

    key: str

    def normalise(self, norm: PrefixBatchNorm2d, x: Tensor) -> Tensor:
        return by_batch(norm, x, self.key)


@dataclass(frozen=True)
class SoftChoice:
    """A choice for each image: from stage `depth` on, what one gate decided: one of K options by `weights` (B, K).

    Stage II runs the supernet under it (Li et al. 2021, sec. 3.3): every channel is computed and then masked, so it
    saves nothing; it exists to carry a gradient to the gate and as the control of sliced inference.

    Attributes:
        depth: the stages in front of the gate. They run under `front`, which is itself soft where other gates decided
            them, or under what all options share where it is None.
    """

    options: tuple[Choice, ...]
    weights: Tensor
    depth: int
    front: Choice | SoftChoice | None = None

    @property
    def shared(self) -> Choice | SoftChoice:
        """What the stages in front of the gate run under."""
        return self.options[0] if self.front is None else self.front

    def key(self, depth: int) -> str | BoundKey:
        if depth <= self.depth:
            return self.shared.key(depth)
        assert not isinstance(self.front, SoftChoice), "statistics of prefixes serve one gate (see ChoiceSpace)"
        return SoftKey(tuple(option.key(depth) for option in self.options), self.weights)

    def pick(self, stage: int, position: int, values: tuple[int, ...]) -> Width:
        if stage < self.depth:
            return self.shared.pick(stage, position, values)
        widths = tuple(option.pick(stage, position, values) for option in self.options)
        return widths[0] if len(set(widths)) == 1 else SoftWidth(widths, self.weights)


@dataclass(frozen=True)
class CollectingChoice:
    """A choice under which every batch norm collects pooled moments instead of using or moving its statistics."""

    choice: Choice
    moments: dict[tuple[PrefixBatchNorm2d, str], Moments] = field(default_factory=dict)

    def key(self, depth: int) -> CollectingKey:
        return CollectingKey(self.choice.key(depth), self.moments)

    def pick(self, stage: int, position: int, values: tuple[int, ...]) -> int:
        return self.choice.pick(stage, position, values)


@dataclass(frozen=True)
class BatchChoice:
    """A choice under which every batch norm uses the batch's own statistics: also one that has none of its own."""

    choice: Choice

    def key(self, depth: int) -> BatchKey:
        return BatchKey(self.choice.key(depth))

    def pick(self, stage: int, position: int, values: tuple[int, ...]) -> int:
        return self.choice.pick(stage, position, values)
