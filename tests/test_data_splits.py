"""Fixed orders: frozen, a function of their key alone, balanced."""

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.data.splits import balanced_order, cut, keyed_integers, keyed_order, train_subset


def test_keyed_integers_are_frozen():
    # Any change here moves images between the splits of every dataset: raise their versions.
    assert keyed_integers(3, "split", "digits", 1).tolist() == [
        5131705947770236094,
        630800204778391076,
        419697645716878748,
    ]
    assert keyed_order(8, "order", 0, 0).tolist() == [1, 0, 5, 3, 6, 2, 4, 7]


def test_the_key_decides():
    assert np.array_equal(keyed_integers(50, "a", 1), keyed_integers(50, "a", 1))
    assert np.array_equal(keyed_integers(80, "a", 1)[:50], keyed_integers(50, "a", 1))
    others = [("a", 2), ("b", 1), ("a", 1, 0), ("a1",), ("a", "1", "x")]
    assert all(not np.array_equal(keyed_integers(50, "a", 1), keyed_integers(50, *key)) for key in others)


def test_global_random_state_is_neither_used_nor_touched():
    np.random.seed(1)  # noqa: NPY002  (the global state is the subject)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = keyed_order(100, "x")
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert np.array_equal(first, keyed_order(100, "x"))


def test_keyed_order_is_a_permutation():
    assert sorted(keyed_order(1000, "x").tolist()) == list(range(1000))
    assert keyed_order(1000, "x").tolist() != list(range(1000))


def test_any_run_of_a_balanced_order_is_balanced():
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 40))
    order = balanced_order(targets, "x")
    assert sorted(order.tolist()) == list(range(200))
    for start, stop in [(0, 7), (0, 50), (13, 64), (100, 200)]:
        counts = np.bincount(targets[order[start:stop]], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_a_balanced_order_goes_on_without_an_exhausted_class():
    targets = np.array([0, 0, 0, 0, 1, 2, 2])
    assert targets[balanced_order(targets, "x")].tolist() == [0, 1, 2, 0, 2, 0, 0]


def test_members_of_a_class_are_shuffled():
    order = balanced_order(np.zeros(100, np.int64), "x")
    assert order.tolist() != sorted(order.tolist())


def test_cut_divides_the_whole_order():
    parts = cut(np.arange(10)[::-1], {"a": 3, "b": 2}, rest="c")
    assert {name: part.tolist() for name, part in parts.items()} == {
        "a": [9, 8, 7],
        "b": [6, 5],
        "c": [4, 3, 2, 1, 0],
    }


def test_train_subset_is_the_start_of_the_order():
    order = np.array([4, 2, 0, 1])
    assert train_subset(order, None, "toy").tolist() == [4, 2, 0, 1]
    assert train_subset(order, 2, "toy").tolist() == [4, 2]


@pytest.mark.parametrize("asked", [0, 5])
def test_train_subset_of_a_size_that_there_is_not(asked):
    with pytest.raises(UserError) as error:
        train_subset(np.arange(4), asked, "toy/official@1")
    assert str(error.value) == f"train_images must be between 1 and the 4 of toy/official@1, not {asked}"
