"""Stage II: targets by hand, the three losses against the routed networks themselves, and nothing but gates trained."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_runs import (
    Interrupted,
    changed,
    checkpoint_bytes,
    digits,
    full_routing,
    interrupt_after,
    routed_point,
    run_at,
    small_net,
    state_of,
)
from torch import nn

from bench.core.spec import TrainSpec
from bench.models import PRESETS
from bench.slicing.gate import Gate
from bench.slicing.supernet import Features
from bench.tasks.classification import Classification
from bench.training import checkpoint
from bench.training.gating import (
    GateTrainer,
    StageTwo,
    expected_madds,
    madds_penalty,
    route_costs,
    sgs_loss,
    sgs_targets,
    train_gates,
)
from bench.training.optim import sgd

ONE_GATE, MANY_GATES = "ds_mobilenet_micro8", "ds_vit_micro8"


def separable(count=64):
    """Easy images have the feature (1, 0), hard ones (0, 1)."""
    easy = torch.arange(count) % 2 == 0
    trunk = torch.stack([easy, ~easy], dim=1).float()
    return Features(trunk[:, :, None, None], trunk), sgs_targets(easy, ~easy, 4, "try_best")


def test_sgs_on_logits_reaches_zero_where_images_are_separable():
    seen, targets = separable()
    gate = Gate(2, 4)
    optimizer = sgd([gate], TrainSpec(lr=1.0, weight_decay=0.0))
    for _ in range(200):
        optimizer.zero_grad()
        loss = sgs_loss(gate(seen), targets)
        loss.backward()
        optimizer.step()
    assert loss < 0.01


def test_label_smoothing_of_sgs_by_hand():
    logits, targets = torch.randn(5, 4), torch.tensor([0, 3, 3, 0, 3])
    wanted = 0.9 * F.one_hot(targets, 4) + 0.1 / 4
    torch.testing.assert_close(sgs_loss(logits, targets, 0.1), -(wanted * logits.log_softmax(1)).sum(1).mean())


def test_sgs_on_probabilities_could_not():
    """The released code feeds probabilities: its best value, a perfect one-hot, is -log(e / (e + 3)) = 0.744."""
    _, targets = separable()
    assert sgs_loss(F.one_hot(targets, 4).float(), targets).item() == pytest.approx(0.7437, abs=1e-4)
    assert sgs_loss(1e4 * F.one_hot(targets, 4).float(), targets) == 0


# easy: the slimmest network is right; hopeless: even the widest is wrong. Options are 0 to 3.
TABLE = [
    (True, False, {"try_best": 0, "give_up": 0}),
    (False, False, {"try_best": 3, "give_up": 3}),
    (False, True, {"try_best": 3, "give_up": 0}),
    (True, True, {"try_best": 0, "give_up": 0}),
]


@pytest.mark.parametrize("hard_samples", ["try_best", "give_up"])
def test_targets_by_hand(hard_samples):
    easy, hopeless, wanted = zip(*TABLE, strict=True)
    targets = sgs_targets(torch.tensor(easy), torch.tensor(hopeless), 4, hard_samples)
    assert targets.tolist() == [row[hard_samples] for row in wanted]


@pytest.mark.parametrize("name", [ONE_GATE, MANY_GATES, "ds_resnet_micro8"])
@pytest.mark.parametrize("options", [None, (1, 3)])
def test_costs_of_a_route_add_up_to_those_of_its_network(name, options):
    net = small_net(name)
    routing = tuple(options or whole for whole in full_routing(net))
    costs = route_costs(net, routing, 8)
    routes = list(itertools.product(*(range(len(taken)) for taken in routing)))
    claims = []
    for places in routes[:: max(1, len(routes) // 40)]:
        weights = [
            F.one_hot(torch.tensor([place]), len(taken)).float() for place, taken in zip(places, routing, strict=True)
        ]
        route = [taken[place] for place, taken in zip(places, routing, strict=True)]
        claims.append(net.cost(net.space.routed(route), 8).madds)
        assert expected_madds(weights, costs).tolist() == [claims[-1]]
    assert len(set(claims)) > 1


def test_the_penalty_by_hand_and_the_direction_it_pushes_in():
    costs = [torch.tensor([100.0, 200.0, 400.0])]
    logits = torch.zeros(2, 3, requires_grad=True)
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert madds_penalty([weights], costs, 1000).item() == pytest.approx(((100 + 400) / 2 / 1000) ** 2)
    assert madds_penalty([weights[[1, 1]]], costs, 400) == 1
    madds_penalty([logits.softmax(1)], costs, 1000).backward()
    cheap, _, costly = logits.grad.unbind(1)
    assert (cheap < 0).all(), "a step against the gradient raises the cheapest option"
    assert (costly > 0).all()


def test_the_penalty_reaches_every_gate_through_the_costs_between_them():
    costs = [torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 2.0], [3.0, 8.0]])]
    logits = [torch.zeros(1, 2, requires_grad=True) for _ in costs]
    weights = [one.softmax(1) for one in logits]
    assert expected_madds(weights, costs).item() == pytest.approx(1.5 + (1 + 2 + 3 + 8) / 4)
    madds_penalty(weights, costs, 10.0).backward()
    assert all((one.grad[:, 0] < 0).all() and (one.grad[:, 1] > 0).all() for one in logits)


def test_the_penalty_spans_what_the_paper_has_over_the_released_routing_space():
    """Choices 0 to 3 of DS-MBNet, at the weight of one half; divided by the costliest routed option it was 0.279."""
    net = PRESETS.get("ds_mobilenet_v1").build()
    (costs,) = route_costs(net, ((0, 1, 2, 3),), 224)
    trainer = GateTrainer(net, [], ((0, 1, 2, 3),), 224, Classification())
    assert trainer.full == 817_617_376
    for full, span in ((trainer.full, 0.0165), (costs[-1].item(), 0.2791)):
        ends = [StageTwo().madds_weight * madds_penalty([torch.eye(4)[[k]]], [costs], full).item() for k in (0, 3)]
        assert ends[1] - ends[0] == pytest.approx(span, abs=5e-5)


def lived_in(name):
    """A frozen supernet with statistics, and gates that tell images apart."""
    point = routed_point(name)
    return point.supernet.requires_grad_(False), [gate.train() for gate in point.gates], point.routing


def routes_drawn(net, gates, routing, x, seed):
    """The decisions of each image, taken from outside: every gate sees the image's own sliced network."""
    torch.manual_seed(seed)
    trainer = GateTrainer(net, gates, routing, 8, Classification())
    x, features = net.segments[0](x, trainer.fixed)
    logits, weights, _, _ = trainer.gated(x, features, True)
    return logits, torch.stack([one.argmax(1) for one in weights], dim=1)


