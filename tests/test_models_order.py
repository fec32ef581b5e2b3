"""Importance order of CNNs: the full network stays, what writes most comes first, and readers follow."""

import pytest
import torch
from small_data import InOrder
from small_runs import CPU, small_net, state_of

from bench.core.errors import UserError
from bench.models import PRESETS
from bench.models.mobilenet import order as mobilenet_order
from bench.models.order import Channels, check_order, importance_order, ordered
from bench.models.resnet import order as resnet_order
from bench.models.resnet.units import Residual
from bench.slicing.norms import PrefixBatchNorm2d
from bench.training.calibrate import calibrate

SMALL = [preset for preset in map(PRESETS.get, PRESETS.names()) if preset.image_size == 8 and not preset.family.tokens]
SWITCHABLE = [preset.name for preset in SMALL if preset.trains_as == "switchable"]
NAMES = [preset.name for preset in SMALL if preset.name not in SWITCHABLE]
DETECTORS = ["ds_mobilenet_det_micro", "us_mobilenet_det_micro", "ds_resnet_det_micro"]


def in_order(net, name, generator=None):
    return ordered(net, PRESETS.get(name).family, generator)


def channels_of(net, name):
    walks = {"mobilenet": mobilenet_order.channels_of, "resnet": resnet_order.channels_of}
    return walks[PRESETS.get(name).family.name](net)


def lived_in(name):
    net = small_net(name)
    if net.space.prefix_statistics:
        calibrate(net, net.space.named, InOrder(torch.randn(32, 1, 8, 8)), CPU)
    return net.eval()


@pytest.mark.parametrize("generator", [None, 0])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_full_network_says_the_same(name, generator):
    net, x = lived_in(name), torch.randn(4, 1, 8, 8)
    before = state_of(net)
    other = in_order(net, name, None if generator is None else torch.Generator().manual_seed(generator))
    largest, smallest = net.space.largest, net.space.smallest
    expected = net(x, largest)
    assert (other(x, largest) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not torch.allclose(other(x, smallest), net(x, smallest), rtol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items()), "the original stays"


@pytest.mark.parametrize("name", NAMES)
def test_importance_falls(name):
    for channels in channels_of(in_order(small_net(name), name), name):
        scores = sum(weight.abs().flatten(1).sum(1) for weight in channels.writers)
        groups = scores.unflatten(0, (-1, channels.group))
        assert (groups.sum(1).diff() <= 1e-4).all()
        assert (groups.diff(dim=1) <= 1e-4).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_axis_that_is_sliced_is_moved_exactly_once(name):
    """Each writer, follower and reader belongs to one set of channels on that side."""
    net = small_net(name)
    sets = list(channels_of(net, name))
    outputs = [id(p) for channels in sets for p in (*channels.writers, *channels.followers)]
    inputs = [id(p) for channels in sets for p in channels.readers]
    assert len(outputs) == len(set(outputs))
    assert len(inputs) == len(set(inputs))
    convolutions = [p for p in net.parameters() if p.dim() == 4]
    assert {id(p) for p in convolutions} <= set(outputs)
    assert {id(p) for p in convolutions if p.shape[1] > 1} <= set(inputs), "one input channel: images and depth-wise"


@pytest.mark.parametrize("name", DETECTORS)
@torch.no_grad()
def test_a_detector_is_ordered_to_its_last_stage(name):
    torch.manual_seed(0)
    net, x = PRESETS.get(name).build().eval(), torch.randn(2, 3, 64, 64)
    for parameter in net.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    other = in_order(net, name)
    largest, smallest = net.space.largest, net.space.smallest
    expected = net(x, largest)
    assert (other(x, largest) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not torch.allclose(other(x, smallest), net(x, smallest), rtol=1e-3)
    before, after = (list(channels_of(each, name))[-1] for each in (net, other))
    assert before.readers[-1] is net.segments[-1].units[-1].reduce.weight
    assert not torch.equal(before.readers[-1], after.readers[-1])
    assert torch.equal(before.readers[-1].sort(1).values, after.readers[-1].sort(1).values), "columns, permuted"
    assert all(not torch.equal(*pair) for pair in zip(before.writers, after.writers, strict=True))


def test_the_stream_of_a_resnet_stage_moves_as_one():
    net = small_net("ds_resnet_micro8")
    blocks = [unit for segment in net.segments for unit in segment.units if isinstance(unit, Residual)]
    streams = [channels for channels in channels_of(net, "ds_resnet_micro8") if len(channels.writers) > 1]
    stages = len(net.space.stages) - 1
    assert len(streams) == stages
    assert sum(len(channels.writers) for channels in streams) == len(blocks) + stages  # and a projection a stage


def test_an_order_by_hand():
    weight = torch.tensor([1.0, -5.0, 2.0, 0.0, 3.0, 3.5])[:, None, None, None]
    assert importance_order(Channels([weight]), None).tolist() == [1, 5, 4, 2, 0, 3]
    pairs = Channels([weight], group=2)  # sums 6, 2, 6.5: pairs move as wholes, the larger of each first
    assert importance_order(pairs, None).tolist() == [5, 4, 1, 0, 2, 3]
    both = Channels([weight, 10 - weight])  # two writers of one channel count together
    assert importance_order(both, None).tolist() == [1, 0, 2, 3, 4, 5]


def test_a_random_order_depends_on_its_generator_alone():
    orders = [
        importance_order(Channels([torch.ones(8, 1, 1, 1)]), torch.Generator().manual_seed(seed)).tolist()
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(8))


def test_narrow_statistics_start_from_the_leading_part_of_the_full_ones():
    net = in_order(lived_in("ds_mobilenet_micro8"), "ds_mobilenet_micro8")
    narrower = 0
    for norm in (module for module in net.modules() if isinstance(module, PrefixBatchNorm2d)):
        means = dict(norm.named_buffers())
        full = [value for key, value in means.items() if key.startswith("mean") and len(value) == len(norm.weight)][-1]
        for key, value in means.items():
            if key.startswith("mean") and len(value) < len(full):
                assert torch.equal(value, full[: len(value)])
                narrower += 1
    assert narrower > 10


@pytest.mark.parametrize("name", SWITCHABLE)
def test_scales_of_each_width_keep_channels_where_they_are(name):
    with pytest.raises(UserError, match="switchable batch norm has scales for each width"):
        check_order(PRESETS.get(name), "l1")
    check_order(PRESETS.get(name), "none")
