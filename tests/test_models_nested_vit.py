"""The nested transformer: slices from either end, costs by METHODS 3.4, the full network that of the other family."""

import copy
import random

import pytest
import torch
from small_runs import small_net

from bench.models import PRESETS
from bench.models.vit import timm_names as deit
from bench.models.vit.nested import NestedBlock, NestedEmbedding, NestedHead, part, times
from bench.models.vit.order import order_heads, order_hidden, order_stream
from bench.profilers.madds import executed_madds
from bench.slicing.choice import Choice
from bench.slicing.extract import extract, parameters_of

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def weightless(name):
    with torch.device("meta"):
        return PRESETS.get(name).build()


def mixed_choices(space, count=8):
    """Choices off the ladder: each block and either end on its own."""
    generator = random.Random(3)
    lists = [[range(len(values)) for _, values in stage.dimensions] for stage in space.stages]
    return [Choice(tuple(tuple(generator.choice(r) for r in ranges) for ranges in lists)) for _ in range(count)]


def at_end(choice, leading):
    (embedding, _), *blocks = choice.indices
    return Choice(((embedding, leading), *blocks))


def test_parts_by_hand():
    assert [list(range(8))[part(3, 8, leading)] for leading in (True, False)] == [[0, 1, 2], [5, 6, 7]]
    assert list(range(8))[times(part(1, 2, False), 4)] == [4, 5, 6, 7]


def test_costs_are_those_of_the_reference_table():
    """METHODS 3.4: DeiT-Ti, DeiT-S and DeiT-B are steps of one ladder."""
    net = weightless("nested_vit_b")
    madds = [net.cost(choice, 224).madds for choice in net.space.uniform_choices]
    assert len(madds) == 10
    assert [round(madds[step] / 1e9, 3) for step in (0, 3, 9)] == [1.254, 4.599, 17.564]


def test_sub_networks_have_the_parameters_of_deit():
    """5.7 M, 22 M and 86 M of DeiT-Ti, S and B, added up by hand."""
    net = weightless("nested_vit_b")
    for step, width in ((0, 192), (3, 384), (9, 768)):
        block = 12 * width**2 + 13 * width  # attention 4, MLP 8; biases 4 + 5, two norms 4
        outside = (768 + 1) * width + 198 * width + 2 * width + 1000 * (width + 1)
        assert parameters_of(extract(net, net.space.uniform(step))) == 12 * block + outside


@torch.no_grad()
def test_the_full_network_is_that_of_the_idle_family_and_of_timm():
    net, other = small_net("nested_vit_micro8").eval(), PRESETS.get("ds_vit_micro8").build().eval()
    deit.load_timm(other, deit.to_timm(net))
    expected = other(X, other.space.largest)
    for leading in (1, 0):
        torch.testing.assert_close(net(X, at_end(net.space.largest, leading)), expected)


@torch.no_grad()
def test_any_choice_runs_as_its_copy_and_costs_what_it_claims():
    net = small_net("nested_vit_micro8").eval()
    for choice in mixed_choices(net.space):
        plain = extract(net, choice)
        torch.testing.assert_close(plain(X), net(X, choice))
        claimed = net.cost(choice, 8).madds
        assert executed_madds(plain, X[:1]) == claimed
        assert executed_madds(lambda x, c=choice: net(x, c), X[:1]) == claimed


@torch.no_grad()
def test_the_trailing_slice_is_the_leading_one_of_the_reversed_network():
    """By another way: heads, hidden units and channels put in reverse order in all that reads or writes them."""
    net = small_net("nested_vit_micro8").eval()
    reverse = copy.deepcopy(net)
    for unit in reverse.modules():
        if isinstance(unit, NestedBlock):
            order_heads(unit.block.attention, torch.arange(unit.heads).flip(0))
            order_hidden(unit.block, torch.arange(unit.hidden).flip(0))
    order_stream(reverse, torch.arange(64).flip(0))
    for choice in net.space.uniform_choices[:-1]:
        torch.testing.assert_close(net(X, at_end(choice, 0)), reverse(X, choice))
        assert not torch.allclose(net(X, at_end(choice, 0)), net(X, choice), atol=1e-2)


def test_the_isolated_smallest_shares_least_with_its_neighbours():
    """Embedding 16 of 64 leading, 48 trailing: not one weight of a block in common."""
    net = small_net("nested_vit_micro8")
    smallest, upper = net.space.uniform(0), at_end(net.space.uniform(2), 0)
    touched = []
    for choice in (smallest, upper):
        net.zero_grad()
        net(X, choice).square().sum().backward()
        touched.append([p.grad != 0 for n, p in net.named_parameters() if ".block." in n])
    assert all(not (a & b).any() for a, b in zip(*touched, strict=True))
    assert all(a.any() for a in touched[0])


def test_units_are_of_this_family():
    kinds = [type(unit) for unit in weightless("nested_vit_micro32").segments[0].units]
    assert kinds == [NestedEmbedding, *[NestedBlock] * 4, NestedHead]


@pytest.mark.parametrize("name", ["nested_vit_s", "nested_vit_b"])
def test_heads_keep_their_width(name):
    space = weightless(name).space
    for choice in space.uniform_choices:
        assert space.width(choice, 0, "embedding") == 64 * space.width(choice, 1, "heads")
        assert space.width(choice, 12, "mlp") == 4 * space.width(choice, 0, "embedding")
