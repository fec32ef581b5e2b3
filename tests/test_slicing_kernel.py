"""Kernel size as an elastic dimension: the centre window, its gradient, its mixture; and choices that do not fit."""

import pytest
import torch
import torch.nn.functional as F
from small_runs import small_net

from bench.core.errors import UserError
from bench.models import PRESETS
from bench.models.mobilenet.units import Depthwise
from bench.slicing import ops
from bench.slicing.choice import Choice, ChoiceSpace, Decision, Stage
from bench.slicing.extract import extract
from bench.slicing.layers import SlicedConv2d
from bench.slicing.norms import SlicedGroupNorm
from bench.slicing.ops import SoftWidth
from bench.slicing.supernet import View

KINDS = [(False, 1), (False, 2), (True, 1), (True, 2)]


def case(depthwise, stride, kernel=5):
    torch.manual_seed(0)
    return SlicedConv2d(6, 6, kernel, stride, depthwise=depthwise), torch.randn(3, 4, 9, 9)


@pytest.mark.parametrize(("depthwise", "stride"), KINDS)
@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_smaller_kernel_is_the_centre_window(depthwise, stride, size):
    """Against the larger kernel with its ring set to zero: the second, obvious way to say it."""
    conv, x = case(depthwise, stride)
    out = None if depthwise else 5
    inside = torch.zeros(5, 5)
    margin = (5 - size) // 2
    inside[margin : 5 - margin, margin : 5 - margin] = 1
    weight = (conv.weight * inside)[: out or 4, : 1 if depthwise else 4]
    expected = F.conv2d(x, weight, None, stride, 2, 1, 4 if depthwise else 1)
    y = conv(x, out, size)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    plain = conv.extract(4, out, size)
    assert plain.weight.shape[-1] == size
    assert plain.weight.is_contiguous()
    assert torch.equal(plain(x), y)


@pytest.mark.parametrize("depthwise", [False, True])
def test_the_ring_gets_no_gradient(depthwise):
    conv, x = case(depthwise, 1)
    conv(x, None if depthwise else 5, 3).square().sum().backward()
    ring = conv.weight.grad.clone()
    ring[: 4 if depthwise else 5, :4, 1:4, 1:4] = 0
    assert (ring == 0).all()
    assert conv.weight.grad[0, 0, 2, 2] != 0


@pytest.mark.parametrize(("depthwise", "stride"), KINDS)
def test_a_soft_kernel_gives_each_image_its_own(depthwise, stride):
    conv, x = case(depthwise, stride)
    out, sizes = None if depthwise else 5, (3, 5, 3)
    weights = F.one_hot(torch.tensor([1, 0, 2]), 3).float().requires_grad_()
    y = conv(x, out, SoftWidth(sizes, weights))
    expected = torch.cat([conv(x[i : i + 1], out, size) for i, size in enumerate((5, 3, 3))])
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    y.square().sum().backward()
    assert (weights.grad != 0).all()


def test_shares_add_up_the_options_of_one_value():
    weights = torch.tensor([[0.1, 0.2, 0.7], [0.0, 1.0, 0.0]])
    shares = dict(SoftWidth((3, 5, 3), weights).shares())
    torch.testing.assert_close(shares[3], torch.tensor([0.8, 0.0]))
    torch.testing.assert_close(shares[5], torch.tensor([0.2, 1.0]))
    assert ops.times(SoftWidth((1, 2), weights), 4).widths == (4, 8)  # type: ignore[union-attr]
    assert ops.times(3, 4) == 12


def test_group_norm_of_a_slice_is_that_of_the_same_channels_of_a_wider_one():
    torch.manual_seed(0)
    norm = SlicedGroupNorm(12, 4, (4, 8))
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x = torch.randn(2, 12, 3, 3)
    whole = norm(x, 12)
    for width in (4, 8):
        torch.testing.assert_close(norm(x[:, :width], width), whole[:, :width])
        torch.testing.assert_close(norm.extract(width)(x[:, :width]), whole[:, :width])
    soft = norm(x, SoftWidth((4, 12), torch.tensor([[1.0, 0.0], [0.0, 1.0]])))
    torch.testing.assert_close(soft[0, :4], whole[0, :4])
    assert (soft[0, 4:] == 0).all()
    torch.testing.assert_close(soft[1], whole[1])
    assert dict(norm.named_buffers()) == {}


def test_groups_that_do_not_divide_a_width():
    with pytest.raises(UserError, match="4 channels a group cannot run 6 channels"):
        SlicedGroupNorm(8, 4, (6,))


