"""What the Vision Transformers of this family are made of, and which sub-networks each may run (see `presets.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from bench.slicing.choice import Choice, ChoiceSpace, Decision, Stage

DIMENSIONS = ("heads", "mlp", "embedding")


@dataclass(frozen=True)
class ViTConfig:
    """What a sliced Vision Transformer is made of.

    Attributes:
        options: what a gate chooses from, cheapest first: (heads, MLP hidden width, embedding). The last is the full
            network, so its embedding is the stream's width D.
        stages: number of blocks of each network stage.
        gated_from: the first stage that a gate decides; those in front of it run at `options[0]` in routed networks.
        gate_hidden: width of each gate's own hidden layer.
        drop_path: chance that training leaves out what the last block adds (`ops.drop_rates`).
    """

    image_size: int
    patch: int
    head_dim: int
    options: tuple[tuple[int, int, int], ...]
    stages: tuple[int, ...] = (3, 3, 3, 3)
    gated_from: int = 0
    gate_hidden: int = 32
    drop_path: float = 0.0

    @property
    def channels(self) -> int:
        """D, the width of the residual stream."""
        return self.options[-1][2]

    @property
    def tokens(self) -> int:
        """N: one for each patch, and the class token."""
        return (self.image_size // self.patch) ** 2 + 1

    def space(self) -> ChoiceSpace:
        values = [tuple(sorted(set(column))) for column in zip(*self.options, strict=True)]
        dimensions = tuple(zip(DIMENSIONS, values, strict=True))
        stages = tuple(Stage(f"stage{index}", dimensions) for index in range(len(self.stages)))
        rungs = [tuple(v.index(x) for v, x in zip(values, option, strict=True)) for option in self.options]
        fixed, gated = (rungs[0],) * self.gated_from, range(self.gated_from, len(stages))
        decisions = tuple(Decision(stage, tuple((rung,) for rung in rungs)) for stage in gated)
        ladder = tuple(Choice(fixed + (rung,) * len(gated)) for rung in rungs)
        return ChoiceSpace(stages, fixed, decisions, ladder, prefix_statistics=False)


STREAM = 0  # the stage of the space that holds the embedding; block i is stage i + 1


@dataclass(frozen=True)
class NestedConfig(ViTConfig):
    """As `ViTConfig`, one block a stage; `options` is the ladder, and there are no gates."""

    def space(self) -> ChoiceSpace:
        heads, hidden, channels = (tuple(sorted(set(column))) for column in zip(*self.options, strict=True))
        stream = Stage("stream", (("embedding", channels), ("leading", (0, 1))))
        block = (("heads", heads), ("mlp", hidden))
        stages = (stream, *(Stage(f"block{index}", block) for index in range(len(self.stages))))
        ladder = tuple(
            Choice(((channels.index(c), 1), *[(heads.index(h), hidden.index(m))] * len(self.stages)))
            for h, m, c in self.options
        )
        return ChoiceSpace(stages, ladder[0].indices, (), ladder, prefix_statistics=False)
