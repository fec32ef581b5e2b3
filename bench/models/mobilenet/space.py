"""What a slimmable MobileNetV1 is made of, and the sub-networks that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from bench.models.widths import BlockStage
from bench.slicing.choice import Choice, ChoiceSpace, Decision, Stage


@dataclass(frozen=True)
class MobileNetConfig:
    """What a slimmable MobileNetV1 is made of.

    Attributes:
        stem: width list of the stem convolution.
        gated_from: index of the first block stage that a gate decides; None for a family without a gate.
        swish: activations are swish; where not, ReLU6, as in the official code of US-Nets.
        kernels: kernel sizes of the depth-wise convolutions behind the gate, ascending; one value where the kernel is
            not elastic. Those in front of the gate, its own block's included, are 3x3.
        squeeze: squeeze ratio of channel attention, of the largest width; 0 for blocks without attention.
        attention: whether blocks have that attention. Where not, the gate has a hidden layer of its own, as wide as
            the trunk that it would share.
        dropout: in front of the classifier, in training, for the largest network only (METHODS 4.1).
        switchable: batch norm has scales and shifts for each named choice too, not only statistics (Yu et al. 2019).
    """

    stem: tuple[int, ...]
    stem_stride: int
    stages: tuple[BlockStage, ...]
    gated_from: int | None
    squeeze: float = 0.25
    swish: bool = True
    dropout: float = 0.0
    kernels: tuple[int, ...] = (3,)
    attention: bool = True
    switchable: bool = False

    @property
    def gate_hidden(self) -> int:
        """Width of the gate's own hidden layer; 0 where there is no gate or it shares attention's trunk."""
        if self.attention or self.gated_from is None:
            return 0
        widths = (self.stem, *(stage.widths for stage in self.stages))  # the gate stands on its block's input width
        return int(self.squeeze * max(widths[self.gated_from]))

    def space(self) -> ChoiceSpace:
        stages = (Stage("stem", (("filters", self.stem),)), *map(self._stage, range(len(self.stages))))
        if self.gated_from is None:
            steps = range(len(self.stem))
            ladder = tuple(Choice(tuple((step,) for _ in stages)) for step in steps)
            return ChoiceSpace(stages, ladder[0].indices, (), ladder)
        first = self.gated_from + 1  # the stem is stage 0 of the space
        fixed = tuple(stage.first for stage in stages[:first])
        pairs = product(*(range(len(values)) for _, values in stages[first].dimensions))
        options = tuple((pair,) * (len(stages) - first) for pair in pairs)
        ladder = tuple(Choice(fixed).then(option) for option in options)
        return ChoiceSpace(stages, fixed, (Decision(first, options),), ladder)

    def has_kernels(self, stage: int, block: int) -> bool:
        """Whether a block's depth-wise convolution has an elastic kernel: it must run behind the gate."""
        behind = self.gated_from is not None and (stage > self.gated_from or (stage == self.gated_from and block > 0))
        return len(self.kernels) > 1 and behind

    def _stage(self, index: int) -> Stage:
        is_gated = self.gated_from is not None and index >= self.gated_from
        kernels = (("kernel", self.kernels),) if is_gated and len(self.kernels) > 1 else ()
        return Stage(f"stage{index}", (("filters", self.stages[index].widths), *kernels))
