"""A choice names one sub-network; a choice space says which sub-networks a supernet holds.

A choice is a frozen value: for each network stage, an index into the list of each of its elastic dimensions (Li et al.
2021, sec. 3.1, slice filters; Li et al. 2022 slice further dimensions). It is always passed as an argument, never kept
on a layer, so two choices may run at once.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, overload

from bench.core.errors import UserError, unknown

if TYPE_CHECKING:  # they import torch, and presets are listed without it
    from bench.slicing.norms import BoundKey, CollectedKey
    from bench.slicing.ops import Width

StageIndices = tuple[int, ...]


class AnyChoice(Protocol):
    """What layers ask of a choice: an entry of an elastic dimension's list (an int, or a width for each image), and
    under which key batch norm finds what it normalises with."""

    def pick(self, stage: int, position: int, values: tuple[int, ...]) -> Width: ...

    def key(self, depth: int) -> str | BoundKey: ...


class OneChoice(Protocol):
    """A choice that is the same for all images, so that plain layers can be made for it."""

    def pick(self, stage: int, position: int, values: tuple[int, ...]) -> int: ...

    def key(self, depth: int) -> str | CollectedKey: ...


@dataclass(frozen=True)
class Stage:
    """One network stage: its name and, for each elastic dimension, the ascending list of values it may take."""

    name: str
    dimensions: tuple[tuple[str, tuple[int, ...]], ...]

    def values(self, dimension: str) -> tuple[int, ...]:
        """The values of one elastic dimension. Raises `UserError` for a dimension that the stage does not slice."""
        for name, values in self.dimensions:
            if name == dimension:
                return values
        names = ", ".join(name for name, _ in self.dimensions)
        raise UserError(f"stage {self.name} has no elastic dimension {dimension!r}; it slices {names}")

    def check(self, indices: StageIndices) -> None:
        """Raises `UserError`, with what is allowed, for indices that the stage does not have."""
        if len(indices) != len(self.dimensions):
            names = ", ".join(name for name, _ in self.dimensions)
            raise UserError(f"stage {self.name} takes {len(self.dimensions)} indices ({names}), not {len(indices)}")
        for index, (name, values) in zip(indices, self.dimensions, strict=True):
            if not 0 <= index < len(values):
                raise UserError(
                    f"stage {self.name} has no {name} number {index}; allowed are 0 to {len(values) - 1} "
                    f"({', '.join(map(str, values))})"
                )

    def choose(self, values: Mapping[str, int]) -> StageIndices:
        """The indices of these values; the largest of a dimension that is not named. Raises `UserError`."""
        for name, value in values.items():
            if value not in self.values(name):
                allowed = ", ".join(map(str, self.values(name)))
                raise UserError(f"stage {self.name} cannot run {name} {value}; allowed are {allowed}")
        return tuple(allowed.index(values.get(name, allowed[-1])) for name, allowed in self.dimensions)

    @property
    def first(self) -> StageIndices:
        return (0,) * len(self.dimensions)

    @property
    def last(self) -> StageIndices:
        return tuple(len(values) - 1 for _, values in self.dimensions)


@dataclass(frozen=True)
class Choice:
    """The index of every elastic dimension of the first `len(indices)` stages (all of them for a whole network)."""

    indices: tuple[StageIndices, ...]

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """`keys[d]` identifies the choice of the first d stages; batch norm statistics are stored under it."""
        parts = ["_".join(map(str, stage)) for stage in self.indices]
        return tuple("__".join(parts[:depth]) for depth in range(len(parts) + 1))

    def key(self, depth: int) -> str:
        """The key of the first `depth` stages."""
        return self.keys[depth]

    def pick(self, stage: int, position: int, values: tuple[int, ...]) -> int:
        """The value that this choice takes of one elastic dimension's list."""
        return values[self.indices[stage][position]]

    def prefix(self, depth: int) -> Choice:
        return Choice(self.indices[:depth])

    def then(self, indices: Sequence[StageIndices]) -> Choice:
        """This choice, continued over the next stages."""
        return Choice(self.indices + tuple(indices))

    def __str__(self) -> str:
        return ".".join("-".join(map(str, stage)) for stage in self.indices)


