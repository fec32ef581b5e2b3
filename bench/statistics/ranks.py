"""Rank ranges: which ranks of a row the data leave open, with Holm's correction over all pairs of a table.

A row is surely better than another when their difference is significant after Holm's correction over all pairs of
the family (5 %). The rank of a row lies between one plus the number of rows surely better and the number of rows less
those surely worse. All ranges of a family hold at once, but for one table in twenty.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.statistics.crossed import ALPHA, ONE_IMAGE, RowScores, half_width, p_values
from bench.statistics.intervals import MINIMUM_SEEDS, Floats
from bench.statistics.pooling import pooled_df, pooled_variances

BLOCK = 256
"""Rows compared with as many others at once: bounds the memory beside the matrices of all pairs."""


@dataclass(frozen=True)
class Pairs:
    """All pairs of the rows of a table, in the order of the rows.

    sign: (N, N) 1 where the row has the higher score, -1 where the column has. p_value: (N, N), nan on the diagonal and
    for pairs that share fewer than three seeds. p_pooled: likewise, with the seed variance pooled over the rows, which
    are taken for independent; None with too few rows to pool. smallest: (N,) the difference that would just be
    significant, without correction, against a row of the same spread over seeds, which differs on the images as the
    other rows do on average; nan where a row was compared with none.
    """

    sign: NDArray[np.int8]
    p_value: Floats
    p_pooled: Floats | None
    smallest: Floats


@dataclass(frozen=True)
class Ranking:
    """What a family of compared rows says of each of them, in the order given: (N,) or (N, N) arrays.

    low and high: the range of ranks, 0 for a row that was compared with none. tied: (N, N) whether neither of two rows
    is surely better. not_worse: whether no row of at most the same MAdds is surely better.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    tied: NDArray[np.bool_]
    not_worse: NDArray[np.bool_]


def compare_all(rows: Sequence[RowScores], clusters: Sequence[Hashable]) -> Pairs:
    """Every pair of rows, each on their common seeds; all rows were scored on the same images.

    clusters: equal for rows that share their training (see `pooled_variances`). Needs `memory_needed` bytes beside the
    scores. Raises ValueError when rows were scored on different numbers of images.
    """
    lengths = {len(scores) for row in rows for scores in row.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"rows on different numbers of images, or on none, cannot be paired: {sorted(lengths)}")
    images, n = lengths.pop(), len(rows)
    seed_means = [{seed: float(scores.mean(dtype=np.float64)) for seed, scores in row.items()} for row in rows]
    dfs = np.array([len(means) - 1 if len(means) >= MINIMUM_SEEDS else 0 for means in seed_means])
    variances = np.array([float(np.var(list(means.values()), ddof=min(1, len(means) - 1))) for means in seed_means])
    pooled = pooled_variances(variances, dfs.tolist(), clusters)
    sign, p_value = np.zeros((n, n), np.int8), np.full((n, n), np.nan)
    p_pooled = None if pooled is None else np.full((n, n), np.nan)
    image_variance, compared, image_df = np.zeros(n), np.zeros(n), max(images - 1, 1)
    for first, second, seeds in _blocks(rows):
        ours, theirs = (np.array([[seed_means[k][seed] for seed in seeds] for k in block]) for block in (first, second))
        difference = np.round(ours.mean(axis=1)[:, None] - theirs.mean(axis=1), 12)
        by_seeds = (ours[:, None] - theirs).var(axis=2, ddof=1) / len(seeds)
        by_images = _image_variances(rows, first, second, seeds)
        here, mirrored = np.ix_(first, second), np.ix_(second, first)
        sign[here] = np.sign(difference)
        sign[mirrored] = -sign[here].T
        p_value[here] = p_values(difference, by_seeds, by_images, len(seeds) - 1, image_df)
        p_value[mirrored] = p_value[here].T
        if pooled is not None and p_pooled is not None:
            by_seeds = (pooled[first][:, None] + pooled[second]) / len(seeds)
            df = pooled_df(float(min(dfs[first[0]], dfs[second[0]])))  # a block's rows have equally many seeds
            p_pooled[here] = p_values(difference, by_seeds, by_images, df, image_df)
            p_pooled[mirrored] = p_pooled[here].T
        others = np.not_equal.outer(first, second)
        for block, axis in ((first, 1), (second, 0))[: 1 if first is second else 2]:
            image_variance[block] += (by_images * others).sum(axis=axis)
            compared[block] += others.sum(axis=axis)
    np.fill_diagonal(p_value, np.nan)
    if p_pooled is not None:
        np.fill_diagonal(p_pooled, np.nan)
    smallest = np.full(n, np.nan)
    for k in np.flatnonzero(compared):
        own_df, on_images = int(dfs[k]), image_variance[k] / compared[k]
        smallest[k] = half_width(2 * variances[k] / (own_df + 1), on_images, own_df, image_df)
    return Pairs(sign, p_value, p_pooled, smallest)


