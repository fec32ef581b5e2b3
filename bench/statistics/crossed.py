"""Closed form of the crossed design: scores of the same seeds on the same images, both a random sample.

A score y[s, i] of seed s on image i has a part of the seed, one of the image and a rest. The mean over all of them
has two sources of error. Of the few seeds only a sample variance is known, so their part follows Student's t. The many
images give the other part exactly: the variance of the means per image, over n. The interval adds the two in
quadrature, each with its own quantile (Banerjee 1960, Sankhya 22:357):

    half width squared = t(seeds - 1) squared * seed variance + t(images - 1) squared * image variance

Whatever the shares of the two parts, it covers at least as often as it says, at every level: the probability that a
normal variable stays within a half width is concave in the square of that half width, so the mixture does no worse
than its parts. Satterthwaite's degrees of freedom have no such bound far out in the tails, which is where Holm's
correction over many pairs looks. What a seed and an image do together counts in both parts, which errs on the safe
side.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from bench.statistics.intervals import CONFIDENCE, Floats

RowScores = Mapping[int, NDArray]
"""The scores of one row: seed -> (images,), each in [0, 1]."""

ALPHA = 1 - CONFIDENCE
P_FLOOR = 1e-12
"""The smallest p value that is told apart from smaller ones: print it with "<="."""
ONE_IMAGE = 1.0
"""Squared difference added over the images of a pair, as if one more image differed: without it, rows that differ on no
image, or on four and always in favour of the same row, would pass for certain (compare Agresti and Min 2005)."""
_LEVELS = np.geomspace(1, P_FLOOR, 4097)


@dataclass(frozen=True)
class Difference:
    """First row minus second: mean difference in score, interval, two-sided p value, and what it rests on.

    With one seed the interval and the p value are of the images alone: they say nothing of a run on another seed.
    """

    difference: float
    low: float
    high: float
    p_value: float
    seeds: int
    images: int


@dataclass(frozen=True)
class RowInterval:
    """Mean score of a row and its interval over seeds and images, within [0, 1]; with one seed over images alone."""

    mean: float
    low: float
    high: float
    seeds: int
    images: int


def compare(first: RowScores, second: RowScores) -> Difference | None:
    """First minus second, on their common seeds and the same images; None when they share no seed.

    Raises ValueError when the rows were not scored on equally many images.

    >>> first, second = {0: [1, 1, 1, 0], 1: [1, 1, 0, 1]}, {0: [1, 0, 0, 0], 1: [1, 1, 0, 0]}  # by seed, of each image
    >>> result = compare(first, second)
    >>> result.difference, result.seeds, result.images, result.p_value > 0.05
    (0.375, 2, 4, True)
    """
    common = sorted(first.keys() & second.keys())
    if not common:
        return None
    ours, theirs = _stack(first, common), _stack(second, common)
    if ours.shape != theirs.shape:
        raise ValueError(f"rows on different numbers of images cannot be paired: {ours.shape[1]} and {theirs.shape[1]}")
    differences = ours - theirs  # (seeds, images)
    mean, seed_variance, image_variance = _parts(differences)
    image_variance += ONE_IMAGE / differences.shape[1] ** 2
    seed_df, image_df = len(common) - 1, max(differences.shape[1] - 1, 1)
    half = float(half_width(seed_variance, image_variance, seed_df, image_df))
    p_value = float(p_values(mean, seed_variance, image_variance, seed_df, image_df))
    return Difference(mean, mean - half, mean + half, p_value, *differences.shape)


def row_interval(scores: RowScores) -> RowInterval:
    """The mean of a row and its interval over seeds and images.

    It is Wilson's score interval (1927) for as many images as would leave the same error, so it lies within [0, 1]
    and is not empty where every image is solved. Raises ValueError for a row without seeds or images, or with seeds
    on different numbers of images.

    >>> row_interval({0: [1] * 90 + [0] * 10})  # doctest: +ELLIPSIS
    RowInterval(mean=0.9, low=0.82..., high=0.94..., seeds=1, images=100)
    """
    table = _stack(scores, sorted(scores))
    mean, seed_variance, image_variance = _parts(table)
    seed_df, image_df = len(table) - 1, max(table.shape[1] - 1, 1)
    binomial = mean * (1 - mean)
    if binomial > 0:
        ratio = float(half_width(seed_variance, image_variance, seed_df, image_df)) ** 2 / binomial
    else:  # every seed solved all images, or none
        ratio = float(half_width(0, 1 / table.shape[1], 0, image_df)) ** 2
    centre = (mean + ratio / 2) / (1 + ratio)
    half = math.sqrt(ratio * binomial + ratio**2 / 4) / (1 + ratio)
    return RowInterval(mean, max(centre - half, 0.0), min(centre + half, 1.0), *table.shape)


def half_width(
    seed_variance: ArrayLike, image_variance: ArrayLike, seed_df: float, image_df: float, alpha: float = ALPHA
) -> Floats:
    """Half width of the interval of a mean, from the variances that seeds and images give it.

    seed_df: degrees of freedom of the seed variance; 0 leaves the seeds out. image_df: those of the image variance.
    """
    seed_quantile, image_quantile = (_squared_quantiles(df, (alpha,))[0] for df in (seed_df, image_df))
    return np.sqrt(seed_quantile * np.asarray(seed_variance) + image_quantile * np.asarray(image_variance))


def p_values(
    difference: ArrayLike, seed_variance: ArrayLike, image_variance: ArrayLike, seed_df: float, image_df: float
) -> Floats:
    """Two-sided p values: the level at which the interval of `half_width` just excludes 0, never below P_FLOOR.

    The first three broadcast. The level is looked up among 4,097 and interpolated, to a relative error below 1e-4.
    No difference has p = 1, and one without any variance P_FLOOR.
    """
    squared, seed_part, image_part = np.broadcast_arrays(
        np.square(np.asarray(difference, dtype=np.float64)), seed_variance, image_variance
    )
    by_seeds, by_images = (_squared_quantiles(df, None) for df in (seed_df, image_df))
    below = np.zeros(squared.shape, dtype=np.int64)
    step = len(_LEVELS) // 2
    while step:  # the last level whose interval does not pass the difference
        trial = below + step
        below = np.where(by_seeds[trial] * seed_part + by_images[trial] * image_part <= squared, trial, below)
        step //= 2
    start, stop = (np.sqrt(by_seeds[k] * seed_part + by_images[k] * image_part) for k in (below, below + 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.clip((np.sqrt(squared) - start) / (stop - start), 0, 1)
    share = np.where(stop > start, share, 1.0)
    return np.where(squared > 0, _LEVELS[below] * (_LEVELS[1] / _LEVELS[0]) ** share, 1.0)


@lru_cache(maxsize=64)
def _squared_quantiles(df: float, alphas: tuple[float, ...] | None) -> Floats:
    """Squares of the two-sided t quantiles at these levels, or at all of _LEVELS; 0 for no degrees of freedom."""
    levels = _LEVELS if alphas is None else np.asarray(alphas)
    return np.square(stdtrit(df, levels / 2)) if df > 0 else np.zeros(len(levels))


def _stack(scores: RowScores, seeds: Sequence[int]) -> Floats:
    """(seeds, images)"""
    lengths = {len(scores[seed]) for seed in seeds}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"seeds on different numbers of images, or on none, cannot be paired: {sorted(lengths)}")
    return np.stack([np.asarray(scores[seed], dtype=np.float64) for seed in seeds])


def _parts(table: Floats) -> tuple[float, float, float]:
    """Mean of (seeds, images), and the variances that seeds and images give it; 0 for a single one."""
    seeds, images = table.shape
    by_seed, by_image = table.mean(axis=1), table.mean(axis=0)
    seed_variance = by_seed.var(ddof=1) / seeds if seeds > 1 else 0.0
    image_variance = by_image.var(ddof=1) / images if images > 1 else 0.0
    return round(float(by_seed.mean()), 12), float(seed_variance), float(image_variance)
