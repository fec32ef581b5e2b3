"""The closed form of seeds and images: against 200,000 resamples, against a loop, and in what it promises."""

import math

import numpy as np
import pytest
from bootstrap import PairedBootstrap, image_means, seed_stretch, seed_weights
from scipy import stats

from bench.statistics.crossed import P_FLOOR, compare, half_width, p_values, row_interval


def simulated(generator, seeds=3, images=600, luck=0.1, shift=0.0, rest=0.5, soft=False):
    """Two rows on equally hard images: name -> seed -> (images,); soft: scores within [0, 1], not just 0 and 1."""
    difficulty = generator.normal(1, 2, images)
    rows = {}
    for name, better in (("a", shift), ("b", 0.0)):
        by_seed = generator.normal(better, luck, seeds)
        margins = {s: difficulty + by_seed[s] + generator.normal(0, rest, images) for s in range(seeds)}
        rows[name] = {s: 1 / (1 + np.exp(-3 * m)) if soft else (m > 0) * 1.0 for s, m in margins.items()}
    return rows


@pytest.mark.parametrize(
    ("seeds", "luck", "shift", "rest", "soft"),
    [(3, 0.05, 0.3, 0.5, False), (5, 0.2, 0.4, 0.5, False), (8, 0.3, 0.3, 0.5, False), (8, 0.2, 0.1, 0.5, True)],
)
def test_agreement_with_200_000_resamples(seeds, luck, shift, rest, soft):
    images, resamples = 200, 200_000
    rows = simulated(np.random.default_rng(1), seeds, images, luck, shift, rest, soft)
    table = np.stack([rows["a"][s] - rows["b"][s] for s in range(seeds)])  # (seeds, images)
    by_seed, by_image = table.mean(axis=1), table.mean(axis=0)
    on_images, shares = image_means(table, resamples), seed_weights(seeds, resamples)

    # The plain bootstrap has the two parts (without the correction for few seeds), and a third time what seed and
    # image do together (Owen 2007).
    seed_part, image_part = by_seed.var(ddof=1) / seeds, by_image.var(ddof=1) / images
    together = np.square(table - by_seed[:, None] - by_image + table.mean()).sum() / (seeds * images) ** 2
    expected = image_part * (images - 1) / images + seed_part * (seeds - 1) / seeds + together
    assert (on_images * shares).sum(axis=1).var() == pytest.approx(expected, rel=0.02)

    # Seeds resampled on the images as they are, so that it counts twice as in the closed form.
    draws = on_images.mean(axis=1) + seed_stretch(seeds) * (shares @ by_seed - by_seed.mean())
    found = compare(rows["a"], rows["b"])
    assert found is not None
    assert found.difference == pytest.approx(table.mean())
    assert found.high - found.low == pytest.approx(np.diff(np.quantile(draws, [0.025, 0.975]))[0], rel=0.06)
    assert found.p_value == pytest.approx(2 * min((draws <= 0).mean(), (draws >= 0).mean()), abs=0.05)
    assert (found.seeds, found.images) == (seeds, images)

    # The crossed bootstrap is the wider for its third counting, never the narrower.
    crossed = PairedBootstrap(rows, 4000).compare("a", "b")
    assert crossed is not None
    assert 0.7 < (found.high - found.low) / (crossed.high - crossed.low) < 1.02


@pytest.mark.parametrize(("seed_df", "image_df"), [(2, 599), (4, 9999), (2.5, 50), (0, 999)])
def test_p_is_the_level_whose_interval_just_excludes_zero(seed_df, image_df):
    generator = np.random.default_rng(2)
    seed_part, image_part = generator.exponential(1, (2, 200))
    for level in (0.9, 0.3, 0.05, 1e-3, 1e-7, 1e-11):
        edge = half_width(seed_part, image_part, seed_df, image_df, level)
        assert p_values(edge, seed_part, image_part, seed_df, image_df) == pytest.approx(level, rel=1e-4)
        assert p_values(-edge, seed_part, image_part, seed_df, image_df) == pytest.approx(level, rel=1e-4)


def test_p_values_at_the_ends():
    assert p_values([0.0, 1e9, 0.0, 1.0], [1, 1, 0, 0], [1, 1, 0, 0], 2, 99).tolist() == pytest.approx(
        [1, P_FLOOR, 1, P_FLOOR]
    )
    assert p_values(4.302653, 1, 0, 2, 99) == pytest.approx(0.05, rel=1e-4)  # Student's table
    assert p_values(1.959964, 0, 1, 0, 1e9) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("alpha", [0.05, 1e-3])