@pytest.mark.parametrize("name", [ONE_GATE, MANY_GATES])
def test_the_losses_are_those_of_the_networks_that_images_are_routed_to(name):
    net, gates, routing = lived_in(name)
    batch, settings = next(digits().train.batches(32)), StageTwo(task_weight=0.7, sgs_weight=1.3, madds_weight=0.4)
    logits, routes = routes_drawn(net, gates, routing, batch.x, seed=4)
    assert len(routes.unique(dim=0)) > 3
    torch.manual_seed(4)
    losses = GateTrainer(net, gates, routing, 8, Classification()).step(batch, settings, 0.1)
    with torch.no_grad():
        choices = [net.space.routed(route) for route in routes.tolist()]
        output = torch.cat([net(batch.x[i : i + 1], choice) for i, choice in enumerate(choices)])
        easy = net(batch.x, net.space.smallest).argmax(1) == batch.targets
        targets = torch.where(easy, 0, len(routing[0]) - 1)
        mean = sum(net.cost(choice, 8).madds for choice in choices) / len(choices)
        expected = {
            "task": F.cross_entropy(output, batch.targets, label_smoothing=0.1).item(),
            "sgs": sum(F.cross_entropy(one, targets).item() for one in logits) / len(logits),
            "madds": (mean / net.cost(net.space.largest, 8).madds) ** 2,
        }
    assert losses == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", [ONE_GATE, MANY_GATES])
