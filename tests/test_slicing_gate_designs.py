"""The designs of a gate: one output quantised to an option, a trunk of its own, and no attention head beside it."""

import pytest
import torch
import torch.nn.functional as F
from small_runs import (
    CPU,
    Trained,
    digits,
    routed_point,
    small_net,
    small_spec,
    spread_gates,
    trained_points,
)
from torch import nn

from bench.evaluation.proof import prove
from bench.profilers.madds import executed_madds
from bench.runs.estimate import FirstImages
from bench.slicing.dynamic import ViewSegments, gate_router, run_grouped, run_masked, run_one_by_one
from bench.slicing.extract import parameters_of
from bench.slicing.gate import Gate, ScalarGate, decide, interpolated, moments, new_gates, straight_through
from bench.slicing.supernet import Features
from bench.tasks.classification import Classification
from bench.training.gating import GateTrainer, StageTwo, scalar_sgs_loss, standardise

DESIGNS = [
    ("ds_mobilenet_micro8", {"head": "scalar"}),
    ("ds_mobilenet_micro8", {"trunk": "separate"}),
    ("ds_mobilenet_micro8", {"head": "scalar", "trunk": "separate"}),
    ("ds_vit_micro8", {"head": "scalar"}),
    ("ds_mobilenet_plain_micro8", {}),
]


def raw_at(*places: float) -> torch.Tensor:
    """(B, 1): raw outputs whose sigmoids are at these places."""
    return torch.tensor(places)[:, None].logit()


def test_a_place_between_two_options_is_shared_by_them():
    weights = interpolated(torch.tensor([[0.0], [0.5], [0.75], [1.0], [0.1]]), 4)
    expected = [[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.75, 0.25], [0, 0, 0, 1], [0.7, 0.3, 0, 0]]
    torch.testing.assert_close(weights, torch.tensor(expected))
    torch.testing.assert_close(weights.sum(1), torch.ones(5))
    assert interpolated(torch.tensor([[0.3]]), 1).tolist() == [[1.0]]


def test_the_nearest_option_is_taken():
    gate = ScalarGate(2, 4)
    raw = raw_at(0.01, 0.16, 0.17, 0.49, 0.51, 0.84, 0.99)
    assert decide(gate.scores(raw)).tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_a_scalar_sample_is_hard_forward_and_interpolated_backward():
    raw = raw_at(0.25, 0.9).requires_grad_()
    costs = torch.tensor([1.0, 2.0, 4.0, 8.0])
    weights = ScalarGate(2, 4).sample(raw)
    torch.testing.assert_close(weights, F.one_hot(torch.tensor([1, 3]), 4).float())
    (weights @ costs).sum().backward()
    place = torch.tensor([0.25, 0.9])
    slopes = torch.tensor([2.0 - 1.0, 8.0 - 4.0])  # between the neighbours: options 0 and 1, 2 and 3
    torch.testing.assert_close(raw.grad[:, 0], slopes * 3 * place * (1 - place))


def test_straight_through_keeps_the_gradient_of_what_it_rounds():
    soft = torch.tensor([[0.2, 0.5, 0.3]], requires_grad=True)
    hard = straight_through(soft)
    torch.testing.assert_close(hard.detach(), torch.tensor([[0.0, 1.0, 0.0]]))
    (hard * torch.tensor([[1.0, 2.0, 3.0]])).sum().backward()
    assert soft.grad.tolist() == [[1.0, 2.0, 3.0]]


def test_scalar_sgs_by_hand_and_down_to_zero():
    raw, targets = torch.tensor([[0.0], [2.0], [-1.0]]), torch.tensor([0, 3, 3])
    likelihoods = torch.tensor([0.5, torch.tensor(2.0).sigmoid(), torch.tensor(-1.0).sigmoid()])
    torch.testing.assert_close(scalar_sgs_loss(raw, targets, 4), -likelihoods.log().mean())
    assert scalar_sgs_loss(torch.tensor([[-40.0], [40.0]]), torch.tensor([0, 3]), 4) < 1e-6
    assert scalar_sgs_loss(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), 1).isfinite()
    soft = 0.9 * scalar_sgs_loss(raw, targets, 4) + 0.1 * scalar_sgs_loss(raw, 3 - targets, 4)
    torch.testing.assert_close(scalar_sgs_loss(raw, targets, 4, 0.2), soft)