def test_false_alarms_stay_below_the_level_whatever_the_shares_and_the_level(share, alpha):
    """Normal differences without a true one: Banerjee's bound, which Satterthwaite's degrees of freedom break."""
    generator = np.random.default_rng(3)
    draws = 400_000
    seed_part = share * generator.chisquare(2, draws) / 2
    differences = generator.normal(size=draws)
    alarms = np.abs(differences) > half_width(seed_part, 1 - share, 2, 1e6, alpha)
    assert alarms.mean() <= alpha + 3 * math.sqrt(alpha / draws)
    if share == 0.9 and alpha == 1e-3:
        total = seed_part + 1 - share
        df = np.square(total) / (np.square(seed_part) / 2)
        assert (np.abs(differences) > stats.t.isf(alpha / 2, df) * np.sqrt(total)).mean() > 2 * alpha


def test_one_seed_speaks_of_the_images_alone():
    rows = simulated(np.random.default_rng(4), seeds=1)
    found = compare(rows["a"], rows["b"])
    assert found is not None
    paired = stats.ttest_rel(rows["a"][0], rows["b"][0])
    assert found.seeds == 1
    assert found.p_value == pytest.approx(paired.pvalue, abs=0.01)
    interval = paired.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=3e-4)  # ONE_IMAGE


def test_only_common_seeds_are_compared():
    rows = simulated(np.random.default_rng(5), seeds=5)
    fewer = {s: rows["b"][s] for s in (1, 3, 4)}
    assert compare(rows["a"], fewer) == compare({s: rows["a"][s] for s in (1, 3, 4)}, fewer)
    assert compare({0: rows["a"][0]}, fewer) is None


def test_equal_rows_are_not_different_and_not_certain_either():
    rows = simulated(np.random.default_rng(6))
    found = compare(rows["a"], rows["a"])
    assert found is not None
    assert (found.difference, found.p_value) == (0, 1)
    assert found.high == pytest.approx(1.964 / 600, rel=1e-3)
    four = {s: scores.copy() for s, scores in rows["a"].items()}
    for scores in four.values():
        scores[np.flatnonzero(rows["a"][0] + rows["a"][1] + rows["a"][2] == 0)[:4]] = 1
    few = compare(four, rows["a"])
    assert few is not None
    assert few.p_value > 0.05, "four images in favour of one row: by a test of signs p = 1/8"


def test_pairing_sees_what_separate_intervals_cannot():
    """b solves what a solves and 2 % more: certain when paired, far inside the noise of independent rows."""
    generator = np.random.default_rng(3)
    base = {s: (generator.uniform(size=1000) < 0.6) * 1.0 for s in range(3)}
    better = {s: base[s].copy() for s in range(3)}
    for s in range(3):
        better[s][np.flatnonzero(base[s] == 0)[:20]] = 1.0
    shuffled = {s: better[s][generator.permutation(1000)] for s in range(3)}
    found, unpaired = compare(better, base), compare(shuffled, base)
    assert found is not None
    assert unpaired is not None
    assert found.p_value < 0.01 < 0.1 < unpaired.p_value


def test_rows_on_different_images_are_refused():
    with pytest.raises(ValueError, match="different numbers of images"):
        compare({0: np.ones(5)}, {0: np.ones(6)})


def test_the_interval_of_a_row_is_hierarchical_and_stays_within_bounds():
    generator = np.random.default_rng(7)
    many = {s: (generator.uniform(size=4000) < 0.6 + 0.01 * s) * 1.0 for s in range(3)}
    table = np.stack(list(many.values()))
    half = math.sqrt(
        4.302653**2 * table.mean(axis=1).var(ddof=1) / 3 + 1.96056**2 * table.mean(axis=0).var(ddof=1) / 4000
    )
    found = row_interval(many)
    assert (found.low, found.high) == pytest.approx((table.mean() - half, table.mean() + half), abs=2e-3)
    near = {s: np.r_[np.zeros(wrong), np.ones(597 - wrong)] for s, wrong in enumerate((2, 40, 5))}
    assert np.mean([scores.mean() for scores in near.values()]) + 4.3 * 0.0207 > 1  # the t interval leaves [0, 1]
    assert 0 < row_interval(near).low < 1 - 47 / 3 / 597 < row_interval(near).high <= 1


def test_a_row_without_errors_is_not_certain():
    found = row_interval({s: np.ones(100) for s in range(3)})
    quantile = stats.t.ppf(0.975, 99) ** 2
    assert (found.mean, found.high) == (1, 1)
    assert found.low == pytest.approx(100 / (100 + quantile))  # Wilson
    none = row_interval({0: np.zeros(100)})
    assert (none.low, none.high) == pytest.approx((0, 1 - found.low))
    assert none.seeds == 1


def test_the_interval_of_one_seed_is_wilsons():
    scores = np.r_[np.zeros(30), np.ones(70)]
    wilson = stats.binomtest(70, 100).proportion_ci(method="wilson")
    found = row_interval({0: scores})
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=2e-3)
