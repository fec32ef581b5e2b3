"""Several gates: images regroup at each, all ways to run agree, gradients reach every gate, controls take routes."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from small_runs import digits, full_routing, routed_point, small_net

from baselines.controls import RandomlyRouted, level_routes
from bench.core.errors import UserError
from bench.methods.ds_net import DSNetOptions, per_gate, point_name, routing_spaces
from bench.models import PRESETS
from bench.profilers.madds import executed_madds
from bench.slicing.bound import SoftChoice
from bench.slicing.choice import Choice
from bench.slicing.dynamic import (
    ExtractedSegments,
    ViewSegments,
    by_path,
    by_segment,
    fixed_router,
    run_grouped,
    run_masked,
    softened,
)
from bench.slicing.gate import new_gates
from bench.tasks.classification import Classification
from bench.training.gating import GateTrainer, StageTwo

SEVERAL, PAIRS, SINGLE = "ds_resnet_micro8", "ds_resnet_pp_micro8", "ds_resnet_bn_micro8"


def every_route(net):
    """All routes, in an order that mixes them."""
    routes = list(itertools.product(*(range(len(decision.options)) for decision in net.space.decisions)))
    order = torch.randperm(len(routes), generator=torch.Generator().manual_seed(0))
    return torch.tensor(routes)[order]


class Counting:
    """Segments that write down with how many images each of them was run."""

    def __init__(self, segments, gates):
        self.segments = segments
        self.groups = [[] for _ in range(gates + 1)]

    def __call__(self, index, x, choice):
        self.groups[index].append(len(x))
        return self.segments(index, x, choice)


def close(a, b, tolerance=1e-5):
    assert (a - b).abs().max() <= tolerance * b.abs().max()


@torch.no_grad()
def test_images_regroup_by_what_arrives_and_what_is_chosen():
    """All 64 routes in one batch: 4 groups behind the first gate, then 4 x 4 at each, where whole paths make 64."""
    net = small_net(SEVERAL).eval()
    route = every_route(net)
    x = torch.randn(len(route), 1, 8, 8)
    regrouped, paths = Counting(ViewSegments(net), 3), Counting(ViewSegments(net), 3)
    first = run_grouped(regrouped, net.space, fixed_router(route), x, by_segment)
    second = run_grouped(paths, net.space, fixed_router(route), x, by_path)
    assert [len(groups) for groups in regrouped.groups] == [1, 4, 16, 16]
    assert [len(groups) for groups in paths.groups] == [1, 4, 16, 64]
    assert all(sum(groups) == 64 for groups in (*regrouped.groups, *paths.groups))
    alone = torch.cat([net(x[i : i + 1], net.space.routed(r)) for i, r in enumerate(route.tolist())])
    for prediction in (first, second):
        assert torch.equal(prediction.route, route)
        close(prediction.output, alone)


@torch.no_grad()
def test_kernels_chosen_upstream_do_not_split_groups():
    """Eight options, four widths: what arrives is told by its width alone, so 4 x 8 groups and not 8 x 8."""
    net = small_net(PAIRS).eval()
    route = every_route(net)[:256]
    segments = Counting(ViewSegments(net), 3)
    run_grouped(segments, net.space, fixed_router(route), torch.randn(256, 1, 8, 8))
    assert [len(groups) for groups in segments.groups] == [1, 8, 32, 32]


@torch.no_grad()
def test_extracted_copies_are_made_once_for_each_group():
    net = small_net(SEVERAL).eval()
    route = every_route(net)
    x, segments = torch.randn(64, 1, 8, 8), ExtractedSegments(net)
    expected = run_grouped(ViewSegments(net), net.space, fixed_router(route), x)
    for _ in range(2):
        close(run_grouped(segments, net.space, fixed_router(route), x).output, expected.output)
        assert len(segments.plain) == 1 + 4 + 16 + 16


@torch.no_grad()
def test_masked_execution_agrees_and_saves_nothing():
    net = small_net(PAIRS).eval()
    route = every_route(net)[:24]
    x = torch.randn(24, 1, 8, 8)
    router = fixed_router(route)
    close(run_masked(net, router, x).output, run_grouped(ViewSegments(net), net.space, router, x).output)
    claimed = sum(net.cost(net.space.routed(r), 8).madds for r in route.tolist())
    assert executed_madds(lambda x: run_grouped(ViewSegments(net), net.space, router, x), x) == claimed
    widest = 24 * net.cost(net.space.largest, 8).madds
    assert executed_madds(lambda x: run_masked(net, router, x), x) >= widest > claimed


@pytest.mark.parametrize("name", [SEVERAL, SINGLE])
@torch.no_grad()
def test_a_point_claims_what_it_executes_and_routes_by_the_image_alone(name):
    point = routed_point(name)
    x = next(digits().validation.batches(24)).x
    prediction = point(x)
    assert len(prediction.route.unique(dim=0)) > 3
    assert executed_madds(point, x) == point.madds(prediction.route).sum()
    assert point.overhead() == sum(gate.madds for gate in point.gates) > 0
    assert torch.equal(point(x).output, prediction.output)
    backwards = point(x.flip(0))
    assert torch.equal(backwards.route.flip(0), prediction.route)
    close(backwards.output.flip(0), prediction.output)
    for module in point.executables().values():
        close(module(x), prediction.output)


def weights_of(net, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = [len(decision.options) for decision in net.space.decisions]
    picks = [torch.randint(count, (batch,), generator=generator) for count in counts]
    return picks, [F.one_hot(p, c).float().requires_grad_() for p, c in zip(picks, counts, strict=True)]


def run_soft(net, weights, x, routing=None):
    """The whole network under soft decisions of all gates."""
    choice = Choice(net.space.fixed)
    for index, weight in enumerate(weights):
        x, _ = net.segments[index](x, choice)
        options = range(weight.shape[1]) if routing is None else routing[index]
        choice = softened(net.space, index, options, weight, choice)
    return net.segments[len(weights)](x, choice)[0]


@pytest.mark.parametrize("name", [SEVERAL, PAIRS, SINGLE])
def test_a_soft_choice_is_the_hard_one_forward_and_reaches_every_option_backward(name):
    net = small_net(name).eval().requires_grad_(False)
    x = torch.randn(8, 1, 8, 8)
    picks, weights = weights_of(net, 8)
    output = run_soft(net, weights, x)
    routes = torch.stack(picks, 1).tolist()
    close(output, torch.cat([net(x[i : i + 1], net.space.routed(route)) for i, route in enumerate(routes)]))
    output.square().sum().backward()
    assert all((weight.grad != 0).all() for weight in weights)


def test_a_soft_choice_over_some_options_computes_no_more_than_their_widest():
    net = small_net(SEVERAL).eval()
    weights = [torch.eye(2)[[0, 1, 1]] for _ in range(3)]
    x = torch.randn(3, 1, 8, 8)
    routing = ((0, 1), (1, 2), (0, 2))
    executed = executed_madds(lambda x: run_soft(net, weights, x, routing), x)
    widest = 3 * net.cost(net.space.routed([1, 2, 2]), 8).madds
    assert widest <= executed < 1.01 * widest, "masks are products of weights with tables, and little else is added"
    with torch.no_grad():
        expected = [net(x[:1], net.space.routed([0, 1, 0])), net(x[1:], net.space.routed([1, 2, 2]))]
        close(run_soft(net, weights, x, routing), torch.cat(expected))


def test_a_soft_choice_runs_the_stages_in_front_of_it_as_they_were_decided():
    space = PRESETS.get(SEVERAL).build().space
    hard = space.routed([2])
    soft = softened(space, 1, (0, 3), torch.eye(2), hard)
    assert space.width(soft, 0) == space.width(hard, 0)
    assert space.width(soft, 1) == space.width(hard, 1)
    assert space.width(soft, 2).widths == tuple(space.stages[2].values("filters")[i] for i in (0, 3))
    last = softened(space, 2, (1,), torch.ones(2, 1), soft)
    assert isinstance(last.front, SoftChoice)
    assert space.width(last, 2).widths == space.width(soft, 2).widths
    assert space.width(last, 3) == space.stages[3].values("filters")[1], "one option is no choice"


def test_sgs_trains_each_gate_by_its_own_logits():
    """The loss of a later gate must not teach an earlier one to change what arrives there."""
    net = small_net(SEVERAL).eval().requires_grad_(False)
    routing = full_routing(net)
    gates = new_gates(net, routing, 8)
    for gate in gates:
        torch.nn.init.normal_(gate.head.weight)
    trainer = GateTrainer(net, gates, routing, 8, Classification())
    x, features = net.segments[0](next(digits().train.batches(16)).x, Choice(net.space.fixed))
    logits, weights, _, _ = trainer.gated(x, features, joint=True)
    logits[2].square().sum().backward(retain_graph=True)
    assert [gate.head.weight.grad is not None for gate in gates] == [False, False, True]
    assert all(weight.requires_grad for weight in weights)


def test_the_task_loss_reaches_every_gate_and_no_weight_of_the_supernet():
    net = small_net(SEVERAL).eval().requires_grad_(False)
    routing = ((0, 3), (0, 1, 2, 3), (2, 3))
    gates = new_gates(net, routing, 8)
    trainer = GateTrainer(net, gates, routing, 8, Classification())
    torch.manual_seed(0)
    losses = trainer.step(next(digits().train.batches(32)), StageTwo(sgs_weight=0.0), 0.1)
    assert set(losses) == {"sgs", "task", "madds"}
    assert all((gate.head.weight.grad != 0).any() for gate in gates)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_random_gate_takes_whole_routes_exactly_as_often():
    point = routed_point(SEVERAL)
    batches = [batch.x for batch in digits().validation.batches(50)]
    with torch.no_grad():
        wanted = torch.cat([point(x).route for x in batches])
        control = RandomlyRouted(point, b"key").on(batches)
        taken = torch.cat([control(x).route for x in batches])
        again = torch.cat([control(x.flip(0)).route.flip(0) for x in batches])
    for route in (wanted, taken):
        assert route.shape == (len(wanted), 3)
    assert not torch.equal(taken, wanted)
    assert torch.equal(taken, again)
    counted = [route.unique(dim=0, return_counts=True) for route in (wanted, taken)]
    assert len(counted[0][1]) > 3
    assert all(torch.equal(a, b) for a, b in zip(*counted, strict=True))
    with pytest.raises(RuntimeError, match="must be fitted"):
        RandomlyRouted(point, b"key")(batches[0])


def test_a_routing_space_is_one_list_for_all_gates_or_one_for_each():
    assert per_gate((0, 3), 3) == ((0, 3),) * 3
    assert per_gate(((0, 3), (1,), (2,)), 3) == ((0, 3), (1,), (2,))
    with pytest.raises(UserError, match="mixes options and lists"):
        per_gate((0, (1,)), 2)
    assert point_name(((0, 3), (0, 3))) == "dynamic0-3"
    assert point_name(((0, 3), (1,))) == "dynamic0-3_1"
    assert level_routes(((0, 1, 3), (2,), (0, 2))) == [(0, 2, 0), (1, 2, 2), (3, 2, 2)]


def test_routing_spaces_of_several_gates_are_checked():
    net = PRESETS.get(SEVERAL).build()
    assert routing_spaces(net, DSNetOptions()) == [((0, 1, 2, 3),) * 3]
    assert routing_spaces(net, DSNetOptions(routing=((1, 2), ((0,), (1,), (2, 3))))) == [
        ((1, 2),) * 3,
        ((0,), (1,), (2, 3)),
    ]
    for routing, sentence in ((((0, 4),), "cannot route to choice 4"), ((((0,), (1,)),), "for each gate: 3, not 2")):
        with pytest.raises(UserError, match=sentence):
            routing_spaces(net, DSNetOptions(routing=routing))
    with pytest.raises(UserError, match="no gate"):
        routing_spaces(PRESETS.get("us_resnet_micro8").build(), DSNetOptions())