def ranking(sign: NDArray[np.int8], p_value: Floats, madds: Sequence[float] | Floats, alpha: float = ALPHA) -> Ranking:
    """The rank ranges of the rows of one family: all of a table, or those within a budget (`within`).

    sign, p_value: (N, N) as of `Pairs`; madds: (N,) mean for each row.

    >>> sign = np.array([[0, 1], [-1, 0]], dtype=np.int8)  # the first row has the higher score
    >>> ranks = ranking(sign, np.array([[np.nan, 0.01], [0.01, np.nan]]), madds=[2e6, 1e6])
    >>> ranks.low.tolist(), ranks.high.tolist(), ranks.not_worse.tolist()
    ([1, 2], [1, 2], [True, True])
    """
    n = len(sign)
    tested = ~np.isnan(p_value)
    threshold = holm_threshold(p_value[np.triu(tested, 1)], alpha)
    differs = tested & (p_value <= threshold)
    better = differs & (sign > 0)  # (row, column): the row is surely better
    ranked = np.any(tested, axis=1)
    low = np.where(ranked, 1 + better.sum(axis=0), 0)
    high = np.where(ranked, np.count_nonzero(ranked) - better.sum(axis=1), 0)
    cost = np.asarray(madds, dtype=np.float64)
    beaten = np.any(better & (cost[:, None] <= cost), axis=0)  # by a row that costs at most as much
    tied = ~differs & np.logical_and.outer(ranked, ranked) & ~np.eye(n, dtype=bool)
    return Ranking(low, high, tied, ranked & ~beaten)


def within(pairs: NDArray, chosen: NDArray[np.bool_]) -> NDArray:
    """The part of an (N, N) array that is about the chosen rows: a family of its own, corrected by itself."""
    return pairs[chosen][:, chosen]


def holm_threshold(p_values: Floats, alpha: float = ALPHA) -> float:
    """The largest p value that Holm's correction rejects at alpha; -1 when it rejects none."""
    small = np.sort(p_values[p_values <= alpha])
    accepted = small * (len(p_values) - np.arange(len(small))) > alpha
    rejected = int(accepted.argmax()) if accepted.any() else len(small)
    return float(small[rejected - 1]) if rejected else -1.0


def memory_needed(rows: int, images: int) -> int:
    """Bytes that `compare_all` and `ranking` hold at most beside the scores."""
    return 25 * rows**2 + 8 * min(rows, BLOCK) * (6 * images + 16 * min(rows, BLOCK))


def _image_variances(
    rows: Sequence[RowScores], first: NDArray[np.int64], second: NDArray[np.int64], seeds: Sequence[int]
) -> Floats:
    """(first, second): the variance that the images give the difference of each pair, as in `compare`."""

    def centred(block: NDArray[np.int64]) -> Floats:
        by_image = np.stack([np.mean([rows[k][seed] for seed in seeds], axis=0, dtype=np.float64) for k in block])
        return by_image - by_image.mean(axis=1)[:, None]  # (rows, images)

    ours = centred(first)
    theirs = ours if first is second else centred(second)
    images = ours.shape[1]
    squares = np.square(ours).sum(axis=1)[:, None] + np.square(theirs).sum(axis=1) - 2 * ours @ theirs.T
    return np.maximum(squares, 0) / (images * max(images - 1, 1)) + ONE_IMAGE / images**2


def _blocks(
    rows: Sequence[RowScores],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], list[int]]]:
    """Pairs of blocks of rows, and the seeds that they share; rows of one block have the same seeds."""
    groups: dict[frozenset[int], list[int]] = {}
    for k, row in enumerate(rows):
        groups.setdefault(frozenset(row), []).append(k)
    blocks = [
        (seeds, np.array(group[start : start + BLOCK]))
        for seeds, group in groups.items()
        for start in range(0, len(group), BLOCK)
    ]
    for index, (seeds, first) in enumerate(blocks):
        for others, second in blocks[index:]:
            if len(common := sorted(seeds & others)) >= MINIMUM_SEEDS:
                yield first, second, common
