"""Gates: a straight-through sample has a hard value and a soft gradient; at evaluation there is no noise at all."""

import pytest
import torch
import torch.nn.functional as F
from small_runs import digits, routed_point, small_net

from bench.core.errors import UserError
from bench.profilers.madds import executed_madds
from bench.slicing.dynamic import check_routing, gate_router
from bench.slicing.gate import Gate, decide, gumbel_straight_through
from bench.slicing.supernet import Features


def features(rows=6, width=5):
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    return Features(x[:, :, None, None], x)


def sample(logits, temperature=1.0, seed=0):
    return gumbel_straight_through(logits, temperature, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_a_sample_is_one_hot(temperature):
    weights = sample(torch.randn(500, 4), temperature)
    torch.testing.assert_close(weights, F.one_hot(weights.argmax(1), 4).float(), rtol=0, atol=1e-6)
    assert ((weights != 0).sum(1) == 1).all(), "what is not chosen is exactly zero"


def test_its_gradient_is_that_of_the_soft_sample():
    logits = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    towards = torch.randn(7, 3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((sample(logits, 0.7) * towards).sum(), logits)
    uniform = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    soft = ((logits - (-uniform.log()).log()) / 0.7).softmax(1)
    (expected,) = torch.autograd.grad((soft * towards).sum(), logits)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().sum() > 0


def test_samples_follow_the_softmax_of_the_logits():
    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0]])
    drawn = sample(logits.expand(20_000, 4)).mean(0)
    torch.testing.assert_close(drawn, logits.softmax(1)[0], rtol=0, atol=0.02)


def test_noise_is_finite_for_every_uniform_number(monkeypatch):
    for edge in (0.0, 1.0):
        monkeypatch.setattr(torch, "rand", lambda shape, edge=edge, **_: torch.full(shape, edge))
        assert gumbel_straight_through(torch.zeros(2, 3)).isfinite().all()


def test_a_new_gate_prefers_nothing_and_can_learn():
    gate = Gate(5, 4)
    assert torch.equal(gate(features()), torch.zeros(6, 4))
    F.cross_entropy(gate(features()), torch.full((6,), 3)).backward()
    assert gate.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("hidden", [0, 7])
def test_a_gate_costs_what_it_executes(hidden):
    gate = Gate(5, 4, hidden)
    assert gate.madds == (5 * 4 if hidden == 0 else 5 * 7 + 7 * 4)
    assert executed_madds(gate, features()) == 6 * gate.madds


def test_the_official_gate_has_264_weights():
    """METHODS 5.1: a trunk of 66 numbers, four options, no bias."""
    assert sum(p.numel() for p in Gate(66, 4).parameters()) == 264


def test_a_decision_is_the_largest_logit():
    assert decide(torch.tensor([[0.1, 0.3, 0.2], [5.0, -1.0, 4.9], [0.0, 0.0, 0.0]])).tolist() == [1, 0, 0]


def test_a_router_returns_options_of_the_network_not_places_in_the_list():
    gate = Gate(2, 3)
    with torch.no_grad():
        gate.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    seen = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    router = gate_router([gate], [(2, 5, 9)])
    assert router(0, Features(seen[:, :, None, None], seen), torch.arange(3)).tolist() == [2, 5, 9]


@pytest.mark.parametrize(
    ("routing", "sentence"),
    [
        ([(0, 4)], "cannot route to choice 4: .* has choices 0 to 3"),
        ([(-1,)], "cannot route to choice -1"),
        ([()], "cannot route to choice none"),
        ([(0,), (1,)], "lists options for each gate: 1, not 2"),
    ],
)
def test_a_routing_space_that_the_network_does_not_have(routing, sentence):
    with pytest.raises(UserError, match=sentence):
        check_routing(small_net().space, routing)


@pytest.fixture(scope="module", params=["ds_mobilenet_micro8", "ds_vit_micro8"])
def point(request):
    """A routed point whose gates send images everywhere."""
    return routed_point(request.param)


@torch.no_grad()
def test_routing_depends_on_the_image_alone(point):
    """Not on the random state, nor on the other images of the batch, nor on its size or order."""
    x = next(digits().validation.batches(48)).x
    torch.manual_seed(0)
    route = point(x).route
    assert route.shape == (48, len(point.gates))
    assert (route.amax(0) > route.amin(0)).all(), "these gates must tell images apart for the test to say anything"
    for seed in (1, 2):
        torch.manual_seed(seed)
        assert torch.equal(point(x).route, route)
    backwards = torch.arange(47, -1, -1)
    assert torch.equal(point(x[backwards]).route, route[backwards])
    parts = torch.cat([point(part).route for part in x.split([1, 2, 40, 5])])
    assert torch.equal(parts, route)


@torch.no_grad()
def test_an_evaluation_draws_no_random_numbers_and_repeats_itself(point):
    x = next(digits().validation.batches(48)).x
    before = torch.get_rng_state()
    first = point(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(point(x).output, first.output)
