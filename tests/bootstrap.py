"""The crossed design of seeds and images by resampling: what the closed form of `bench.statistics.crossed` is tested
against. A hierarchical paired bootstrap.

Scores are per image, in [0, 1] (1 = solved, for classification). Two rows are compared on the same seeds and
the same images. Seeds are resampled, then images, both with replacement, and every row sees the same draws.
One resample uses the same images for all its seeds, because the seeds of a row were tested on the same images
(a crossed design: Owen 2007, "The pigeonhole bootstrap").

Resampling three seeds understates by how much a fourth would differ: two rows that differ by nothing but
their seeds come out as different in up to a quarter of all cases. So the seed part of each resample is
stretched until its interval is the t interval where images do not matter ("expanded percentile", Hesterberg
2015). False alarms then stay below 5 %, as a test shows.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bench.statistics.intervals import CONFIDENCE, Floats, t_quantile

RowScores = Mapping[int, NDArray]
"""The scores of one row: seed -> (images,), each in [0, 1]."""

BOOTSTRAP_SEED = 20190303
"""Fixed, so that equal scores give equal tables to the byte."""
_BLOCK = 250
"""Resamples drawn at once: bounds the memory of the image weights to _BLOCK * images * 8 bytes."""


@dataclass(frozen=True)
class Difference:
    """First row minus second: mean difference in score, interval, two-sided p value, and what it rests on."""

    difference: float
    low: float
    high: float
    p_value: float
    seeds: int
    images: int

    def reversed(self) -> "Difference":
        """Second row minus first."""
        return Difference(-self.difference, -self.high, -self.low, self.p_value, self.seeds, self.images)


class PairedBootstrap:
    """All rows of one table resampled together, so that any two can be compared.

    Args:
        scores: for each row (any hashable name) its scores by seed, all on the same images in the same order.
        resamples: how many; by default enough for Holm's correction over all rows.
        small_sample: stretch the seed part (see `seed_stretch`); False is the plain percentile bootstrap.

    Raises ValueError when the rows were not scored on equally many images.
    """

    def __init__(
        self,
        scores: Mapping[Any, RowScores],
        resamples: int | None = None,
        *,
        small_sample: bool = True,
        seed: int = BOOTSTRAP_SEED,
    ) -> None:
        series = [(row, s) for row, by_seed in scores.items() for s in by_seed]
        if not series:
            raise ValueError("there are no scores to compare")
        lengths = {len(scores[row][s]) for row, s in series}
        if len(lengths) > 1:
            raise ValueError(f"rows on different numbers of images cannot be paired: {sorted(lengths)}")
        self.images = lengths.pop()
        self.resamples = resamples_for(len(scores)) if resamples is None else resamples
        self.small_sample = small_sample
        self.seed = seed
        self._weights: dict[int, Floats] = {}
        self._seeds: dict[Hashable, frozenset[int]] = {row: frozenset(by_seed) for row, by_seed in scores.items()}
        self._column: dict[tuple[Hashable, int], int] = {key: column for column, key in enumerate(series)}
        table = np.stack([np.asarray(scores[row][s], dtype=np.float64) for row, s in series])
        self._means = table.mean(axis=1)  # (series,)
        self._resampled = image_means(table, self.resamples, seed)  # (resamples, series)

    def common_seeds(self, first: Hashable, second: Hashable) -> list[int]:
        """The seeds on which both rows were run."""
        return sorted(self._seeds[first] & self._seeds[second])

    def compare(self, first: Hashable, second: Hashable) -> Difference | None:
        """First minus second, on their common seeds; None when they share fewer than two."""
        seeds = self.common_seeds(first, second)
        if len(seeds) < 2:
            return None
        ours = [self._column[first, s] for s in seeds]
        theirs = [self._column[second, s] for s in seeds]
        by_seed = self._resampled[:, ours] - self._resampled[:, theirs]  # (resamples, seeds)
        centre = by_seed.mean(axis=1)
        seed_part = (by_seed * self._shares(len(seeds))).sum(axis=1) - centre
        stretch = seed_stretch(len(seeds)) if self.small_sample else 1.0
        difference = float((self._means[ours] - self._means[theirs]).mean())
        low, high, p_value = _interval(centre + stretch * seed_part)
        return Difference(difference, low, high, p_value, len(seeds), self.images)

    def _shares(self, n: int) -> Floats:
        if n not in self._weights:
            self._weights[n] = seed_weights(n, self.resamples, self.seed)
        return self._weights[n]


def resamples_for(rows: int) -> int:
    """Enough resamples that the smallest possible p value survives Holm's correction over `rows` rows.

    The smallest is 2 / (resamples + 1), and a row is compared with rows - 1 others.
    """
    return max(2000, 80 * rows)


@cache
def seed_stretch(n: int) -> float:
    """Factor on the seed part of a resample (2.69 for n = 3 seeds, 1.58 for n = 5, towards 1 for many).

    sqrt(n / (n - 1)) undoes the division by n in a resample's variance, t / z gives few seeds their wide
    tails.
    """
    z = float(ndtri((1 + CONFIDENCE) / 2))
    return math.sqrt(n / (n - 1)) * t_quantile(n) / z


def image_means(scores: Floats, resamples: int, seed: int = BOOTSTRAP_SEED) -> Floats:
    """Mean score on resampled images: (series, images) -> (resamples, series); all series see the same draws.

    Written as products of the scores with weights that say how often each image was drawn.
    """
    images = scores.shape[1]
    if images == 0:
        raise ValueError("there are no images to resample")
    generator = np.random.default_rng([seed, 0])
    blocks = []
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        drawn = generator.integers(images, size=(size, images))  # (size, images)
        flat = (drawn + np.arange(size)[:, None] * images).ravel()
        counts = np.bincount(flat, minlength=size * images).reshape(size, images)
        blocks.append(counts.astype(np.float64) @ scores.T / images)
    return np.concatenate(blocks)


def seed_weights(n: int, resamples: int, seed: int = BOOTSTRAP_SEED) -> Floats:
    """Share of each of n seeds in each resample: (resamples, n); every resample's shares sum to 1."""
    drawn = np.random.default_rng([seed, 1, n]).integers(n, size=(resamples, n))
    return (drawn[:, :, None] == np.arange(n)).mean(axis=1)


def _interval(resampled: Floats) -> tuple[float, float, float]:
    """(low, high, two-sided p) of resampled differences; one without a difference counts on both sides."""
    resampled = np.round(resampled, 12)  # sums that differ only in their rounding must tie
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    fewest = min(np.count_nonzero(resampled <= 0), np.count_nonzero(resampled >= 0))
    return float(low), float(high), min(1.0, 2 * (1 + float(fewest)) / (1 + len(resampled)))
