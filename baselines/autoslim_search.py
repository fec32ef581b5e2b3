"""AutoSlim's search: greedy slimming of one layer after the other (Yu & Huang 2019, arXiv 1903.11728).

Start from the full network. Again and again, try to take one group of channels from each stage that has one left, and
keep the removal after which the network errs least; note the network whenever it first meets a budget (METHODS 9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.supernet import Supernet

Error = tuple[float, ...]
"""What is to be least; ties of an entry are broken by the next."""


def rungs_of(widths: Sequence[int], groups: int) -> list[int]:
    """The indices, ascending, at which a stage may stand: evenly spaced over its list of widths, `groups` removals from
    the widest to the narrowest. Of indices with equal widths the last stays, so fewer where a list has fewer."""
    last = len(widths) - 1
    positions = [round(step * last / groups) for step in range(groups + 1)]
    return list({widths[position]: position for position in positions}.values())


def stage_rungs(space: ChoiceSpace, groups: int) -> list[list[int]]:
    return [rungs_of(stage.values("filters"), groups) for stage in space.stages]


def choice_at(rungs: Sequence[Sequence[int]], levels: Sequence[int]) -> Choice:
    """The choice at which stage s stands at its rung number `levels[s]`."""
    return Choice(tuple((steps[level],) for steps, level in zip(rungs, levels, strict=True)))


def madds_of(net: Supernet, choice: Choice, image_size: int) -> int:
    """Multiply-adds of one image under any choice, also one without statistics or a name."""
    return sum(cost.madds for cost in net.segment_costs(choice, image_size))


def slim(
    rungs: Sequence[Sequence[int]],
    budgets: Iterable[int],
    error_of: Callable[[Choice], Error],
    madds_of: Callable[[Choice], int],
) -> tuple[dict[int, Choice], list[tuple[int, Error]]]:
    """Slim greedily until every budget (multiply-adds) is met.

    Returns:
        The first network that meets each budget, and the path: multiply-adds and error after each removal.

    Raises:
        ValueError: the narrowest network does not meet a budget.
    """
    levels = [len(steps) - 1 for steps in rungs]
    choice, remaining = choice_at(rungs, levels), sorted(budgets, reverse=True)
    networks: dict[int, Choice] = {}
    path: list[tuple[int, Error]] = []
    while remaining:
        if madds_of(choice) <= remaining[0]:
            networks[remaining.pop(0)] = choice
            continue
        candidates = [_lowered(levels, stage) for stage, level in enumerate(levels) if level > 0]
        if not candidates:
            raise ValueError(f"the narrowest network has {madds_of(choice)} multiply-adds, more than {remaining[0]}")
        errors = [error_of(choice_at(rungs, candidate)) for candidate in candidates]
        error = min(errors)
        levels = candidates[errors.index(error)]
        choice = choice_at(rungs, levels)
        path.append((madds_of(choice), error))
    return networks, path


def _lowered(levels: Sequence[int], stage: int) -> list[int]:
    return [level - (index == stage) for index, level in enumerate(levels)]
