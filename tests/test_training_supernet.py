"""Stage I: the sandwich, its gradient against losses summed from the image on, its targets, its EMA teacher."""

import copy
import random
from collections import Counter

import pytest
import torch
from small_runs import Interrupted, changed, checkpoint_bytes, digits, interrupt_after, run_at, small_net, state_of
from torch import nn

from bench.core.spec import TrainSpec
from bench.models import PRESETS
from bench.tasks.classification import Classification
from bench.training.loop import stable_seed
from bench.training.optim import learning_rate
from bench.training.supernet import StageOne, sandwich, supernet_step, teacher_targets, train_supernet

# One gate; no gate; several gates, where random choices are drawn at every gate; no gate behind a shared front.
FAMILIES = ["ds_mobilenet_micro8", "us_mobilenet_micro8", "ds_vit_micro8", "us_resnet_basic_micro8"]
DISTILLATION = ["none", "inplace", "bootstrap", "ensemble_bootstrap"]
SMOOTHING = 0.1


def batch_of(count=8, dtype=torch.float32):
    batch = next(digits().train.batches(count))
    return batch._replace(views=tuple(view.to(dtype) for view in batch.views))


@pytest.mark.parametrize("random_widths", [0, 1, 2, 4])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_sandwich_is_largest_random_smallest(name, random_widths):
    space = PRESETS.get(name).build().space
    choices = sandwich(space, random_widths, random.Random(0))
    assert len(choices) == random_widths + 2
    assert (choices[0], choices[-1]) == (space.largest, space.smallest)
    assert all(space.check(choice) == choice for choice in choices)
    assert choices == sandwich(space, random_widths, random.Random(0))


def test_random_choices_cover_the_ladder_but_for_its_first_step():
    """METHODS 4.1: the official code draws from 1 to 13, never 0."""
    space = PRESETS.get("ds_mobilenet_micro8").build().space
    drawn = Counter(sandwich(space, 300, random.Random(1))[1:-1])
    assert drawn.keys() == set(space.uniform_choices[1:])
    assert min(drawn.values()) > 60


def test_random_choices_are_uniform_over_distinct_networks():
    """Several multipliers come to one network of so few channels; it is not drawn more often."""
    space = PRESETS.get("us_mobilenet_micro8").build().space
    networks = [tuple(space.width(choice, stage) for stage in range(len(space.stages))) for choice in space.named]
    assert len(set(networks)) < len(networks)
    drawn = Counter(networks[space.named.index(c)] for c in sandwich(space, 3000, random.Random(1))[1:-1])
    assert drawn.keys() == set(networks[1:]) - {networks[0]}
    assert max(drawn.values()) < 1.5 * 3000 / len(drawn)


def cross_entropy(output, soft):
    """Mean over images of - sum of q log p, written out."""
    return -(soft * (output - output.logsumexp(1, keepdim=True))).sum(1).mean()


def labels_of(targets, classes):
    return torch.eye(classes, dtype=torch.float64)[targets] * (1 - SMOOTHING) + SMOOTHING / classes


def reference_gradients(net, teacher, batch, settings, generator):
    """Every loss of the step from the image on, added up, back-propagated once."""
    space, labels = net.space, labels_of(batch.targets, 10)
    choices = sandwich(space, settings.random_widths, generator)
    largest = net(batch.x, space.largest)
    target = smallest_target = labels
    if settings.distillation == "inplace":
        target = smallest_target = largest.softmax(1).detach()
    if settings.averages:
        with torch.no_grad():
            target = smallest_target = teacher(batch.x, space.largest).softmax(1)
            if settings.distillation == "ensemble_bootstrap":
                drawn = [space.sample(generator) for _ in range(settings.random_widths)]
                outputs = [teacher(batch.x, choice).softmax(1) for choice in drawn]
                smallest_target = sum(outputs, start=target) / (1 + len(drawn))
    total = cross_entropy(largest, labels)
    for choice in choices[1:]:
        soft = smallest_target if choice == space.smallest else target
        total = total + cross_entropy(net(batch.x, choice), soft)
    return torch.autograd.grad(total, list(net.parameters()))


@pytest.mark.parametrize("distillation", DISTILLATION)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_gradient_is_that_of_the_sum_of_all_losses(name, distillation):
    settings = StageOne(distillation)
    net, teacher = small_net(name).double(), small_net(name, seed=1).double().eval()
    batch = batch_of(dtype=torch.float64)
    expected = reference_gradients(net, teacher, batch, settings, random.Random(3))
    before = state_of(teacher)
    losses = supernet_step(net, teacher, batch, settings, Classification(), SMOOTHING, random.Random(3))
    assert losses.keys() == {"largest", "random", "smallest"}
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not changed(before, teacher), "the teacher learns from nobody"


def test_the_modes_differ():
    batch, gradients = batch_of(dtype=torch.float64), []
    for distillation in DISTILLATION:
        net, teacher = small_net().double(), small_net(seed=1).double().eval()
        supernet_step(net, teacher, batch, StageOne(distillation), Classification(), SMOOTHING, random.Random(3))
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    for index, one in enumerate(gradients):
        assert all((one - other).norm() > 1e-5 * one.norm() for other in gradients[:index])


class Watching(Classification):
    """Remembers what students are compared with."""

    def __init__(self) -> None:
        self.labelled, self.targets = [], []

    def loss(self, output, target, smoothing=0.0):
        self.labelled.append(output.detach())
        return super().loss(output, target, smoothing)

    def distill(self, output, target):
        assert not target.requires_grad
        self.targets.append(target)
        return super().distill(output, target)


