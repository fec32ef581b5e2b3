"""What a slimmable ResNet is made of, and the sub-networks that follow from it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.errors import UserError
from bench.models.widths import BlockStage
from bench.slicing.choice import Choice, ChoiceSpace, Decision, Stage, StageIndices


@dataclass(frozen=True)
class ResNetConfig:
    """What a slimmable ResNet is made of. Width lists are ascending and, behind the front, of one length.

    Attributes:
        stem: width list of the stem convolution.
        stem_pool: max-pool behind the stem.
        gates: the stages (0 to 3 in ResNet-50) with a gate in front of their first block; a stage without a gate
            follows the gate before it, and what stands in front of the first gate is fixed at its full width.
        group: channels a group of group norm; 0 for batch norm, which serves at most one gate.
        kernels: sizes of the second convolution in all blocks of a sliced stage but its first, ascending; one value
            where it is not elastic. The first block strides, and has 3x3.
        gate_hidden: width of each gate's own hidden layer.
        switchable: batch norm has scales and shifts for each named choice too, not only statistics (Yu et al. 2019).
        expansion: a block returns so many times its inner width: 4 for bottleneck blocks (1x1, 3x3, 1x1), 1 for basic
            blocks (3x3, 3x3).
        front: the stem and so many stages have a single width, at which every sub-network runs them; they are cut off
            as a segment, with a gate behind them or without.
        drop_path: chance that training leaves out what the last block adds (`ops.drop_rates`).
    """

    stem: tuple[int, ...]
    stem_kernel: int
    stem_stride: int
    stem_pool: bool
    stages: tuple[BlockStage, ...]
    gates: tuple[int, ...] = ()
    group: int = 0
    kernels: tuple[int, ...] = (3,)
    gate_hidden: int = 32
    switchable: bool = False
    expansion: int = 4
    front: int = 0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        lists = [self.stem, *(stage.widths for stage in self.stages)]
        fixed = 1 + self.front if self.front else 0
        if {len(widths) for widths in lists[:fixed]} - {1} or len({len(widths) for widths in lists[fixed:]}) > 1:
            raise UserError(
                "the sliced parts of a slimmable ResNet need width lists of one length, and its front single widths"
            )

    def space(self) -> ChoiceSpace:
        """Stage 0 of the space is the stem, stage i + 1 the i-th stage of blocks."""
        stages = (Stage("stem", (("filters", self.stem),)), *map(self._stage, range(len(self.stages))))
        whole = tuple(Choice(option) for option in self._options(range(-1, len(self.stages))))
        if not self.gates:
            return ChoiceSpace(stages, whole[0].indices, (), whole, self.group == 0, self.front and self.front + 1)
        fixed = tuple(stage.last for stage in stages[: self.gates[0] + 1])
        ends = (*self.gates[1:], len(self.stages))
        covered = [range(gate, end) for gate, end in zip(self.gates, ends, strict=True)]
        decisions = tuple(Decision(stages_[0] + 1, self._options(stages_)) for stages_ in covered)
        routed = tuple(Choice(fixed).then(option) for option in decisions[0].options)
        return ChoiceSpace(stages, fixed, decisions, whole if self.group else routed, self.group == 0)

    def has_kernels(self, stage: int) -> bool:
        """Whether a stage has an elastic kernel size: its first block does not, so it must have a second."""
        return len(self.kernels) > 1 and self.stages[stage].blocks > 1 and stage >= self.front

    def arriving(self, stage: int) -> tuple[int, ...]:
        """The widths that a stage may be given by the one in front of it."""
        return tuple(self.expansion * width for width in self.stages[stage - 1].widths) if stage else self.stem

    def leading(self, stage: int) -> int:
        """The channels in front of a stage that are computed in every routed network."""
        is_fixed = stage <= self.gates[0]
        return self.arriving(stage)[-1 if is_fixed else 0]

    def _stage(self, index: int) -> Stage:
        kernels = (("kernel", self.kernels),) if self.has_kernels(index) else ()
        return Stage(f"stage{index}", (("filters", self.stages[index].widths), *kernels))

    def _options(self, stages: Sequence[int]) -> tuple[tuple[StageIndices, ...], ...]:
        """Equal indices in all of these stages (-1 is the stem; 0 in the front, where there is one width), every pair
        of width and kernel, cheapest first."""
        steps, sizes = range(len(self.stages[-1].widths)), range(len(self.kernels))
        options: dict[tuple[StageIndices, ...], float] = {}
        for step, size in itertools.product(steps, sizes):
            at = [(s, step if s >= self.front or not self.front else 0) for s in stages]
            option = tuple((i, size) if s >= 0 and self.has_kernels(s) else (i,) for s, i in at)
            options[option] = sum(self._weight(s, i, size) for s, i in at)
        return tuple(sorted(options, key=lambda option: options[option]))

    def _weight(self, stage: int, step: int, size: int) -> float:
        """Multiply-adds of a stage for each position of the stem's result, its input at full width; to sort by."""
        if stage < 0:
            return self.stem_kernel**2 * self.stem[step]
        plan, inp = self.stages[stage], self.arriving(stage)[-1]
        inner, kernel = plan.widths[step], self.kernels[size] ** 2
        if self.expansion == 1:
            first, other = 9 * inner * (inp + inner) + inp * inner, (9 + kernel) * inner**2
        else:
            first = inner * inp * plan.stride**2 + 9 * inner**2 + self.expansion * inner * (inner + inp)
            other = inner**2 * (2 * self.expansion + kernel)
        scale = 1.0
        for earlier in self.stages[: stage + 1]:
            scale /= earlier.stride**2
        return scale * (first + (plan.blocks - 1) * other)
