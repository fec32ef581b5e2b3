"""Multi-view consistency: the teacher sees another view than its students, and on equal views it is bootstrapping."""

import random

import pytest
import torch
from small_runs import Interrupted, changed, checkpoint_bytes, digits, interrupt_after, run_at, small_net, state_of

from bench.core.errors import UserError
from bench.core.spec import TrainSpec
from bench.data.dataset import Batch
from bench.tasks.classification import Classification
from bench.training.supernet import StageOne, supernet_step, train_supernet, views_of

PRESETS = ["ds_mobilenet_pp_micro8", "ds_vit_micro8"]
MVCO = StageOne(multi_view=True)


def batch_of(count=8):
    """Digits in two augmentations that differ."""
    batch = next(digits().train.train_batches(count, seed=0, epoch=0, views=2))
    assert not torch.equal(*batch.views)
    return batch


def gradients(name, batch, settings):
    net, teacher = small_net(name).double(), small_net(name, seed=1).double().eval()
    batch = Batch(tuple(view.double() for view in batch.views), batch.targets)
    losses = supernet_step(net, teacher, batch, settings, Classification(), 0.1, random.Random(3))
    return torch.cat([p.grad.flatten() for p in net.parameters()]), losses


def test_views_by_hand():
    first, second = batch_of().views
    batch = Batch((first, second), torch.zeros(8))
    assert [view is first for view in views_of(batch, multi_view=False)] == [True, True]
    teacher, students = views_of(batch, multi_view=True)
    assert teacher is first
    assert students is second


@pytest.mark.parametrize("distillation", ["bootstrap", "ensemble_bootstrap"])
@pytest.mark.parametrize("name", PRESETS)
def test_on_equal_views_it_is_bootstrapping(name, distillation):
    batch = batch_of()
    twice = Batch((batch.x, batch.x), batch.targets)
    expected, losses = gradients(name, Batch((batch.x,), batch.targets), StageOne(distillation))
    found, same = gradients(name, twice, StageOne(distillation, multi_view=True))
    assert torch.equal(found, expected)
    assert same == losses


@pytest.mark.parametrize("name", PRESETS)
def test_the_gradient_is_that_of_the_losses_written_out(name):
    batch, classification = batch_of(), Classification()
    found, _ = gradients(name, batch, MVCO)
    net, teacher = small_net(name).double(), small_net(name, seed=1).double().eval()
    generator, (first, second) = random.Random(3), (view.double() for view in batch.views)
    with torch.no_grad():
        target = teacher(first, net.space.largest).softmax(1)
    total = classification.loss(net(second, net.space.largest), batch.targets, 0.1)
    for choice in (net.space.sample(generator), net.space.sample(generator), net.space.smallest):
        total = total - (target * net(second, choice).log_softmax(1)).sum(1).mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(total, list(net.parameters()))])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_both_views_matter():
    batch = batch_of()
    (first, second), targets = batch.views, batch.targets
    found, *others = (
        gradients(PRESETS[0], Batch(views, targets), MVCO)[0]
        for views in ((first, second), (first, first), (second,) * 2)
    )
    assert all((found - other).norm() > 1e-6 * found.norm() for other in others)


@pytest.mark.parametrize("distillation", ["none", "inplace"])
def test_it_needs_a_teacher_of_its_own(distillation):
    with pytest.raises(UserError, match=f"distillation '{distillation}' has none; use bootstrap"):
        StageOne(distillation, multi_view=True)


def stage_one(directory, settings=MVCO, **how):
    run = run_at(directory, TrainSpec(epochs=1, batch_size=32, lr=0.05), 5, **how)
    return train_supernet(small_net(), settings, run)[0]


def test_training_draws_two_views(tmp_path):
    """The same steps on two views and on one end elsewhere, and a broken off training ends in the same bytes."""
    net = stage_one(tmp_path / "whole")
    assert changed(state_of(stage_one(tmp_path / "one view", StageOne())), net)
    with pytest.raises(Interrupted):
        stage_one(tmp_path / "broken", progress=interrupt_after(3), checkpoint_s=0.0)
    stage_one(tmp_path / "broken")
    assert checkpoint_bytes(tmp_path / "broken") == checkpoint_bytes(tmp_path / "whole")
