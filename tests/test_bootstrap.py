"""The bootstrap that the closed form is tested against, against an obvious second version."""

import math

import bootstrap
import numpy as np
import pytest
from bootstrap import PairedBootstrap


def rows_of(generator, accuracies, seeds=3, images=400):
    """Rows of 0/1 scores whose images are equally hard for all rows: row name -> seed -> (images,)."""
    difficulty = generator.uniform(size=images)
    return {
        name: {s: (difficulty + generator.normal(0, 0.05, images) < level) * 1.0 for s in range(seeds)}
        for name, level in accuracies.items()
    }


def naive_differences(first, second, seeds, resamples, stretch):
    """The bootstrap as one would tell it: draw images, draw seeds, average; no matrices."""
    images = len(first[seeds[0]])
    draw_images = np.random.default_rng([bootstrap.BOOTSTRAP_SEED, 0])
    draw_seeds = np.random.default_rng([bootstrap.BOOTSTRAP_SEED, 1, len(seeds)])
    image_draws = [[int(i) for i in draw_images.integers(images, size=images)] for _ in range(resamples)]
    results = []
    for drawn in image_draws:
        by_seed = [sum(first[s][i] - second[s][i] for i in drawn) / images for s in seeds]
        picked = [by_seed[int(k)] for k in draw_seeds.integers(len(seeds), size=len(seeds))]
        centre = sum(by_seed) / len(by_seed)
        results.append(centre + stretch * (sum(picked) / len(picked) - centre))
    return results


@pytest.mark.parametrize("small_sample", [True, False])
def test_bootstrap_equals_a_naive_loop(small_sample):
    rows = rows_of(np.random.default_rng(0), {"a": 0.7, "b": 0.66}, images=40)
    found = PairedBootstrap(rows, 300, small_sample=small_sample).compare("a", "b")
    stretch = math.sqrt(3 / 2) * 4.302653 / 1.959964 if small_sample else 1.0
    naive = naive_differences(rows["a"], rows["b"], [0, 1, 2], 300, stretch)
    plain = np.mean([rows["a"][s].mean() - rows["b"][s].mean() for s in range(3)])
    at_most, at_least = sum(d <= 1e-12 for d in naive), sum(d >= -1e-12 for d in naive)
    assert found is not None
    assert found.difference == pytest.approx(plain)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(naive, [2.5, 97.5])), abs=1e-6)
    assert found.p_value == pytest.approx(min(1, 2 * (1 + min(at_most, at_least)) / 301))
    assert (found.seeds, found.images) == (3, 40)


def test_equal_scores_give_equal_results_and_swapped_rows_the_opposite():
    rows = rows_of(np.random.default_rng(1), {"a": 0.8, "b": 0.7})
    forward, again = (PairedBootstrap(rows, 500).compare("a", "b") for _ in range(2))
    backward = PairedBootstrap(rows, 500).compare("b", "a")
    assert forward == again
    assert forward is not None
    assert backward is not None
    assert backward.difference == -forward.difference
    assert (backward.low, backward.high) == pytest.approx((-forward.high, -forward.low))
    assert backward.p_value == forward.p_value
    assert forward.reversed().reversed() == forward


def test_a_row_does_not_differ_from_itself():
    rows = rows_of(np.random.default_rng(2), {"a": 0.8})
    found = PairedBootstrap({"a": rows["a"], "copy": rows["a"]}, 500).compare("a", "copy")
    assert found is not None
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_pairing_sees_what_separate_intervals_cannot():
    """b solves what a solves and 2 % more: certain when paired, far inside the noise of independent rows."""
    generator = np.random.default_rng(3)
    base = {s: (generator.uniform(size=1000) < 0.6) * 1.0 for s in range(3)}
    better = {s: base[s].copy() for s in range(3)}
    for s in range(3):
        better[s][np.flatnonzero(base[s] == 0)[:20]] = 1.0
    found = PairedBootstrap({"a": base, "b": better}).compare("b", "a")
    shuffled = {s: better[s][generator.permutation(1000)] for s in range(3)}
    unpaired = PairedBootstrap({"a": base, "b": shuffled}).compare("b", "a")
    assert found is not None
    assert unpaired is not None
    assert found.p_value < 0.01 < 0.1 < unpaired.p_value


def test_only_common_seeds_are_compared():
    rows = rows_of(np.random.default_rng(4), {"a": 0.8, "b": 0.7}, seeds=5)
    fewer = {s: rows["b"][s] for s in (1, 3, 4)}
    mixed = PairedBootstrap({"a": rows["a"], "b": fewer}, 500).compare("a", "b")
    alone = PairedBootstrap({"a": {s: rows["a"][s] for s in (1, 3, 4)}, "b": fewer}, 500).compare("a", "b")
    assert mixed == alone
    assert PairedBootstrap({"a": {0: rows["a"][0]}, "b": fewer}, 500).compare("a", "b") is None


def test_rows_on_different_images_are_refused():
    with pytest.raises(ValueError, match="different numbers of images"):
        PairedBootstrap({"a": {0: np.ones(5)}, "b": {0: np.ones(6)}})


def false_alarms(small_sample, tables=150):
    """Share of tables in which two rows that differ by their seeds alone come out as different at 5 %."""
    generator = np.random.default_rng(7)
    alarms = 0
    for _ in range(tables):
        difficulty = generator.normal(1, 2, 1000)
        rows = {}
        for name in "ab":
            luck = generator.normal(0, 0.2, 3)
            rows[name] = {s: (difficulty + luck[s] + generator.normal(0, 0.5, 1000) > 0) * 1.0 for s in range(3)}
        found = PairedBootstrap(rows, 250, small_sample=small_sample).compare("a", "b")
        alarms += found is not None and found.p_value < 0.05
    return alarms / tables


def test_three_seeds_raise_no_more_false_alarms_than_promised():
    assert false_alarms(small_sample=True) <= 0.05
    assert false_alarms(small_sample=False) > 0.10  # the plain bootstrap: why the seed part is stretched