def watched_step(distillation, random_widths=2):
    net, teacher, task = small_net(), small_net(seed=1).eval(), Watching()
    batch, generator = batch_of(), random.Random(3)
    supernet_step(net, teacher, batch, StageOne(distillation, random_widths), task, SMOOTHING, generator)
    return net, teacher, batch.x, task


def test_without_distillation_everyone_learns_from_the_labels():
    *_, task = watched_step("none")
    assert (len(task.labelled), len(task.targets)) == (4, 0)


def test_in_place_distillation_teaches_the_softmax_of_the_largest():
    net, _, x, task = watched_step("inplace")
    assert (len(task.labelled), len(task.targets)) == (1, 3)
    with torch.no_grad():
        expected = net(x, net.space.largest).softmax(1)
    for target in task.targets:
        torch.testing.assert_close(target, expected)


def test_bootstrapping_teaches_the_softmax_of_the_averaged_largest():
    net, teacher, x, task = watched_step("bootstrap")
    with torch.no_grad():
        expected = teacher(x, net.space.largest).softmax(1)
    assert len(task.targets) == 3
    assert all(torch.equal(target, expected) for target in task.targets)


def test_the_ensemble_teaches_its_mean_and_only_to_the_smallest():
    net, teacher, x, task = watched_step("ensemble_bootstrap", random_widths=4)
    generator = random.Random(3)
    sandwich(net.space, 4, generator)
    extra = [net.space.sample(generator) for _ in range(4)]
    with torch.no_grad():
        outputs = [teacher(x, choice).softmax(1) for choice in (net.space.largest, *extra)]
    *others, smallest = task.targets
    torch.testing.assert_close(smallest, torch.stack(outputs).mean(0))
    assert len(others) == 4
    assert all(torch.equal(target, outputs[0]) for target in others)
    torch.testing.assert_close(smallest.sum(1), torch.ones(len(x)))


def test_a_teacher_leaves_no_graph():
    teacher = small_net()  # its parameters would take a gradient
    largest, mean = teacher_targets(teacher, batch_of().x, [teacher.space.smallest], Classification())
    assert not largest.requires_grad
    assert not mean.requires_grad
    assert not torch.equal(largest, mean)


def test_decay_by_hand():
    grows = StageOne(ema=0.9)
    assert [grows.decay(step) for step in (0, 1, 10, 80, 81, 10_000)] == [0.1, 2 / 11, 11 / 20, 0.9, 0.9, 0.9]
    assert StageOne(ema=0.9, ema_warmup=False).decay(0) == 0.9


SPEC = TrainSpec(epochs=1, batch_size=32, lr=0.05)
STEPS = 4


def stage_one(directory, settings=None, **how):
    return train_supernet(small_net(), settings or StageOne(ema=0.8), run_at(directory, SPEC, 5, **how))


def test_training_equals_the_loop_written_out(tmp_path):
    """The EMA network teaches as it was before the step, follows after it, and is what comes back."""
    trained, history = stage_one(tmp_path)
    net, settings = small_net().train(), StageOne(ema=0.8)
    ema = copy.deepcopy(net).eval()
    weights = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() <= 1]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": SPEC.weight_decay}, {"params": others, "weight_decay": 0.0}],
        SPEC.lr,
        SPEC.momentum,
        nesterov=True,
    )
    for step, batch in enumerate(digits().train.train_batches(32, seed=5, epoch=0)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, STEPS, 0, SPEC.lr, SPEC.min_lr)
        optimizer.zero_grad()
        generator = random.Random(stable_seed(5, "sandwich", step))
        losses = supernet_step(net, ema, batch, settings, Classification(), SPEC.label_smoothing, generator)
        optimizer.step()
        decay = settings.decay(step)
        for mean, value in zip(ema.state_dict().values(), net.state_dict().values(), strict=True):
            mean.mul_(decay).add_(value, alpha=1 - decay)
    assert history["steps"] == STEPS
    assert history["losses"] == pytest.approx(losses, rel=1e-4)
    for key, value in ema.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[key], value, rtol=1e-4, atol=1e-6)


def test_without_bootstrapping_the_trained_network_itself_comes_back(tmp_path):
    net, _ = stage_one(tmp_path, StageOne("inplace"))
    (stored,) = checkpoint_bytes(tmp_path)
    assert stored == "supernet.safetensors"
    assert not net.training
    assert changed(state_of(small_net()), net)


@pytest.mark.parametrize("distillation", ["inplace", "ensemble_bootstrap"])
def test_an_interrupted_stage_one_ends_in_the_same_bytes(tmp_path, distillation):
    settings = StageOne(distillation, random_widths=1)
    net, _ = stage_one(tmp_path / "whole", settings)
    with pytest.raises(Interrupted):
        stage_one(tmp_path / "broken", settings, progress=interrupt_after(3), checkpoint_s=0.0)
    again, _ = stage_one(tmp_path / "broken", settings)
    assert checkpoint_bytes(tmp_path / "broken") == checkpoint_bytes(tmp_path / "whole")
    assert not changed(state_of(net), again)
    assert all(isinstance(module, nn.Module) and not module.training for module in again.modules())


def test_the_labels_are_learnt(tmp_path):
    """The real thing for a few epochs: the loss of the largest falls well below that of guessing, ln 10 = 2.3."""
    torch.manual_seed(0)
    net, spec = PRESETS.get("ds_mobilenet_micro8").build(), TrainSpec(epochs=6, batch_size=32, label_smoothing=0.0)
    _, history = train_supernet(net, StageOne(), run_at(tmp_path, spec))
    assert history["losses"]["largest"] < 1.9
