"""Lessons: the gradient of a step against its losses written out, and the training that a rule makes of it."""

import random
from dataclasses import replace

import pytest
import torch
from small_runs import digits, run_at, small_net

from bench.core.spec import TrainSpec
from bench.tasks.classification import Classification
from bench.training.joint import Lesson, joint_step, train_jointly

SMOOTHING = 0.1


def batch_of(count=8, dtype=torch.float64):
    batch = next(digits().train.batches(count))
    return batch._replace(views=tuple(view.to(dtype) for view in batch.views))


def soft_cross_entropy(output, target):
    return -(target * (output - output.logsumexp(1, keepdim=True))).sum(1).mean()


def smoothed(targets):
    return torch.eye(10, dtype=torch.float64)[targets] * (1 - SMOOTHING) + SMOOTHING / 10


def test_the_gradient_is_that_of_the_losses_added_up():
    """The full network on labels; the next by it alone; the smallest by that one and, at half weight, by the labels."""
    net, batch = small_net("nested_vit_micro8").double(), batch_of()
    first, second, third = (net.space.uniform(i) for i in (3, 2, 0))
    lessons = [Lesson(first), Lesson(second, labels=0.0, teacher=0), Lesson(third, labels=0.5, teacher=1)]
    losses = joint_step(net, batch, lessons, Classification(), SMOOTHING)
    ours = [p.grad for p in net.parameters()]
    net.zero_grad(set_to_none=True)
    outputs, labels = [net(batch.x, choice) for choice in (first, second, third)], smoothed(batch.targets)
    terms = [
        soft_cross_entropy(outputs[0], labels),
        soft_cross_entropy(outputs[1], outputs[0].detach().softmax(1)),
        soft_cross_entropy(outputs[2], outputs[1].detach().softmax(1)) + 0.5 * soft_cross_entropy(outputs[2], labels),
    ]
    torch.stack(terms).sum().backward()
    for mine, parameter in zip(ours, net.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)
    assert list(losses.values()) == pytest.approx([term.item() for term in terms])


def test_a_rule_is_told_how_far_the_training_is_and_given_the_randomness_of_the_step(tmp_path):
    seen = []

    def rule(done: float, generator: random.Random):
        seen.append((done, generator.random()))
        return [Lesson(net.space.smallest)]

    net, spec = small_net("nested_vit_micro8"), TrainSpec(epochs=2, batch_size=32)
    history = train_jointly("nested", net, rule, run_at(tmp_path, spec, 5))
    assert [done for done, _ in seen] == [step / 8 for step in range(8)]
    assert len({number for _, number in seen}) == 8
    assert history["steps"] == 8
    assert not net.training
    seen.clear()
    train_jointly("cut", net, rule, run_at(tmp_path, replace(spec, max_steps=4), 5))
    assert [done for done, _ in seen] == [step / 4 for step in range(4)], "a shortened training goes through all phases"
