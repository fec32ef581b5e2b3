"""Prune a network to a budget of multiply-adds: how many channels each coupling keeps, found by counting.

The count is that of the operators which run (`bench.profilers.madds`), for hollow networks of the candidate widths, so
the search needs no surgery and its result is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from baselines.pruning_criteria import CROSS_ENTROPY, Criterion, Evidence, Loss, Scores
from baselines.pruning_surgery import Surgeon
from bench.core.errors import UserError
from bench.data.dataset import Batch
from bench.profilers.madds import executed_madds

TOLERANCE = 0.02  # of the target
BISECTIONS = 12
LEFT_OPEN = 0.1  # a global ranking may not close a layer: it keeps a tenth of its units

Widths = tuple[int, ...]


@dataclass(frozen=True)
class Pruned:
    """A pruned network.

    Attributes:
        madds, full_madds: multiply-adds an image, executed; those that the budget is a fraction of.
        kept: by coupling, the units that were kept, ascending.
    """

    network: nn.Module
    madds: int
    full_madds: int
    kept: dict[str, tuple[int, ...]]


def prune_to_budget(
    network: nn.Module,
    example: Tensor,
    budget: float,
    criterion: Criterion,
    *,
    seed: int = 0,
    batches: Iterable[Batch] = (),
    loss: Loss = CROSS_ENTROPY,
    full_madds: int | None = None,
) -> Pruned:
    """A copy of `network` that has `budget` of its multiply-adds, within 2 %, the least worthy channels removed.

    Equal arguments give equal masks and weights.

    Args:
        example: (1, C, H, W), an image of the size that multiply-adds are counted for.
        budget: fraction of `full_madds`, in (0, 1].
        batches: images with labels for a criterion that needs gradients, those of `loss`; never of the test split.
        full_madds: what the budget is a fraction of; the network's own count where None.

    Raises:
        UserError: no pruned network comes that near to the budget, or the criterion does not serve this network.
    """
    if not 0 < budget <= 1:
        raise UserError(f"a pruning budget is a fraction of the full network's multiply-adds in (0, 1], not {budget}")
    criterion.check(network, type(network).__name__)
    surgeon = Surgeon(network, example)
    scores = criterion.score(Evidence(surgeon.network, surgeon.couplings, seed, batches, loss))
    full = full_madds or _count(network, example)
    widths, madds = _search(surgeon, scores, criterion, example, budget * full)
    if abs(madds - budget * full) > TOLERANCE * budget * full:
        raise _out_of_reach(budget, criterion, madds, full, surgeon)
    kept = {c.name: _best(s, w) for c, s, w in zip(surgeon.couplings, scores, widths, strict=True)}
    pruned = surgeon.operate(kept)
    if _count(pruned, example) != madds:
        raise RuntimeError(f"the pruned network executes {_count(pruned, example)} multiply-adds, not {madds}")
    return Pruned(pruned, madds, full, kept)


def check_budget(network: nn.Module, example: Tensor, budget: float, criterion: Criterion) -> str:
    """Raises `UserError`, before anything is trained, where even the smallest pruned network exceeds the budget.

    Returns a sentence on what cannot be pruned, "" where everything can.
    """
    surgeon = Surgeon(network, example)
    widths = tuple(_least(c.units, 1, criterion) if criterion.judges(c) else c.units for c in surgeon.couplings)
    smallest, full = _count(surgeon.hollow(widths), example), _count(network, example)
    if smallest > (1 + TOLERANCE) * budget * full:
        raise _out_of_reach(budget, criterion, smallest, full, surgeon)
    return surgeon.untouched


def _out_of_reach(budget: float, criterion: Criterion, nearest: int, full: int, surgeon: Surgeon) -> UserError:
    return UserError(
        f"budget {budget:g} is out of reach: the nearest network that {criterion.name} pruning can make has "
        f"{nearest / full:.3g} of the {full:,} multiply-adds" + (surgeon.untouched and f"; {surgeon.untouched}")
    )


def _count(network: nn.Module, example: Tensor) -> int:
    """Multiply-adds an image that a network executes in evaluation mode; the network stays as it is."""
    training = network.training
    madds = executed_madds(network.eval(), example) // len(example)
    network.train(training)
    return madds


def _best(score: Tensor | None, width: int) -> tuple[int, ...]:
    """The `width` units of the highest score, ascending; equal scores go to the first of them."""
    if score is None:
        return tuple(range(width))
    order = score.sort(descending=True, stable=True).indices
    return tuple(sorted(order[:width].tolist()))


def _search(
    surgeon: Surgeon, scores: Scores, criterion: Criterion, example: Tensor, target: float
) -> tuple[Widths, int]:
    """The widths whose count is nearest to the target: in coarse steps where they get there, else in single units."""
    units = [coupling.units for coupling in surgeon.couplings]
    counted: dict[Widths, int] = {}

    def count(widths: Widths) -> int:
        if widths not in counted:
            counted[widths] = _count(surgeon.hollow(widths), example)
        return counted[widths]

    widths: Widths = ()
    for steps in ([granularity(n) for n in units], [1] * len(units)):
        widths = _nearest(partial(_widths, units, scores, steps, criterion), count, target)
        if abs(count(widths) - target) <= TOLERANCE * target:
            break
    return widths, count(widths)


def granularity(units: int) -> int:
    """The step in which a coupling shrinks: widths that hardware likes, but at most an eighth of what there is."""
    return max(step for step in (1, 2, 4, 8) if step == 1 or units >= 8 * step)


def _nearest(assign: Callable[[float], Widths], count: Callable[[Widths], int], target: float) -> Widths:
    """Bisect the pruning ratio, then let couplings switch one after another between the two sides of the target."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if count(assign(middle)) > target else (low, middle)
    return min(_between(assign(low), assign(high)), key=lambda widths: (abs(count(widths) - target), widths))


def _between(wide: Widths, narrow: Widths) -> Iterator[Widths]:
    for position in range(len(wide) + 1):
        yield wide[:position] + narrow[position:]


def _widths(units: Sequence[int], scores: Scores, steps: Sequence[int], criterion: Criterion, ratio: float) -> Widths:
    """The width of every coupling when about `ratio` of all units are removed, each in its step."""
    gone = _evenly(units, scores, ratio) if criterion.ranking == "uniform" else _globally(units, scores, ratio)
    return tuple(
        _rounded(total - lost, total, step, _least(total, step, criterion))
        for total, lost, step in zip(units, gone, steps, strict=True)
    )


def _evenly(units: Sequence[int], scores: Scores, ratio: float) -> list[float]:
    """How many units go from each coupling when the same fraction of every one does."""
    return [0.0 if score is None else ratio * total for total, score in zip(units, scores, strict=True)]


def _globally(units: Sequence[int], scores: Scores, ratio: float) -> list[float]:
    """How many units go from each coupling when the lowest scores of all of them together do."""
    owners = torch.cat([torch.full((len(score),), i) for i, score in enumerate(scores) if score is not None])
    order = torch.cat([score for score in scores if score is not None]).sort(stable=True).indices
    return torch.bincount(owners[order[: round(ratio * len(order))]], minlength=len(units)).tolist()


def _least(units: int, step: int, criterion: Criterion) -> int:
    """The fewest units that a coupling may keep."""
    return step if criterion.ranking == "uniform" else max(step, round(LEFT_OPEN * units))


def _rounded(width: float, units: int, step: int, least: int) -> int:
    """The multiple of `step` nearest to a width, between `least` and all there are."""
    return units if width >= units else min(units, max(least, step * round(width / step)))
