"""Controls: random routing with the gate's own histogram, a function of image and key; every fixed choice."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from small_runs import CPU, Trained, digits, routed_point, run_of, small_spec, spread_gates, trained_points

from baselines.controls import FixedChoice, RandomGate, RandomlyRouted, image_keys, level_routes
from bench.core.errors import UserError
from bench.evaluation.accuracy import evaluate
from bench.methods import SUPERNET, build_model, completed
from bench.methods.ds_net import gate_name, point_name, routing_spaces
from bench.points import RoutedPoint
from bench.tasks.classification import Classification
from bench.training.gating import named_gates


def images(count=150, batch=40):
    return [part.x for part in digits().validation.batches(batch)][: -(-count // batch)]


@pytest.fixture(scope="module", params=["ds_mobilenet_micro8", "ds_vit_micro8"])
def gated(request):
    return routed_point(request.param)


@torch.no_grad()
def routes_of(point, batches):
    return torch.cat([point(x).route for x in batches])


def histogram(routes):
    return Counter(map(tuple, routes.tolist()))


def test_the_histogram_is_exactly_that_of_the_gate(gated):
    batches = images()
    wanted = routes_of(gated, batches)
    assert len(histogram(wanted)) > 3
    for key in (b"0", b"1"):
        random = RandomlyRouted(gated, key).on(batches)
        taken = routes_of(random, batches)
        assert histogram(taken) == histogram(wanted)
        assert not torch.equal(taken, wanted), "it is not the gate itself"
        assert random.madds(taken).sum() == gated.madds(wanted).sum() - 150 * gated.overhead()


def test_a_route_is_a_function_of_the_image_and_the_key_alone(gated):
    random = RandomlyRouted(gated, b"0").on(images())
    x = torch.cat(images())
    routes = routes_of(random, [x])
    torch.manual_seed(5)
    order = torch.randperm(len(x))
    assert torch.equal(routes_of(random, x[order].split([1, 7, 142])), routes[order])
    assert torch.equal(routes_of(RandomlyRouted(gated, b"0").on(images(batch=150)), [x]), routes)
    other = RandomlyRouted(gated, b"1").on(images())
    assert not torch.equal(routes_of(other, [x]), routes)


def test_a_random_gate_tells_nothing_about_the_image():
    """Its routes go with the gate's as often as chance says."""
    gated = routed_point()
    wanted = routes_of(gated, images())
    taken = [routes_of(RandomlyRouted(gated, str(key).encode()).on(images()), images()) for key in range(4)]
    shares = torch.tensor(list(histogram(wanted).values())) / len(wanted)
    agreement = torch.stack([(routes == wanted).all(1).float().mean() for routes in taken]).mean()
    assert agreement.item() == pytest.approx(shares.square().sum().item(), abs=0.06)


def test_keys_are_uniform_frozen_and_move_with_every_pixel():
    x = torch.zeros(400, 1, 8, 8)
    x[:, 0, 0, 0] = torch.arange(400)
    keys = image_keys(x, b"key")
    assert (keys >= 0).all()
    assert (keys < 1).all()
    counts = torch.histc(keys.float(), bins=4, min=0, max=1)
    assert (counts - 100).abs().max() < 35
    assert len(keys.unique()) == 400
    assert keys[0].item() == 0.6698575475180562, "equal in every process and version"
    assert torch.equal(image_keys(x[7:9], b"key"), keys[7:9])
    colour = torch.rand(4, 3, 8, 8)
    in_memory = colour.contiguous(memory_format=torch.channels_last)
    assert torch.equal(image_keys(in_memory, b"key"), image_keys(colour, b"key")), "the layout is not the image"


def test_an_unfitted_random_gate_is_a_bug():
    with pytest.raises(RuntimeError, match="must be fitted"):
        RandomlyRouted(routed_point(), b"0")(images()[0])


def test_a_gate_that_always_says_the_same_gives_one_route(gated):
    point = routed_point()
    torch.nn.init.zeros_(point.gates[0].head.weight)
    random = RandomlyRouted(point, b"0").on(images())
    assert histogram(routes_of(random, images())) == {(0,): 150}


def test_a_random_gate_costs_nothing_itself(gated):
    random = RandomlyRouted(gated, b"0").on(images())
    route = routes_of(random, images())[:1]
    parameters = sum(p.numel() for p in gated.gates.parameters())
    assert random.overhead() == 0
    assert random.params_stored == gated.params_stored - parameters
    assert random.params_active(route) == gated.params_active(route) - parameters


