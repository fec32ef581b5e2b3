"""Spread over seeds and Holm's correction, against values worked out by hand."""

import math

import pytest

from bench.statistics.intervals import holm, summarise


def test_sample_deviation_divides_by_n_minus_1():
    summary = summarise([2.0, 4.0, 9.0])  # squares of deviations: 9 + 1 + 16 = 26
    assert summary.mean == 5.0
    assert summary.std == pytest.approx(math.sqrt(26 / 2))
    assert summary.n == 3


def test_t_interval_by_the_table_of_student():
    summary = summarise([2.0, 4.0, 9.0])
    half = 4.302653 * math.sqrt(13) / math.sqrt(3)  # t(0.975, 2) from the printed table
    assert (summary.low, summary.high) == pytest.approx((5 - half, 5 + half), rel=1e-6)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_too_few_values_have_no_spread(values):
    summary = summarise(values)
    assert summary.n == len(values)
    assert math.isnan(summary.std)
    assert math.isnan(summary.low)


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; the last may not fall to 0.04.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0
