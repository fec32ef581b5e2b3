"""Accuracy against cost: fronts, areas, and what a mixture of fixed networks would reach.

Every function takes costs (MAdds per image, or ms) and scores, one each for every operating point of one
curve, in any order. Lower cost and higher score are better.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.statistics.intervals import SeedSummary, summarise

Curve = tuple[ArrayLike, ArrayLike]
"""(costs, scores) of the points of one curve."""


def pareto_front(costs: ArrayLike, scores: ArrayLike) -> NDArray[np.bool_]:
    """Which points none beats: no other is cheaper and as good, or as cheap and better. Equals stay.

    >>> pareto_front(costs=[1, 2, 3, 3], scores=[0.5, 0.8, 0.7, 0.9]).tolist()
    [True, True, False, True]
    """
    cost, score = _points(costs, scores)
    on_front = np.zeros(len(cost), dtype=bool)
    best, best_cost = -math.inf, math.nan
    for index in np.lexsort((-score, cost)):  # by cost, the better first
        if score[index] > best or (score[index] == best and cost[index] == best_cost):
            on_front[index] = True
            best, best_cost = score[index], cost[index]
    return on_front


def score_at(costs: ArrayLike, scores: ArrayLike, budgets: ArrayLike) -> NDArray[np.float64]:
    """Score that the front reaches at each budget, interpolated linearly in the logarithm of the cost.

    nan below the cheapest point; above the costliest, the best score, since a budget need not be spent.

    >>> score_at(costs=[1e6, 4e6], scores=[0.8, 0.9], budgets=[5e5, 2e6, 9e6]).round(3).tolist()
    [nan, 0.85, 0.9]
    """
    cost, score = _front(costs, scores)
    budget = np.atleast_1d(np.asarray(budgets, dtype=np.float64))
    interpolated = np.interp(np.log(budget), np.log(cost), score)
    return np.where(budget < cost[0], math.nan, interpolated)


def common_range(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """The costs that every curve covers, lowest and highest; None when no interval is covered by all."""
    spans = [_points(*curve)[0] for curve in curves]
    if not spans:
        return None
    low, high = max(span.min() for span in spans), min(span.max() for span in spans)
    return (float(low), float(high)) if low < high else None


def area_under_curve(costs: ArrayLike, scores: ArrayLike, low: float, high: float) -> float:
    """Mean score of the front over the logarithm of the cost from `low` to `high` (an area of unit width).

    nan when the curve does not reach down to `low`. Raises ValueError unless 0 < low < high.
    """
    if not 0 < low < high:
        raise ValueError(f"an area needs 0 < low < high, not {low} and {high}")
    cost, _ = _front(costs, scores)
    knots = np.unique([low, *cost[(cost > low) & (cost < high)], high])
    heights = score_at(costs, scores, knots)
    return float(np.trapezoid(heights, np.log(knots)) / math.log(high / low))


def hypervolume(costs: ArrayLike, scores: ArrayLike, reference: tuple[float, float]) -> float:
    """Area dominated by the points and bounded by the reference (cost, score), in units of cost times score.

    Points that are costlier or worse than the reference add nothing.
    """
    cost, score = _front(costs, scores)
    inside = (cost < reference[0]) & (score > reference[1])
    cost, score = cost[inside], score[inside]
    steps = np.diff(score, prepend=reference[1])
    return float(np.sum(steps * (reference[0] - cost)))


def upper_hull(costs: ArrayLike, scores: ArrayLike) -> list[int]:
    """Indices of the vertices of the upper concave hull, from the cheapest point to the best one."""
    cost, score = _points(costs, scores)
    front = np.flatnonzero(pareto_front(cost, score))
    _, first = np.unique(cost[front], return_index=True)  # ascending in cost, equal points once
    hull: list[int] = []
    for index in front[first]:
        while len(hull) >= 2 and _is_below(cost, score, hull[-2], hull[-1], index):
            hull.pop()
        hull.append(int(index))
    return hull


def hull_mixture(costs: ArrayLike, scores: ArrayLike, budget: float) -> NDArray[np.float64] | None:
    """Shares of images to send blindly to each point: the best mean score at a mean cost up to `budget`.

    At most two shares are not zero: the neighbours on the hull. It is what a choice that ignores the image
    can reach. None when even the cheapest point costs more than the budget.

    >>> hull_mixture(costs=[1, 3], scores=[0.8, 0.9], budget=1.5).tolist()
    [0.75, 0.25]
    """
    cost, _ = _points(costs, scores)
    hull = upper_hull(costs, scores)
    shares = np.zeros(len(cost))
    if budget < cost[hull[0]]:
        return None
    above = next((k for k, index in enumerate(hull) if cost[index] > budget), None)
    if above is None:
        shares[hull[-1]] = 1.0
        return shares
    left, right = hull[above - 1], hull[above]
    shares[right] = (budget - cost[left]) / (cost[right] - cost[left])
    shares[left] = 1.0 - shares[right]
    return shares


def cost_to_reach(costs: ArrayLike, scores: ArrayLike, score: float) -> float:
    """The least mean cost at which a blind mixture of the points has this mean score; nan above the best of them."""
    cost, reached = _points(costs, scores)
    hull = upper_hull(costs, scores)
    return float(np.interp(score, reached[hull], cost[hull], right=math.nan))


def over_seeds(curves: Sequence[Curve], measure: Callable[[ArrayLike, ArrayLike], float]) -> SeedSummary:
    """Any of the measures above taken on the curve of each seed, with its mean, spread and t interval."""
    return summarise([measure(costs, scores) for costs, scores in curves])


def _points(costs: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    cost, score = np.asarray(costs, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if cost.shape != score.shape or cost.ndim != 1 or not len(cost):
        raise ValueError(f"a curve needs as many costs as scores, not {cost.shape} and {score.shape}")
    return cost, score


def _front(costs: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Costs and scores of the front, ascending in both, equal points once."""
    cost, score = _points(costs, scores)
    on_front = pareto_front(cost, score)
    cost, first = np.unique(cost[on_front], return_index=True)
    return cost, score[on_front][first]


def _is_below(cost: NDArray, score: NDArray, left: int, middle: int, right: int) -> bool:
    """Whether the middle point lies on or below the line from left to right."""
    rise = (score[middle] - score[left]) * (cost[right] - cost[left])
    return bool(rise <= (score[right] - score[left]) * (cost[middle] - cost[left]))
