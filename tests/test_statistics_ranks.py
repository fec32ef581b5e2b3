"""Rank ranges: against an obvious second version, on ladders whose truth is known, and how often they lie."""

import itertools

import numpy as np
import pytest

from bench.statistics.crossed import ALPHA, compare
from bench.statistics.intervals import holm
from bench.statistics.pooling import pooled_df, pooled_variances
from bench.statistics.ranks import BLOCK, compare_all, holm_threshold, memory_needed, ranking, within


def ladder(generator, levels, luck: float | np.ndarray = 0.03, seeds=3, images=1000):
    """Rows of 0/1 scores by seed, on images that are equally hard for all rows.

    levels: (R,) score of a row, in standard deviations of a score's margin: rows of equal level have equal expected
    scores, whatever their luck (standard deviation over seeds, one or (R,)).
    """
    rows, luck = len(levels), np.broadcast_to(luck, len(levels))
    margins = generator.standard_normal(images) + 0.4 * generator.standard_normal((rows, 1, images))
    by_seed = luck[:, None] * generator.standard_normal((rows, seeds))
    rest = np.sqrt(0.5 - luck**2)[:, None, None] * generator.standard_normal((rows, seeds, images))
    solved = margins + by_seed[:, :, None] + rest > -1.3 * np.asarray(levels)[:, None, None]
    return [dict(enumerate(row.astype(np.float32))) for row in solved]


def obvious_ranges(rows, alpha=ALPHA):
    """Pair by pair, with the function for one pair and Holm's adjusted p values."""
    found = {pair: compare(rows[pair[0]], rows[pair[1]]) for pair in itertools.combinations(range(len(rows)), 2)}
    tested = {pair: one for pair, one in found.items() if one is not None and one.seeds >= 3}
    adjusted = holm([one.p_value for one in tested.values()])
    better = []
    for (first, second), one, p in zip(tested, tested.values(), adjusted, strict=True):
        if p <= alpha:
            better.append((first, second) if one.difference > 0 else (second, first))
    ranked = {row for pair in tested for row in pair}
    return [
        (1 + sum(b == k for _, b in better), len(ranked) - sum(a == k for a, _ in better)) if k in ranked else (0, 0)
        for k in range(len(rows))
    ]


def test_ranges_equal_those_of_a_loop_over_pairs():
    generator = np.random.default_rng(0)
    rows = ladder(generator, [2.5, 2.5, 1.0, 1.0, 0.0, -1.0], seeds=5)
    rows[2] = {s: rows[2][s] for s in (0, 2, 4)}
    rows[3] = {s: rows[3][s] for s in (1, 2, 3, 4)}
    rows.append({s: np.ones(1000, np.float32) for s in range(2)})  # best of all, but on two seeds
    pairs = compare_all(rows, range(len(rows)))
    found = ranking(pairs.sign, pairs.p_value, np.ones(len(rows)))
    expected = obvious_ranges(rows)
    assert list(zip(found.low, found.high, strict=True)) == expected
    assert expected[-1] == (0, 0)
    assert len(set(expected)) > 3, "the ladder has steps"
    for first, second in itertools.combinations(range(len(rows)), 2):
        one = compare(rows[first], rows[second])
        if one is not None and one.seeds >= 3:
            assert pairs.p_value[first, second] == pytest.approx(one.p_value, rel=1e-6)
            assert pairs.p_value[second, first] == pairs.p_value[first, second]
            assert pairs.sign[first, second] == -pairs.sign[second, first] == np.sign(one.difference)
        else:
            assert np.isnan(pairs.p_value[first, second])


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch):
    rows = ladder(np.random.default_rng(1), [1.0] * 7, images=200)
    rows[3] = {s: rows[3][s % 3] for s in range(4)}
    whole = compare_all(rows, range(7))
    monkeypatch.setattr("bench.statistics.ranks.BLOCK", 2)
    parts = compare_all(rows, range(7))
    assert np.allclose(whole.p_value, parts.p_value, equal_nan=True)
    assert whole.p_pooled is not None
    assert parts.p_pooled is not None
    assert np.allclose(whole.p_pooled, parts.p_pooled, equal_nan=True)
    assert np.allclose(whole.smallest, parts.smallest)
    assert (whole.sign == parts.sign).all()


def test_scores_between_0_and_1():
    generator = np.random.default_rng(2)
    rows = [{s: generator.beta(3 + k, 2, 300) for s in range(4)} for k in (0, 0, 9)]
    pairs = compare_all(rows, range(3))
    one = compare(rows[2], rows[0])
    assert one is not None
    assert pairs.p_value[2, 0] == pytest.approx(one.p_value, rel=1e-6)
    found = ranking(pairs.sign, pairs.p_value, [1, 2, 3])
    assert list(zip(found.low, found.high, strict=True)) == [(2, 3), (2, 3), (1, 1)]
    assert found.tied.tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_not_shown_worse_than_any_row_of_at_most_its_madds():
    """Row 0 is surely better than 1 and 2; it costs as much as 1 and more than 2."""
    sign = np.array([[0, 1, 1], [-1, 0, 1], [-1, -1, 0]], np.int8)
    p_value = np.array([[np.nan, 0.001, 0.001], [0.001, np.nan, 0.5], [0.001, 0.5, np.nan]])
    found = ranking(sign, p_value, [10.0, 10.0, 5.0])
    assert found.not_worse.tolist() == [True, False, True]
    assert list(zip(found.low, found.high, strict=True)) == [(1, 1), (2, 3), (2, 3)]


def test_a_budget_is_a_family_of_its_own():
    """Among all rows Holm needs p <= 0.05 / 3 first; within the budget there is one pair."""
    sign = np.array([[0, 1, 1], [-1, 0, 1], [-1, -1, 0]], np.int8)
    p_value = np.array([[np.nan, 0.04, 0.5], [0.04, np.nan, 0.5], [0.5, 0.5, np.nan]])
    chosen = np.array([True, True, False])
    every = ranking(sign, p_value, [1, 2, 3])
    few = ranking(within(sign, chosen), within(p_value, chosen), [1, 2])
    assert list(zip(every.low, every.high, strict=True)) == [(1, 3)] * 3
    assert list(zip(few.low, few.high, strict=True)) == [(1, 1), (2, 2)]


def test_holm_threshold_rejects_what_adjusted_p_values_reject():
    generator = np.random.default_rng(3)
    for size in (1, 2, 7, 30):
        for _ in range(50):
            p = np.round(generator.uniform(size=size) ** 4, 3)
            assert ((holm(p) <= 0.05) == (p <= holm_threshold(p))).all()
    assert holm_threshold(np.array([])) == -1


def test_the_smallest_difference_that_the_seeds_could_show():
    generator = np.random.default_rng(4)
    rows = ladder(generator, [1.0] * 4, luck=np.array([0.02, 0.02, 0.02, 0.3]))
    pairs = compare_all(rows, range(4))
    assert pairs.smallest[3] > 3 * pairs.smallest[:3].max(), "a noisy row can show less"
    spread = np.var([rows[3][s].mean() for s in range(3)], ddof=1)
    assert pairs.smallest[3] > 4.302653 * np.sqrt(2 * spread / 3), "two rows of that spread, and the images"
    assert np.isnan(compare_all([*rows, {0: rows[0][0]}], range(5)).smallest[4])


def test_pooled_variance_is_half_the_rows_own_and_counts_a_cluster_once():
    variances = [6.0, 0.0, 3.0, 3.0, 3.0, 3.0, 9.0, 99.0]
    pooled = pooled_variances(variances, [2] * 7 + [0], ["a", "b", "c", "d", "e", "f", "f", "one seed"])
    assert pooled is not None
    mean = (6 + 0 + 3 + 3 + 3 + (3 + 9) / 2) / 6
    assert pooled[:7] == pytest.approx([(value + mean) / 2 for value in variances[:7]])
    assert pooled_df(2) == 4
    assert pooled_variances(variances, [2] * 8, list("aabbccdd")) is None, "four rows do not tell"


def test_pooling_narrows_the_ranges_of_a_ladder():
    levels = np.repeat([3.0, 2.0, 1.0, 0.0], 5)
    rows = ladder(np.random.default_rng(5), levels, images=2000)
    pairs = compare_all(rows, range(20))
    assert pairs.p_pooled is not None
    plain, pooled = (ranking(pairs.sign, p, np.ones(20)) for p in (pairs.p_value, pairs.p_pooled))
    assert (plain.high - plain.low).sum() > (pooled.high - pooled.low).sum()
    for found in (plain, pooled):
        truth = 1 + 5 * np.arange(4).repeat(5)
        assert (found.low <= truth).all()
        assert (found.high >= truth + 4).all()


LADDERS = {
    "equal": np.full(8, 0.05),
    "unequal": np.geomspace(0.02, 0.3, 8),
    "one noisy": np.array([0.03] * 7 + [0.3]),
    "half noisy": np.array([0.03] * 4 + [0.2] * 4),
}


@pytest.mark.parametrize("name", LADDERS)
def test_a_ladder_without_steps_is_seldom_ranked(name: str):
    """Share of tables of equal rows in which any pair comes out as different: at most 5 %, plain and pooled."""
    generator = np.random.default_rng(6)
    tables, alarms = 200, {"plain": 0, "pooled": 0}
    above = np.triu_indices(8, 1)
    for _ in range(tables):
        rows = ladder(generator, np.ones(8), LADDERS[name])
        pairs = compare_all(rows, range(8))
        assert pairs.p_pooled is not None
        alarms["plain"] += holm_threshold(pairs.p_value[above]) > 0
        alarms["pooled"] += holm_threshold(pairs.p_pooled[above]) > 0
    assert alarms["plain"] / tables <= 0.05
    assert alarms["pooled"] / tables <= 0.05


def test_a_thousand_rows_take_seconds_and_bounded_memory():
    generator = np.random.default_rng(7)
    rows = ladder(generator, np.linspace(0, 3, 2 * BLOCK + 5), images=100)
    pairs = compare_all(rows, range(len(rows)))
    found = ranking(pairs.sign, pairs.p_value, np.ones(len(rows)))
    assert found.low.min() >= 1
    assert (found.low <= found.high).all()
    assert memory_needed(2667, 10_000) < 2**30
    assert memory_needed(20_000, 1000) > 2**33