@pytest.mark.parametrize(
    ("routing", "routes"),
    [
        (((0, 1, 3),), [(0,), (1,), (3,)]),
        (((0, 2), (0, 2)), [(0, 0), (2, 2)]),
        (((1,), (0, 1, 2)), [(1, 0), (1, 1), (1, 2)]),
    ],
)
def test_level_routes(routing, routes):
    assert level_routes(routing) == routes


# The methods, on the checkpoint of a run whose gates route to everything.


def finished(directory, **options):
    """A run of DS-Net as if trained: its folder, and its points from which the folder was filled."""
    spec = small_spec("ds_net")
    spec = completed(replace(spec, options={**spec.options, **options}))
    run = run_of(spec, directory)
    net, points = build_model(run), []
    run.once(SUPERNET, lambda: ({"supernet": net}, {}))
    for number, routing in enumerate(routing_spaces(net, run.options)):
        gates = spread_gates(net, routing, seed=number)
        run.once(gate_name(number), lambda gates=gates: (named_gates(gates), {}))
        points.append(RoutedPoint(point_name(routing), net, gates, routing, 8))
    return Trained(spec, directory), points


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("parent"))


@pytest.fixture(scope="module")
def parent(family):
    return family[0]


def points_of(method, parent, directory, **changes):
    spec = small_spec(method, parent, **changes)
    return trained_points(spec, directory, parent)


def test_random_gate_evaluates_with_its_parents_histogram_for_every_routing_space(family, tmp_path):
    parent, originals = family
    randoms = [point.on(images()) for point in points_of("random_gate", parent, tmp_path)]
    assert [point.name for point in randoms] == [point.name for point in originals] == ["dynamic0-1-2-3", "dynamic1-3"]
    for random, original in zip(randoms, originals, strict=True):
        mine = evaluate(random, digits().validation, Classification(), CPU)
        theirs = evaluate(original, digits().validation, Classification(), CPU)
        assert mine.routing() == theirs.routing()
        assert len(mine.routing()) > 1
    assert not any(tmp_path.iterdir()), "a control writes nothing"


def test_the_seed_of_a_random_gate_is_its_key(parent, tmp_path):
    routes = [
        routes_of(points_of("random_gate", parent, tmp_path, seed=seed)[0].on(images()), images()) for seed in (0, 0, 1)
    ]
    assert torch.equal(routes[0], routes[1])
    assert not torch.equal(routes[0], routes[2])


@torch.no_grad()
def test_fixed_choice_covers_the_routing_of_its_parent(family, tmp_path):
    parent, (original, _) = family
    points, net, x = points_of("fixed_choice", parent, tmp_path), original.supernet, images()[0]
    assert [point.name for point in points] == ["uniform0", "uniform1", "uniform2", "uniform3"]
    for index, point in enumerate(points):
        choice = net.space.uniform(index)
        torch.testing.assert_close(point(x).output, net(x, choice))
        assert point.madds(point(x).route).unique().tolist() == [net.cost(choice, 8).madds]


def test_fixed_choice_offers_only_what_the_gates_may_take(tmp_path):
    narrow, _ = finished(tmp_path, routing=[[1, 3], [3]])
    assert [point.name for point in points_of("fixed_choice", narrow, tmp_path)] == ["uniform1", "uniform3"]


@pytest.mark.parametrize("method", [RandomGate.name, FixedChoice.name])
def test_a_parent_that_is_no_ds_net_is_one_sentence(method, tmp_path):
    other = Trained(small_spec("uniform"), tmp_path)
    with pytest.raises(UserError, match=r"is a run of uniform; gates are found in runs of ds_net") as caught:
        points_of(method, other, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [RandomGate.name, FixedChoice.name])
def test_a_parent_that_was_never_trained_is_one_sentence(method, tmp_path):
    with pytest.raises(UserError, match="has its run been trained"):
        points_of(method, Trained(small_spec("ds_net"), tmp_path), tmp_path)


def test_checkpoints_of_another_parent_are_refused(parent, tmp_path):
    """A folder that holds the files of another run: a stale cache must not win."""
    imposter = Trained(small_spec("ds_net", seed=8), parent.directory)
    with pytest.raises(UserError, match=f"belongs to run {parent.spec.run_id}, not to {imposter.spec.run_id}"):
        points_of("random_gate", imposter, tmp_path)