@pytest.mark.parametrize(
    ("gate", "weights"),
    [
        (ScalarGate(12, 4), 12),
        (Gate(24, 4, 12, "separate"), 24 * 12 + 12 * 4),
        (ScalarGate(24, 4, 12, "separate"), 24 * 12 + 12),
    ],
)
def test_a_gate_costs_what_it_executes(gate, weights):
    seen = Features(torch.randn(6, 12, 3, 3), torch.randn(6, 12))
    assert gate.madds == weights
    assert executed_madds(gate, seen) == 6 * weights
    assert gate(seen).shape == (6, 4)


def test_a_separate_trunk_reads_mean_and_deviation_of_the_activation_alone():
    gate = Gate(10, 3, 7, "separate")
    nn.init.normal_(gate.head.weight)
    x, trunk = torch.randn(4, 5, 3, 3), torch.randn(4, 2)
    seen = torch.cat((x.mean((2, 3)), x.flatten(2).std(2, correction=0)), 1)
    expected = gate.head(gate.hidden(seen).relu())
    torch.testing.assert_close(gate(Features(x, trunk)), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(gate(Features(x, trunk + 1)), gate(Features(x, trunk)))
    assert moments(torch.randn(4, 6, 5)).shape == (4, 10), "tokens too"


@pytest.mark.parametrize(("hidden", "mean"), [(0, 1.0), (7, 0.0)])
def test_what_a_gate_reads_is_standardised_by_fixed_statistics(hidden, mean):
    """Each feature by its own mean and deviation; one that does not vary is not blown up."""
    gate = Gate(3, 2, hidden)
    seen = torch.randn(500, 3) * torch.tensor([4.0, 1.0, 0.0]) + torch.tensor([-5.0, 0.01, 4.0])
    gate.standardise(seen)
    standard = (seen - gate.shift) / gate.scale
    torch.testing.assert_close(standard.mean(0), torch.full((3,), mean), rtol=0, atol=1e-5)
    torch.testing.assert_close(standard.std(0), torch.tensor([1.0, 1.0, 0.0]), rtol=0.01, atol=0.01)
    assert gate.scale[2] == pytest.approx((seen.std(0).mean() / 10).item(), rel=0.01)
    assert {"shift", "scale", "offset"} <= gate.state_dict().keys(), "kept with the weights"
    assert len(list(gate.parameters())) == (1 if hidden == 0 else 3), "and not trained"


@pytest.mark.parametrize("model", ["ds_mobilenet_micro8", "ds_resnet_micro8", "ds_vit_micro8"])
@torch.no_grad()
def test_gates_are_standardised_by_all_widths_that_arrive(model):
    net, split = small_net(model).eval(), FirstImages(digits().calibration, 100)
    routing = ((0, 3),) * len(net.space.decisions)
    gates = new_gates(net, routing, 8)
    standardise(net, gates, routing, split, CPU)
    (batch,), arrived = split.batches(100), [[] for _ in gates]
    for option in (0, 3):
        choice, x = net.space.routed([option] * len(gates)), batch.x
        for index, gate in enumerate(gates):
            x, features = net.segments[index](x, choice)
            arrived[index].append((gate.read(features) - gate.shift) / gate.scale)
    for gate, parts in zip(gates, arrived, strict=True):
        standard = torch.cat(parts)
        wanted = torch.full((standard.shape[1],), 1.0 if gate.hidden is None else 0.0)
        torch.testing.assert_close(standard.mean(0), wanted, rtol=0, atol=1e-4)
        deviation = standard.std(0, correction=0) * gate.scale
        expected = (deviation / (deviation.mean() / 10)).clamp_max(1.0)  # those that hardly vary are not blown up
        torch.testing.assert_close(standard.std(0, correction=0), expected, rtol=1e-3, atol=1e-3)
        assert (expected == 1).sum() > 2


def test_a_separate_trunk_is_as_wide_as_the_one_it_would_share():
    net = small_net()
    (shared,), (separate,) = (new_gates(net, ((0, 1),), 8, trunk=trunk) for trunk in ("shared", "separate"))
    assert shared.hidden is None
    assert separate.hidden.weight.shape == (12, 32)  # the gated block's squeeze; twice its width in front of the gate
    assert separate.head.weight.shape == shared.head.weight.shape == (2, 12)
    (plain,) = new_gates(small_net("ds_mobilenet_plain_micro8"), ((0, 1),), 8)
    assert plain.hidden.weight.shape == (12, 32)


@pytest.mark.parametrize("model", ["ds_vit_micro8", "ds_mobilenet_plain_micro8"])
def test_where_no_trunk_can_be_shared_every_gate_has_its_own(model):
    net = small_net(model)
    routing = ((0, 1),) * len(net.space.decisions)
    for gates in zip(*(new_gates(net, routing, 8, trunk=trunk) for trunk in ("shared", "separate")), strict=True):
        shapes = [[parameter.shape for parameter in gate.parameters()] for gate in gates]
        assert shapes[0] == shapes[1]
        assert {gate.trunk for gate in gates} == {"separate"}


@pytest.mark.parametrize(("model", "design"), DESIGNS)
@torch.no_grad()
def test_all_ways_to_run_agree_and_the_claim_is_proven(model, design):
    point = routed_point(model, **design)
    x = next(digits().validation.batches(40)).x
    expected = point(x)
    assert len(expected.route.unique(dim=0)) > 1
    router = gate_router(list(point.gates), point.routing)
    net = point.supernet
    for way in (
        run_grouped(ViewSegments(net), net.space, router, x),
        run_masked(net, router, x),
        run_one_by_one(ViewSegments(net), net.space, router, x),
    ):
        assert torch.equal(way.route, expected.route)
        assert (way.output - expected.output).abs().max() <= 1e-5 * expected.output.abs().max()
    assert prove(point, FirstImages(digits().validation, 20), CPU)["networks"]


def test_the_network_without_attention_is_the_other_without_its_squeezes():
    full, plain = small_net(), small_net("ds_mobilenet_plain_micro8")
    squeezes = {unit: unit.attention for s in full.segments for unit in s.units if getattr(unit, "attention", None)}
    attention = sum(parameters_of(one) for one in squeezes.values())
    assert attention > 0
    assert parameters_of(plain) == parameters_of(full) - attention
    choice = full.space.uniform(2)
    saved = sum(2 * unit.squeezed * full.space.width(choice, unit.inp_stage) for unit in squeezes)
    assert plain.cost(choice, 8).madds == full.cost(choice, 8).madds - saved


@pytest.mark.parametrize(("model", "design"), DESIGNS)
def test_every_loss_reaches_every_layer_of_a_gate(model, design):
    net = small_net(model).eval().requires_grad_(False)
    routing = tuple(tuple(range(len(d.options))) for d in net.space.decisions)
    gates = spread_gates(net, routing, **design)
    batch = next(digits().train.batches(32))
    for off in ({"task_weight": 0.0, "madds_weight": 0.0}, {"sgs_weight": 0.0}):
        losses = GateTrainer(net, gates, routing, 8, Classification()).step(batch, StageTwo(**off), 0.1)
        assert all(torch.tensor(value).isfinite() for value in losses.values())
        for gate in gates:
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gate.parameters())
            gate.zero_grad(set_to_none=True)


@pytest.mark.parametrize("options", [{"gate_head": "scalar", "gate_trunk": "separate"}, {"gate_head": "scalar"}])
def test_a_run_with_such_gates_is_loaded_by_its_controls(options, tmp_path):
    spec = small_spec("ds_net", options={"gate_epochs": 1, **options})
    (point,) = trained_points(spec, tmp_path / "run")
    assert isinstance(point.gates[0], ScalarGate)
    parent = Trained(spec, tmp_path / "run")
    child = small_spec("random_gate", parent)
    (control,) = trained_points(child, tmp_path / "child", parent)
    x = next(digits().validation.batches(40)).x
    with torch.no_grad():
        assert torch.equal(control.gated(x).route, point(x).route)