@dataclass(frozen=True)
class Decision:
    """What one gate decides: the stages from `stage` up to the next gate, as a list of options in ascending cost."""

    stage: int
    options: tuple[tuple[StageIndices, ...], ...]


@dataclass(frozen=True)
class ChoiceSpace:
    """The sub-networks of a supernet.

    Args:
        stages: the network stages, input to output.
        fixed: the indices of the stages in front of the first gate, in every routed choice.
        decisions: one for each gate, in network order; together they cover the stages that `fixed` does not.
        uniform_choices: the ladder of sub-networks that `uniform(i)` names, ascending in cost.
        front: stages in front of a cut that no gate decides; all sub-networks run them alike.
        prefix_statistics: True where batch norm keeps statistics for each prefix of the named choices (at most 64
            named choices, DESIGN 2); False for families normalised without running statistics.

    >>> from bench.models import PRESETS
    >>> net = PRESETS.get("ds_mobilenet_micro8").build().eval()

    >>> space = net.space
    >>> space.uniform(1) == space.parse("1"), space.name_of(space.largest), len(space.decisions)
    (True, 'largest', 1)
    """

    stages: tuple[Stage, ...]
    fixed: tuple[StageIndices, ...]
    decisions: tuple[Decision, ...]
    uniform_choices: tuple[Choice, ...]
    prefix_statistics: bool = True
    front: int = 0

    def __post_init__(self) -> None:
        if self.prefix_statistics and len(self.named) > 64:
            raise UserError(
                f"batch norm keeps statistics for every choice, and {len(self.named)} choices are more than 64; "
                "use group or layer norm for so large a space"
            )
        if self.prefix_statistics and len(self.decisions) > 1:
            raise UserError(
                f"batch norm keeps statistics for every choice, and {len(self.decisions)} gates reach more choices "
                "than have a name; use group or layer norm, or a single gate"
            )

    @cached_property
    def largest(self) -> Choice:
        return Choice(tuple(stage.last for stage in self.stages))

    @cached_property
    def smallest(self) -> Choice:
        """The slimmest network that the gates reach; the first step of the ladder where there are none."""
        return self.routed([0] * len(self.decisions)) if self.decisions else self.uniform_choices[0]

    @cached_property
    def named(self) -> tuple[Choice, ...]:
        """Every choice that has a name: the uniform ladder, then `largest` where the ladder does not end in it."""
        return tuple(dict.fromkeys((*self.uniform_choices, self.largest)))

    @cached_property
    def _distinct(self) -> tuple[Choice, ...]:
        """The first step of the ladder of each distinct network."""
        by_values: dict[tuple[tuple[int, ...], ...], Choice] = {}
        for choice in self.uniform_choices:
            indices = zip(self.stages, choice.indices, strict=True)
            values = tuple(tuple(v[i] for (_, v), i in zip(s.dimensions, at, strict=True)) for s, at in indices)
            by_values.setdefault(values, choice)
        return tuple(by_values.values())

    @cached_property
    def _names(self) -> frozenset[Choice]:
        return frozenset(self.named)

    def uniform(self, index: int) -> Choice:
        """The sub-network at one step of the ladder. Raises `UserError` for a step that does not exist."""
        if not 0 <= index < len(self.uniform_choices):
            raise UserError(f"no sub-network {index}: this space has choices 0 to {len(self.uniform_choices) - 1}")
        return self.uniform_choices[index]

    def name_of(self, choice: Choice) -> str:
        """A short name for a whole choice: `full` where it is the only one, `uniform3`, `largest`, or its indices."""
        if len(self.named) == 1:
            return "full"
        if choice in self.uniform_choices:
            return f"uniform{self.uniform_choices.index(choice)}"
        return "largest" if choice == self.largest else str(choice)

    def routed(self, route: Sequence[int]) -> Choice:
        """The choice that the gates reach by taking option `route[g]` at gate g; a partial route gives a prefix."""
        choice = Choice(self.fixed)
        for decision, option in zip(self.decisions, route, strict=False):
            choice = choice.then(decision.options[option])
        return choice

    def depth_after(self, segments: int) -> int:
        """How many stages lie in front of the end of a supernet's segment, counted from 0: those that are decided once
        so many gates have spoken."""
        cuts = [decision.stage for decision in self.decisions] or ([self.front] if self.front else [])
        return cuts[segments] if segments < len(cuts) else len(self.stages)

    def shared_segments(self, choices: Sequence[Choice]) -> int:
        """How many segments at the start of a network are the same under all of these choices; never all of them."""
        count = 0
        while (depth := self.depth_after(count)) < len(self.stages) and len({c.key(depth) for c in choices}) == 1:
            count += 1
        return count

    def sample(self, generator: random.Random) -> Choice:
        """A random choice: of the ladder with its first step left out where statistics are kept for each named choice
        (the official code draws from 1 to 13: METHODS 4.1), else an independent option at every gate.

        Steps of the ladder that are one network, as where multipliers come to equal widths, count once."""
        if self.prefix_statistics or not self.decisions:
            return self._distinct[generator.randrange(1, len(self._distinct))]
        return self.routed([generator.randrange(len(decision.options)) for decision in self.decisions])

    def check(self, choice: Choice) -> Choice:
        """The choice itself, if it names a whole network that this space can run.

        Raises:
            UserError: which stage and dimension does not fit, and what is allowed.
        """
        if choice in self._names:
            return choice
        if len(choice.indices) != len(self.stages):
            raise UserError(f"choice {choice} covers {len(choice.indices)} stages, and there are {len(self.stages)}")
        for stage, indices in zip(self.stages, choice.indices, strict=True):
            stage.check(indices)
        if self.prefix_statistics:
            raise UserError(
                f"choice {choice} has no batch-norm statistics: this space keeps them for its "
                f"{len(self.named)} named choices only ({', '.join(map(self.name_of, self.named))})"
            )
        return choice

    def choose(self, values: Mapping[str, Mapping[str, int]]) -> Choice:
        """The choice that takes these values, by stage and dimension; the largest where nothing is said.

        Raises:
            UserError: a stage, dimension or value that the space does not have, with what is allowed.
        """
        names = [stage.name for stage in self.stages]
        for name in values:
            if name not in names:
                raise unknown("network stage", name, names)
        return self.check(Choice(tuple(stage.choose(values.get(stage.name, {})) for stage in self.stages)))

    def parse(self, text: str) -> Choice:
        """The choice that a text spells: the inverse of `str(choice)`. A number alone is a step of the ladder, and
        "largest" the full network.

        Raises:
            ValueError: the text spells no choice.
            UserError: it spells one that this space cannot run.
        """
        if text == "largest":
            return self.largest
        if text.isdecimal():
            return self.uniform(int(text))
        choice = Choice(tuple(tuple(map(int, stage.split("-"))) for stage in text.split(".")))
        if str(choice) != text:
            raise ValueError(f"{text!r} is not how a choice is spelled, which is {choice}")
        return self.check(choice)

    @overload
    def width(self, choice: OneChoice, stage: int, dimension: str = "filters") -> int: ...

    @overload
    def width(self, choice: AnyChoice, stage: int, dimension: str = "filters") -> Width: ...

    def width(self, choice: AnyChoice, stage: int, dimension: str = "filters") -> Width:
        """The value of one elastic dimension under a choice: an int, or a soft width under a soft choice."""
        position, values = self._dimensions[stage][dimension]
        return choice.pick(stage, position, values)

    @cached_property
    def _dimensions(self) -> tuple[dict[str, tuple[int, tuple[int, ...]]], ...]:
        return tuple({name: (i, v) for i, (name, v) in enumerate(s.dimensions)} for s in self.stages)

    def prefix_keys(self, depth: int) -> dict[str, Choice]:
        """The statistics keys that the named choices need at one depth, each with the prefix it stands for."""
        return {choice.key(depth): choice.prefix(depth) for choice in self.named}
