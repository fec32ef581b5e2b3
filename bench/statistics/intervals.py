"""Spread of a number over seeds, and Holm's correction for asking many questions at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
MINIMUM_SEEDS = 3
"""Fewer seeds get no rank and no verdict."""


@dataclass(frozen=True)
class SeedSummary:
    """A number over n seeds: mean, sample standard deviation, t interval; nan where n is too small for it."""

    mean: float
    std: float
    n: int
    low: float
    high: float


def summarise(values: Sequence[float] | Floats, confidence: float = CONFIDENCE) -> SeedSummary:
    """Mean, sample standard deviation and t interval of one value for each seed.

    With one value the spread is nan, with none the mean as well; a nan among the values makes all of it nan.

    >>> over_seeds = summarise([0.90, 0.92, 0.91])
    >>> f"{over_seeds.mean:.3f} +- {over_seeds.std:.3f}, {over_seeds.low:.3f} to {over_seeds.high:.3f}"
    '0.910 +- 0.010, 0.885 to 0.935'
    """
    sample = np.asarray(values, dtype=np.float64)
    n = len(sample)
    if n == 0:
        return SeedSummary(math.nan, math.nan, 0, math.nan, math.nan)
    mean = float(sample.mean())
    if n == 1:
        return SeedSummary(mean, math.nan, 1, math.nan, math.nan)
    std = float(sample.std(ddof=1))
    half = t_quantile(n, confidence) * std / math.sqrt(n)
    return SeedSummary(mean, std, n, mean - half, mean + half)


def t_quantile(n: int, confidence: float = CONFIDENCE) -> float:
    """Standard errors to each side in the two-sided t interval of n values (4.303 for n = 3)."""
    return float(stdtrit(n - 1, (1 + confidence) / 2))


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Holm's step-down adjusted p values, in the order given: reject where at most alpha (Holm 1979).

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted
