"""Fronts, areas and hulls against moocore, closed forms and brute force."""

import itertools
import math

import moocore
import numpy as np
import pytest

from bench.statistics import tradeoff


def random_points(seed, n=30, levels=None):
    generator = np.random.default_rng(seed)
    cost, score = generator.uniform(1, 10, n), generator.uniform(0, 1, n)
    return (cost, score) if levels is None else (np.ceil(cost * levels / 10), np.ceil(score * levels) / levels)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("levels", [None, 5])  # 5 levels: many ties and equal points
def test_front_equals_moocore(seed, levels):
    cost, score = random_points(seed, levels=levels)
    expected = moocore.is_nondominated(np.column_stack([cost, -score]), keep_weakly=True)
    assert tradeoff.pareto_front(cost, score).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_hypervolume_equals_moocore(seed):
    cost, score = random_points(seed)
    reference = (8.0, 0.2)  # some points lie outside
    expected = moocore.hypervolume(np.column_stack([cost, -score]), ref=[reference[0], -reference[1]])
    assert tradeoff.hypervolume(cost, score, reference) == pytest.approx(expected)


def test_front_by_hand():
    cost = [1, 2, 2, 3, 4]
    score = [0.5, 0.4, 0.7, 0.7, 0.9]
    assert tradeoff.pareto_front(cost, score).tolist() == [True, False, True, False, True]


def test_score_at_interpolates_in_log_cost():
    cost, score = [100, 400, 200], [0.5, 0.8, 0.45]  # the third is dominated: it plays no part
    at = tradeoff.score_at(cost, score, [50, 100, 200, 400, 1000])
    assert math.isnan(at[0])
    assert at[1:] == pytest.approx([0.5, 0.65, 0.8, 0.8])  # 200 is half way from 100 to 400 in log


def test_area_equals_the_closed_form_and_a_fine_sum():
    cost, score = [1, math.e, math.e**3], [0.2, 0.6, 0.8]
    # over log cost 0..1 the mean is 0.4, over 1..3 it is 0.7
    assert tradeoff.area_under_curve(cost, score, 1, math.e**3) == pytest.approx((0.4 + 2 * 0.7) / 3)
    grid = np.exp(np.linspace(math.log(1.5), math.log(9), 200_001))
    fine = tradeoff.score_at(cost, score, grid).mean()
    assert tradeoff.area_under_curve(cost, score, 1.5, 9) == pytest.approx(fine, abs=1e-5)
    assert math.isnan(tradeoff.area_under_curve(cost, score, 0.5, 9))
    with pytest.raises(ValueError, match="low < high"):
        tradeoff.area_under_curve(cost, score, 2, 2)


def test_common_range():
    assert tradeoff.common_range([([1, 5], [0, 1]), ([2, 9], [0, 1])]) == (2, 5)
    assert tradeoff.common_range([([1, 2], [0, 1]), ([3, 9], [0, 1])]) is None
    assert tradeoff.common_range([([1, 2], [0, 1]), ([1.5], [1])]) is None
    assert tradeoff.common_range([]) is None


def best_blind_mixture(cost, score, budget):
    """All pairs of points, mixed to meet the budget exactly, and all single points within it."""
    singles = [s for c, s in zip(cost, score, strict=True) if c <= budget]
    pairs = [
        s0 + (s1 - s0) * (budget - c0) / (c1 - c0)
        for (c0, s0), (c1, s1) in itertools.permutations(zip(cost, score, strict=True), 2)
        if c0 <= budget < c1
    ]
    return max(singles + pairs, default=math.nan)


def mixed(costs, scores, budget):
    """The score of the mixture of a hull at a budget."""
    shares = tradeoff.hull_mixture(costs, scores, budget)
    return math.nan if shares is None else shares @ np.asarray(scores)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("levels", [None, 5])
def test_hull_is_the_best_blind_mixture(seed, levels):
    cost, score = random_points(seed, n=12, levels=levels)
    for budget in np.linspace(cost.min() - 0.5, cost.max() + 0.5, 17):
        expected = best_blind_mixture(cost, score, budget)
        assert mixed(cost, score, budget) == pytest.approx(expected, nan_ok=True)
        shares = tradeoff.hull_mixture(cost, score, budget)
        if shares is not None:
            assert shares.sum() == pytest.approx(1)
            assert shares.min() >= 0
            assert shares @ cost <= budget + 1e-9


def test_hull_leaves_out_what_a_mixture_beats():
    cost, score = [3, 1, 2, 4], [0.8, 0.2, 0.3, 0.7]
    assert tradeoff.upper_hull(cost, score) == [1, 0]  # 2 lies below the line, 4 is costlier and worse
    assert mixed(cost, score, 2) == pytest.approx(0.5)
    assert mixed(cost, score, 100) == pytest.approx(0.8)


def test_over_seeds_measures_each_curve():
    curves = [([1, 2], [0.1, 0.2]), ([1, 2], [0.1, 0.4]), ([1, 2], [0.1, 0.3])]
    found = tradeoff.over_seeds(curves, lambda costs, scores: mixed(costs, scores, 2))
    assert (found.mean, found.std, found.n) == pytest.approx((0.3, 0.1, 3))


def test_a_curve_needs_a_score_for_each_cost():
    with pytest.raises(ValueError, match="as many costs as scores"):
        tradeoff.pareto_front([1, 2], [0.5])
