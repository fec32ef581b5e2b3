"""Paired ratios of times, and the interval of their median.

Two candidates timed in the same round met the same machine, so the ratio of their times drifts far less than
either time. The interval rests on order statistics: it assumes no distribution and needs no random draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios, its interval; `low` is 0 and `high` infinite when n is too small for one."""

    median: float
    low: float
    high: float
    n: int


def paired_ratio(times: Sequence[float], reference: Sequence[float], confidence: float = 0.95) -> Ratio:
    """Median of `times[r] / reference[r]` over rounds r, with its interval.

    Raises ValueError when the two were not timed in the same rounds or are empty.

    >>> paired_ratio([2.0, 2.2, 1.9, 2.1, 2.0, 2.3], [1.0, 1.1, 1.0, 1.0, 1.0, 1.1])
    Ratio(median=2.0, low=1.9, high=2.1, n=6)
    """
    if len(times) != len(reference) or not times:
        raise ValueError(f"paired ratios need equal rounds, got {len(times)} and {len(reference)}")
    ratios = [a / b for a, b in zip(times, reference, strict=True)]
    low, high = median_interval(ratios, confidence)
    return Ratio(quantile(ratios, 0.5), low, high, len(ratios))


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the median from order statistics, covering at least `confidence` for any distribution.

    The k-th smallest and k-th largest value enclose the median with probability
    1 - 2 P(Binomial(n, 1/2) < k); the largest k that suffices is taken. It is (0, inf) where even the extremes
    do not suffice (n < 6 at 95 %).
    """
    n = len(values)
    tail, k = 0, 0
    while True:
        tail += math.comb(n, k)  # of 2**n: the ways in which k or fewer values lie below the median
        if tail / 2 ** (n - 1) > 1 - confidence:  # whole numbers: 2**n overflows a float from n = 1024
            break
        k += 1
    if k == 0:
        return 0.0, math.inf
    ordered = sorted(values)
    return ordered[k - 1], ordered[n - k]


def quantile(values: Sequence[float], q: float) -> float:
    """Quantile q in [0, 1], linear between order statistics (numpy's default)."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
