"""Which sub-networks a profile is of."""

import math
from itertools import pairwise

import pytest

from bench.core.errors import UserError
from bench.models import PRESETS
from bench.profilers.choices import chosen, routable, spread

DS = "ds_mobilenet_micro8"


def test_names_and_indices():
    net = PRESETS.get(DS).build()
    space = net.space
    assert chosen(net, "all", 8) == list(space.named)
    assert chosen(net, " 2, largest,0 ", 8) == [space.uniform(2), space.largest, space.uniform(0)]
    assert chosen(net, "1,1,0", 8) == [space.uniform(1), space.uniform(0)]
    for text in ("", "one", "-1", "1;2", "²", "spread", "spread:1", "spread:x", "routable,1"):
        with pytest.raises(UserError, match="--choices takes 'all', 'routable', 'spread:N' with N from 2, or indices"):
            chosen(net, text, 8)
    with pytest.raises(UserError, match="no sub-network 4: this space has choices 0 to 3"):
        chosen(net, "0,4", 8)


@pytest.mark.parametrize(
    ("name", "count"),
    [(DS, 4), ("ds_mobilenet_v1", 14), ("ds_mobilenet_pp_micro8", 8), ("ds_resnet_micro8", 64), ("ds_vit_micro8", 256),
     ("ds_resnet_pp_micro8", 512), ("us_mobilenet_micro8", 31)],
)  # fmt: skip
def test_what_the_gates_reach(name, count):
    space = PRESETS.get(name).build().space
    found = routable(space)
    assert len(found) == len(set(found)) == count
    assert space.smallest in found
    assert all(space.check(choice) == choice for choice in found)


def test_a_network_that_no_gate_reaches_is_not_spread_over():
    """The largest DS-MBNet has a wider prefix than any routed network."""
    net = PRESETS.get("ds_mobilenet_v1").build()
    found = chosen(net, "spread:8", 224)
    assert (found[0], found[-1], len(found)) == (net.space.uniform(0), net.space.uniform(13), 8)
    assert net.space.largest not in found


@pytest.mark.parametrize("name", ["ds_vit_micro8", "ds_resnet_micro8", "ds_resnet_pp_micro8"])
def test_a_spread_is_even_in_the_logarithm_of_the_cost(name):
    net = PRESETS.get(name).build()
    madds = [cost.madds for cost in net.costs(chosen(net, "spread:8", 8), 8)]
    every = [cost.madds for cost in net.costs(routable(net.space), 8)]
    steps = [math.log(b / a) for a, b in pairwise(madds)]
    assert (madds[0], madds[-1], len(madds)) == (min(every), max(every), 8)
    even = math.log(max(every) / min(every)) / 7
    assert all(0.5 * even < step < 1.5 * even for step in steps)


def test_a_spread_over_few_costs_takes_each_once():
    assert spread([100, 10], 8) == [1, 0]
    assert spread([5], 8) == [0]
    assert spread([1, 1000, 10, 100, 99], 4) == [0, 2, 3, 1]
    assert spread([7, 7, 7], 2) == [0]


def test_all_that_is_routable_comes_in_ascending_cost():
    net = PRESETS.get("ds_resnet_micro8").build()
    madds = [cost.madds for cost in net.costs(chosen(net, "routable", 8), 8)]
    assert madds == sorted(madds)
    assert len(madds) == 64
