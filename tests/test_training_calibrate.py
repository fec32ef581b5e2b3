"""Recalibration: pooled moments of fixed images, idempotent, and only for the choices that were named."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_data import InOrder
from small_runs import CPU, changed, digits, small_net, state_of
from torch import nn

from bench.core.errors import UserError
from bench.data.dataset import Batch
from bench.runs.estimate import FirstImages
from bench.slicing.bound import CollectingChoice
from bench.slicing.extract import extract
from bench.slicing.norms import Moments, PrefixBatchNorm2d
from bench.training.calibrate import calibrate


def shifted_images(count=50, size=8):
    """Images whose second half is brighter: their variance is not a mean of their batches' variances."""
    images = torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(3))
    images[count // 2 :] += 3.0
    return images


def test_pooled_moments_are_those_of_all_values_together():
    """The stem's input does not depend on the batches, so its statistics can be had in one go. The last is ragged."""
    net, images = small_net(), shifted_images()
    choice = net.space.uniform(2)
    calibrate(net, [choice], InOrder(images), CPU, batch_size=16)
    stem = net.segments[0].units[0]
    mean, var = stem.norm.statistics(choice.key(1))
    with torch.no_grad():
        values = F.conv2d(images.double(), stem.conv.weight[: len(mean)].double(), padding=1)
        apart = torch.stack([part.var((0, 2, 3)) for part in values.split(16)]).mean(0)
    torch.testing.assert_close(mean.double(), values.mean((0, 2, 3)))
    torch.testing.assert_close(var.double(), values.var((0, 2, 3)), rtol=1e-5, atol=1e-8)
    assert (apart < 0.9 * var).any(), "a mean of variances must differ for this test to say anything"


def test_merged_moments_do_not_depend_on_the_parts():
    values = shifted_images().double().transpose(0, 1).flatten(1)  # (1, all)
    merged = None
    for part in values.split([100, 1, 1000, 2099], dim=1):
        seen = Moments(part.numel(), part.sum(1), part.square().sum(1))
        merged = seen if merged is None else merged.merge(seen)
    mean, var = merged.mean_var()
    torch.testing.assert_close(mean, values.mean(1))
    torch.testing.assert_close(var, values.var(1))


@pytest.mark.parametrize(
    "name", ["ds_mobilenet_micro8", "us_mobilenet_micro8", "s_mobilenet_micro8", "ds_resnet_bn_micro8"]
)
def test_every_norm_gets_the_statistics_of_the_extracted_network(name):
    """By another way: the ordinary network in training mode, its batch norms taking over the batch's moments whole."""
    net, images = small_net(name), shifted_images()
    choices = [net.space.smallest, net.space.uniform(1), net.space.largest]
    calibrate(net, choices, InOrder(images), CPU)
    for choice in choices:
        ours = norms_of(extract(net, choice))
        theirs = extract(net, choice).train()
        for norm in norms_of(theirs):
            norm.momentum = 1.0
            norm.reset_running_stats()
        with torch.no_grad():
            theirs(images)
        assert len(ours) > 4
        for mine, other in zip(ours, norms_of(theirs), strict=True):
            torch.testing.assert_close(mine.running_mean, other.running_mean, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(mine.running_var, other.running_var, rtol=1e-3, atol=1e-5)


def norms_of(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def test_calibrating_twice_changes_nothing():
    net = small_net()
    calibrate(net, net.space.named, digits().calibration, CPU)
    before = state_of(net)
    torch.manual_seed(1)
    calibrate(net, net.space.named, digits().calibration, CPU)
    assert changed(before, net) == set()


def statistics_keys(net):
    """Every statistics buffer with the key of the choice that it belongs to."""
    for name, module in net.named_modules():
        if isinstance(module, PrefixBatchNorm2d):
            for buffer, _ in module.named_buffers():
                yield f"{name}.{buffer}", buffer.partition("_")[2]


@pytest.mark.parametrize(
    "name", ["ds_mobilenet_micro8", "us_mobilenet_micro8", "s_mobilenet_micro8", "ds_resnet_bn_micro8"]
)
def test_one_choice_leaves_the_statistics_of_all_others_untouched(name):
    net = small_net(name)
    own = dict(statistics_keys(net))
    for choice in (net.space.smallest, net.space.uniform(2), net.space.largest):
        fresh = copy.deepcopy(net)
        before = state_of(fresh)
        calibrate(fresh, [choice], digits().calibration, CPU)
        expected = {buffer for buffer, key in own.items() if key in choice.keys}
        assert changed(before, fresh) == expected, "its own statistics, all of them; no weight, nobody else's"


@torch.no_grad()
def test_other_networks_answer_as_before():
    net = small_net()
    calibrate(net, net.space.named, digits().calibration, CPU)
    x = next(digits().validation.batches(8)).x
    others = [choice for choice in net.space.named if choice != net.space.uniform(1)]
    before = [net.eval()(x, choice) for choice in others]
    calibrate(net, [net.space.uniform(1)], digits().calibration, CPU)
    assert all(torch.equal(net(x, choice), output) for choice, output in zip(others, before, strict=True))


@pytest.mark.parametrize("name", ["ds_mobilenet_micro8", "us_mobilenet_micro8", "ds_vit_micro8"])
@torch.no_grad()
def test_every_choice_evaluates_afterwards_the_largest_too(name):
    """The official code resets the largest network's statistics and never estimates them again (METHODS 4.3)."""
    net = small_net(name)
    untouched = state_of(net)
    calibrate(net, net.space.named, FirstImages(digits().calibration, 40), CPU)
    x = next(digits().calibration.batches(20)).x
    for choice in net.space.named:
        output = net.eval()(x, choice)
        assert output.isfinite().all()
        assert output.var(0).sum() > 1e-4, "images still differ"
    assert dict(statistics_keys(net)).keys() <= changed(untouched, net)


class Recording(InOrder):
    """Notes the images that are asked for; offers no shuffled or augmented ones."""

    def __init__(self, images):
        super().__init__(images)
        self.seen: list[torch.Tensor] = []

    def batches(self, batch_size, device="cpu"):
        for batch in super().batches(batch_size, device):
            self.seen.append(batch.x)
            yield Batch(batch.views, batch.targets)


def test_the_images_are_all_of_the_split_in_its_order():
    net, split = small_net(), Recording(shifted_images())
    calibrate(net, [net.space.smallest, net.space.largest], split, CPU, batch_size=20)
    assert [len(x) for x in split.seen] == [20, 20, 10] * 2
    assert torch.equal(torch.cat(split.seen), shifted_images().repeat(2, 1, 1, 1))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back_and_no_gradient_is_left(training):
    net = small_net().train(training)
    calibrate(net, [net.space.largest], digits().calibration, CPU)
    assert all(module.training is training for module in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not any(buffer.requires_grad for buffer in net.buffers())


def test_the_first_images_of_a_split_are_enough():
    net, images = small_net(), shifted_images()
    alone = copy.deepcopy(net)
    calibrate(net, [net.space.smallest], InOrder(images), CPU, batch_size=16, images=20)
    calibrate(alone, [net.space.smallest], InOrder(images[:20]), CPU, batch_size=16)
    assert not changed(state_of(alone), net)
    calibrate(alone, [net.space.smallest], InOrder(images), CPU, batch_size=16)
    assert changed(state_of(alone), net)


def test_a_remainder_is_not_normalised_by_itself():
    """33 images in batches of 16: the last one joins the batch in front of it, as if those had been 16 and 17."""
    net, images = small_net(), shifted_images()[:33]
    uneven = copy.deepcopy(net)
    calibrate(net, [net.space.smallest], InOrder(images), CPU, batch_size=16)
    collecting = CollectingChoice(uneven.space.smallest)
    with torch.no_grad():
        for part in images.split([16, 17]):
            uneven.eval()(part, collecting)
    for (norm, key), seen in collecting.moments.items():
        for stored, pooled in zip(norm.statistics(key), seen.mean_var(), strict=True):
            stored.copy_(pooled)
    assert not changed(state_of(net), uneven)


@pytest.mark.parametrize("images", [0, 151])
def test_a_split_that_does_not_hold_so_many_images(images):
    net = small_net()
    with pytest.raises(UserError, match=f"calibration_images must be from 1 to the 150 of .*, not {images}"):
        calibrate(net, [net.space.smallest], digits().calibration, CPU, images=images)
