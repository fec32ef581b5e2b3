"""The arrays beside an evaluation: small on disk, and what they hold comes back as it was."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from bench.statistics.per_image import pack, unpack


def back(score, madds, route, params):
    return unpack("p", load(save(pack("p", score, madds, route, params))))


@pytest.mark.parametrize("gates", [0, 1, 4])
def test_what_was_packed_comes_back(gates: int):
    generator = np.random.default_rng(gates)
    route = generator.integers(3, size=(400, gates))
    madds, params = 1000 + route.sum(1) ** 3, 10 + route.sum(1)
    for score in ((generator.random(400) < 0.5).astype(np.float32), generator.random(400, np.float32)):
        packed = back(score, madds, route, params)
        for given, kept in zip((score, madds, route), packed, strict=True):
            np.testing.assert_array_equal(kept, given)
        assert (packed.score.dtype, packed.madds.dtype, packed.route.dtype) == (np.float32, np.int64, np.int64)


def test_a_point_of_ten_thousand_images_takes_at_most_25_kilobytes():
    generator = np.random.default_rng(0)
    route = generator.integers(4, size=(10_000, 4))
    score = (generator.random(10_000) < 0.9).astype(np.float32)
    arrays = pack("dynamic0-1-2-3", score, 10**9 + route.sum(1), route, 10**7 + route.sum(1))
    assert len(save(arrays)) <= 25_000


def test_options_and_routes_beyond_a_byte_are_kept():
    route = np.arange(70_000)[:, None] * 3
    packed = back(np.zeros(70_000, np.float32), route[:, 0] + 1, route, route[:, 0])
    np.testing.assert_array_equal(packed.route, route)
    np.testing.assert_array_equal(packed.madds, route[:, 0] + 1)


def test_files_of_before_are_read():
    old = {"p/score": np.ones(3, np.float32), "p/madds": np.array([5, 6, 5]), "p/route": np.array([[0], [1], [0]])}
    packed = unpack("p", old)
    assert packed.madds.tolist() == [5, 6, 5]
    assert packed.route.tolist() == [[0], [1], [0]]


def test_one_route_has_one_cost():
    with pytest.raises(ValueError, match="p claims different costs for images of one route"):
        pack("p", np.zeros(2), np.array([1, 2]), np.zeros((2, 1), int), np.zeros(2, int))


def test_an_array_that_is_missing_is_named():
    arrays = pack("p", np.zeros(2), np.array([1, 1]), np.zeros((2, 1), int), np.zeros(2, int))
    del arrays["p/routes"]
    with pytest.raises(KeyError, match="p/routes"):
        unpack("p", arrays)