def test_each_loss_has_its_weight_and_reaches_every_gate(name):
    net, gates, routing = lived_in(name)
    batch, gradients = next(digits().train.batches(32)), {}
    parts = {"sgs": StageTwo(sgs_weight=2.0, task_weight=0.0, madds_weight=0.0)}
    parts["task"] = StageTwo(sgs_weight=0.0, task_weight=3.0, madds_weight=0.0)
    parts["madds"] = StageTwo(sgs_weight=0.0, task_weight=0.0, madds_weight=0.5)
    parts["all"] = StageTwo(sgs_weight=2.0, task_weight=3.0, madds_weight=0.5)
    for part, settings in parts.items():
        torch.manual_seed(4)
        GateTrainer(net, gates, routing, 8, Classification()).step(batch, settings, 0.1)
        gradients[part] = [gate.head.weight.grad.clone() for gate in gates]
        nn.ModuleList(gates).zero_grad(set_to_none=True)
    assert all(gradient.abs().sum() > 0 for part in gradients.values() for gradient in part)
    for sgs, task, madds, together in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(sgs + task + madds, together, rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("hard_samples", ["try_best", "give_up"])
def test_difficulty_is_what_the_routed_networks_solve(hard_samples):
    net, gates, _ = lived_in(ONE_GATE)
    batch = next(digits().train.batches(64))
    trainer = GateTrainer(net, gates, ((1, 2, 3),), 8, Classification())
    x, _ = net.segments[0](batch.x, trainer.fixed)
    easy, hopeless = trainer.difficulty(x, batch.targets, hard_samples)
    with torch.no_grad():
        slim, wide = (net(batch.x, net.space.uniform(i)).argmax(1) == batch.targets for i in (1, 3))
    assert torch.equal(easy, slim), "easy is what the slimmest network of the routing space solves, not the smallest"
    targets = sgs_targets(easy, hopeless, 3, hard_samples)
    first = slim | ~wide if hard_samples == "give_up" else slim
    assert torch.equal(targets, torch.where(first, 0, 2))


SPEC = TrainSpec(epochs=9, batch_size=64, warmup_epochs=2.0)
TWO_STEPS = StageTwo(gate_epochs=1)


def stage_two(directory, net, routing=((0, 2),), settings=TWO_STEPS, **how):
    return train_gates("gate0", net, routing, settings, Classification(), run_at(directory, SPEC, **how))


def test_stage_two_leaves_the_supernet_as_it_is_but_frozen(tmp_path):
    net = small_net().train()
    before = state_of(net)
    gates, history = stage_two(tmp_path, net)
    assert not changed(before, net), "neither weights nor statistics"
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert all(p.grad is None for p in net.parameters())
    assert history["steps"] == 2, "epochs are those of stage II"
    assert gates[0].head.weight.abs().sum() > 0, "the gate is trained"
    assert not gates[0].training


def test_stage_two_trains_with_settings_of_its_own(tmp_path, monkeypatch):
    """Length, rate and decay are those of stage II and nothing warms up; batches, momentum and schedule are shared."""
    plans = []
    monkeypatch.setattr("bench.training.gating.fit", lambda plan, *_: plans.append(plan) or {})
    gates, _ = stage_two(tmp_path, small_net(), settings=StageTwo(gate_epochs=3, gate_lr=0.25, gate_weight_decay=0.5))
    (plan,) = plans
    assert plan.spec == replace(SPEC, epochs=3, lr=0.25, weight_decay=0.5, warmup_epochs=0.0)
    assert plan.trained == {"gate0": gates[0]}
    assert (plan.kept, plan.views) == ({}, 1)


@pytest.mark.parametrize("name", [ONE_GATE, MANY_GATES])
def test_an_interrupted_stage_two_ends_in_the_same_bytes(tmp_path, name):
    net = small_net(name).eval()
    routing, settings = ((0, 2),) * len(net.space.decisions), StageTwo(gate_epochs=2)
    torch.manual_seed(1)  # gates with a layer of their own begin with random weights
    gates, _ = stage_two(tmp_path / "whole", net, routing, settings)
    torch.manual_seed(1)
    with pytest.raises(Interrupted):
        stage_two(tmp_path / "broken", net, routing, settings, progress=interrupt_after(3), checkpoint_s=0.0)
    torch.manual_seed(77)
    again, _ = stage_two(tmp_path / "broken", net, routing, settings)
    assert checkpoint_bytes(tmp_path / "broken") == checkpoint_bytes(tmp_path / "whole")
    assert all(not changed(state_of(one), other) for one, other in zip(gates, again, strict=True))


def test_the_average_of_a_gates_weights_is_what_is_evaluated(tmp_path):
    """By hand, from the weights after each step; the weights themselves are kept beside it, for a killed run."""
    steps, settings, real = [], StageTwo(gate_epochs=2, gate_ema=0.9), GateTrainer.step

    def noted(self, batch, settings, smoothing):
        steps.append(self.gates[0].head.weight.detach().clone())
        return real(self, batch, settings, smoothing)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GateTrainer, "step", noted)
        (gate,), _ = stage_two(tmp_path, small_net().eval(), settings=settings)
    tensors, _ = checkpoint.load(tmp_path / "checkpoints" / "gate0.safetensors", None)
    weights = [*steps[1:], tensors["trained_gate0/head.weight"]]
    mean = steps[0]
    for index, weight in enumerate(weights):
        decay = min(0.9, (1 + index) / (10 + index))
        mean = decay * mean + (1 - decay) * weight
    torch.testing.assert_close(gate.head.weight.detach(), mean)
    torch.testing.assert_close(tensors["gate0/head.weight"], mean)
    assert not torch.allclose(mean, weights[-1])
    assert torch.equal(tensors["gate0/shift"], tensors["trained_gate0/shift"])


def test_a_trained_gate_sends_easy_images_to_the_slim_network(tmp_path):
    """SGS alone, a supernet that solves some images at its slimmest: the gate learns which better than chance."""
    net, _, _ = lived_in(ONE_GATE)
    settings = StageTwo(gate_epochs=40, gate_lr=0.5, task_weight=0.0, madds_weight=0.0)
    (gate,), history = stage_two(tmp_path, net, ((0, 3),), settings)
    batch = next(digits().train.batches(128))
    with torch.no_grad():
        easy = net(batch.x, net.space.smallest).argmax(1) == batch.targets
        _, features = net.segments[0](batch.x, net.space.smallest)
        to_slim = gate(features).argmax(1) == 0
    assert 0 < easy.sum() < len(easy)
    assert (to_slim == easy).float().mean() >= max(easy.float().mean(), 1 - easy.float().mean())
    assert history["losses"].keys() == {"sgs"}
