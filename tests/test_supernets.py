"""The contract that every family and preset keeps: all ways to run a sub-network agree, and counts match what runs."""

import threading

import pytest
import torch
from small_data import InOrder

from bench.models import PRESETS
from bench.profilers.madds import executed_madds, fvcore_madds
from bench.slicing.dynamic import (
    ExtractedSegments,
    ViewSegments,
    fixed_router,
    run_grouped,
    run_masked,
    run_one_by_one,
)
from bench.slicing.extract import extract, parameters_of
from bench.slicing.supernet import View
from bench.training.calibrate import calibrate

MICRO = [name for name in PRESETS.names() if "micro" in name]
SIZES = {"micro8": 8, "micro32": 32, "micro64": 64, "det_micro": 64}
IMAGES = 6


def size_of(name: str) -> int:
    return next(size for suffix, size in SIZES.items() if name.endswith(suffix))


@pytest.fixture(scope="module", params=MICRO)
def case(request):
    """A preset with lived-in weights and statistics, and a few images."""
    torch.manual_seed(0)
    net = PRESETS.get(request.param).build()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    size = size_of(request.param)
    x = torch.randn(IMAGES, net.input_channels, size, size)
    if net.space.prefix_statistics:
        calibrate(net, net.space.named, InOrder(torch.randn(32, net.input_channels, size, size)), torch.device("cpu"))
    return net.eval(), x


def ladder(net):
    """The named choices, thinned where the ladder is long."""
    named = list(net.space.named)
    return named if len(named) <= 6 else [*named[::7], named[-1]]


def close(a, b, tolerance=1e-5):
    assert (a - b).abs().max() <= tolerance * b.abs().max()


@torch.no_grad()
def test_view_equals_extracted_and_folded(case):
    net, x = case
    for choice in ladder(net):
        view = net(x, choice)
        close(extract(net, choice)(x), view)
        close(extract(net, choice, fold_bn=True)(x), view)
        assert not torch.equal(view, net(x.flip(0), choice)), "the output must depend on the input"


def test_three_counters_agree(case):
    net, x = case
    one = x[:1]
    for choice in ladder(net):
        claimed = net.cost(choice, x.shape[-1]).madds
        assert executed_madds(View(net, choice), one) == claimed
        assert executed_madds(extract(net, choice), one) == claimed
        assert fvcore_madds(extract(net, choice), one) == claimed
        assert executed_madds(View(net, choice), x) == IMAGES * claimed


def test_segment_costs_add_up(case):
    net, x = case
    for choice in ladder(net):
        parts = net.segment_costs(choice, x.shape[-1])
        assert sum(part.madds for part in parts) == net.cost(choice, x.shape[-1]).madds


def test_wider_choices_cost_more_and_largest_holds_all_parameters(case):
    net, x = case
    costs = [cost.madds for cost in net.costs(net.space.uniform_choices, x.shape[-1])]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]
    smallest, largest = (parameters_of(extract(net, c)) for c in (net.space.smallest, net.space.largest))
    assert smallest < largest <= parameters_of(net)


def routes_of(net) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    columns = [torch.randint(len(d.options), (IMAGES,), generator=generator) for d in net.space.decisions]
    return torch.stack(columns, dim=1)


@torch.no_grad()
def test_grouped_masked_and_one_by_one_agree_with_the_views(case):
    net, x = case
    if not net.space.decisions:
        pytest.skip("this family has no gate")
    route = routes_of(net)
    router = fixed_router(route)
    expected = torch.cat([net(x[i : i + 1], net.space.routed(r)) for i, r in enumerate(route.tolist())])
    ways = {
        "grouped": run_grouped(ViewSegments(net), net.space, router, x),
        "extracted": run_grouped(ExtractedSegments(net), net.space, router, x),
        "one by one": run_one_by_one(ViewSegments(net), net.space, router, x),
        "masked": run_masked(net, router, x),
    }
    for way, prediction in ways.items():
        assert torch.equal(prediction.route, route), way
        close(prediction.output, expected)


def test_grouped_executes_less_than_masked(case):
    net, x = case
    if not net.space.decisions:
        pytest.skip("this family has no gate")
    smallest = fixed_router(torch.zeros(IMAGES, len(net.space.decisions), dtype=torch.int64))
    grouped = executed_madds(lambda x: run_grouped(ViewSegments(net), net.space, smallest, x), x)
    assert grouped == IMAGES * net.cost(net.space.routed([0] * len(net.space.decisions)), x.shape[-1]).madds
    assert grouped < executed_madds(lambda x: run_masked(net, smallest, x), x)


def test_a_forward_changes_nothing_on_the_network(case):
    net, x = case
    before = {key: value.clone() for key, value in net.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in net.named_modules()}
    with torch.no_grad():
        first = net(x, net.space.largest)
        net(x, net.space.smallest)
        assert torch.equal(net(x, net.space.largest), first)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert attributes == {name: set(vars(module)) for name, module in net.named_modules()}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_gradients_outside_the_slice_are_zero(case):
    net, x = case
    net.zero_grad(set_to_none=True)
    net(x, net.space.smallest).square().sum().backward()
    plain = parameters_of(extract(net, net.space.smallest))
    touched = sum(int((p.grad != 0).sum()) for p in net.parameters() if p.grad is not None)
    net.zero_grad(set_to_none=True)
    assert 0 < touched <= plain


def test_two_threads_run_two_choices_at_once(case):
    net, x = case
    choices = [net.space.smallest, net.space.largest]
    with torch.no_grad():
        expected = [net(x, choice) for choice in choices]
    wrong: list[int] = []

    def work(index: int) -> None:
        with torch.no_grad():
            for _ in range(5):
                if not torch.equal(net(x, choices[index]), expected[index]):
                    wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_any_subrange_of_options_can_be_routed_to(case):
    from bench.points import RoutedPoint
    from bench.slicing.gate import new_gates

    net, x = case
    if not net.space.decisions:
        pytest.skip("this family has no gate")
    routing = tuple(tuple(range(1, len(decision.options))) for decision in net.space.decisions)
    gates = new_gates(net, routing, x.shape[-1])
    for gate in gates:
        torch.nn.init.normal_(gate.head.weight, std=5.0)
    point = RoutedPoint("d", net, gates, routing, x.shape[-1])
    with torch.no_grad():
        route = point(x).route
    for column, options in zip(route.T, routing, strict=True):
        assert set(column.tolist()) <= set(options)
    assert [list(r) for r in point.routing] == [list(r) for r in routing], "routing lists must not shrink"