def test_ds_mobilenet_pp_holds_the_subnetworks_of_ds_mobilenet_to_the_unit():
    with torch.device("meta"):
        plus, base = PRESETS.get("ds_mobilenet_pp_v1").build(), PRESETS.get("ds_mobilenet_v1").build()
    costs = [cost.madds for cost in plus.costs(plus.space.uniform_choices, 224)]
    assert costs[::2] == [cost.madds for cost in base.costs(base.space.uniform_choices, 224)]
    assert costs == sorted(set(costs))
    assert len(costs) == 28
    # 5x5 instead of 3x3: five convolutions of stage 3 at 14x14, one of them at stage 4's entry (stride 2), one at 7x7
    assert costs[1] - costs[0] == (25 - 9) * (5 * 224 * 196 + 224 * 49 + 736 * 49)


def test_only_what_runs_behind_the_gate_has_an_elastic_kernel():
    net = PRESETS.get("ds_mobilenet_pp_micro32").build()
    in_front, behind = ([m for m in s.modules() if isinstance(m, Depthwise)] for s in net.segments)
    assert [m.kernel_stage for m in in_front] == [None] * 3
    assert [m.conv.kernel for m in in_front] == [3] * 3
    assert [m.kernel_stage for m in behind] == [3, 3, 4, 4]
    assert [m.conv.kernel for m in behind] == [5] * 4


@torch.no_grad()
def test_kernels_of_one_width_keep_statistics_of_their_own():
    """They see other activations, so they must not share them; and the kernel changes what the network says."""
    net = small_net("ds_mobilenet_pp_micro8").eval()
    small, large = net.space.uniform(2), net.space.uniform(3)
    assert net.space.width(small, 3) == net.space.width(large, 3)
    assert net.space.width(small, 3, "kernel") < net.space.width(large, 3, "kernel")
    norm = next(m for m in net.segments[1].modules() if isinstance(m, Depthwise)).norm
    assert norm.statistics(small.key(4))[0] is not norm.statistics(large.key(4))[0]
    x = torch.randn(2, 1, 8, 8)
    assert not torch.allclose(net(x, small), net(x, large))


STAGES = (Stage("stem", (("filters", (8, 16)),)), Stage("stage0", (("filters", (8, 16)), ("kernel", (3, 5)))))


def space():
    options = tuple(((w, k),) for w in (0, 1) for k in (0, 1))
    ladder = tuple(Choice(((1,), *option)) for option in options)
    return ChoiceSpace(STAGES, ((1,),), (Decision(1, options),), ladder)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"stage0": {"kernel": 4}}, "stage stage0 cannot run kernel 4; allowed are 3, 5"),
        ({"stem": {"kernel": 3}}, "stage stem has no elastic dimension 'kernel'; it slices filters"),
        ({"stage1": {"filters": 8}}, "unknown network stage 'stage1'; did you mean 'stage0'"),
        ({"stem": {"filters": 8}}, "has no batch-norm statistics"),
    ],
)
def test_values_that_a_space_does_not_have(values, sentence):
    with pytest.raises(UserError, match=sentence):
        space().choose(values)


def test_a_choice_by_its_values():
    assert space().choose({"stage0": {"filters": 8, "kernel": 5}}) == Choice(((1,), (0, 1)))
    assert space().choose({}) == space().largest


@pytest.mark.parametrize(
    ("indices", "sentence"),
    [
        (((1,), (0, 2)), "stage stage0 has no kernel number 2; allowed are 0 to 1 .3, 5."),
        (((1,), (-1, 0)), "stage stage0 has no filters number -1"),
        (((1,), (0,)), "stage stage0 takes 2 indices .filters, kernel., not 1"),
        (((1,),), "covers 1 stages, and there are 2"),
    ],
)
def test_a_choice_that_a_space_cannot_run(indices, sentence):
    with pytest.raises(UserError, match=sentence):
        space().check(Choice(indices))


def test_every_way_to_run_a_choice_refuses_one_that_does_not_fit():
    net = small_net("ds_resnet_pp_micro8").eval()
    wrong = Choice((*net.space.largest.indices[:-1], (3, 2)))
    attempts = (
        lambda: net(torch.randn(1, 1, 8, 8), wrong),
        lambda: View(net, wrong),
        lambda: extract(net, wrong),
        lambda: net.cost(wrong, 8),
    )
    for attempt in attempts:
        with pytest.raises(UserError, match="stage stage2 has no kernel number 2; allowed are 0 to 1"):
            attempt()


def test_batch_norm_serves_one_gate():
    first, second = (Decision(i, (((0,),), ((1,),))) for i in (0, 1))
    stages = (STAGES[0], Stage("stage0", (("filters", (8, 16)),)))
    ladder = (Choice(((0,), (0,))), Choice(((1,), (1,))))
    with pytest.raises(UserError, match="2 gates reach more choices than have a name"):
        ChoiceSpace(stages, (), (first, second), ladder)
    assert ChoiceSpace(stages, (), (first, second), ladder, prefix_statistics=False).smallest == ladder[0]
