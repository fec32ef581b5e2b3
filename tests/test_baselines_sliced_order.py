"""An order of channels: the full network stays, slices are those of the order; and why a slice can be refined."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_runs import Trained, digits, small_spec, trained_points

from bench.recipes.order import channel_order
from bench.slicing.attention import SlicedAttention
from bench.slicing.layers import SlicedConv2d, SlicedLinear
from bench.slicing.norms import SlicedGroupNorm

PRESETS = ["ds_resnet_micro8", "ds_resnet_bn_micro8", "ds_vit_micro8", "ds_mobilenet_micro8"]


def sliced(directory, model, order, parent=None):
    spec = small_spec("sliced_order", model=model, options={"order": order})
    spec = spec if parent is None else replace(spec, init_from=parent.spec.run_id)
    points = trained_points(spec, directory, parent)
    return Trained(spec, directory), {point.name: point for point in points}


@pytest.mark.parametrize("model", PRESETS)
def test_orders_share_the_full_network_and_differ_in_slices(model, tmp_path):
    parent, as_is = sliced(tmp_path / "none", model, "none")
    x = next(digits().validation.batches(16)).x
    full = list(as_is)[-1]
    for order in ("l1", "random"):
        run, points = sliced(tmp_path / order, model, order, parent)
        assert list(points) == list(as_is)
        assert sorted(path.name for path in (run.directory / "checkpoints").iterdir()) == ["final.safetensors"]
        with torch.no_grad():
            torch.testing.assert_close(points[full](x).output, as_is[full](x).output, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(points["uniform1"](x).output, as_is["uniform1"](x).output, rtol=1e-2)
        route = torch.empty(1, 0, dtype=torch.int64)
        assert all(point.madds(route) == as_is[name].madds(route) for name, point in points.items())
    again, _ = sliced(tmp_path / "again", model, "random", parent)
    file = "checkpoints/final.safetensors"
    assert (again.directory / file).read_bytes() == (tmp_path / "random" / file).read_bytes()


def test_the_full_network_is_trained_and_all_of_it(tmp_path):
    run, points = sliced(tmp_path, "ds_mobilenet_micro8", "none")
    assert sorted(path.name for path in (run.directory / "checkpoints").iterdir()) == [
        "final.safetensors",
        "full.safetensors",
    ]
    assert list(points)[-1] == "largest"
    assert (points["largest"].params_active(torch.empty(1, 0)) == points["largest"].params_stored).all()


def test_the_arms_of_the_ablation_hold_the_same_weights():
    specs = {spec.run_id: spec for spec in channel_order((0,))}
    arms = {}
    for spec in specs.values():
        if spec.method == "sliced_order":
            source = specs[spec.init_from] if spec.init_from else spec
            arms.setdefault(source.run_id, []).append(spec.options["order"])
    assert len(arms) == 6
    assert all(sorted(orders) == ["l1", "none", "random"] for orders in arms.values())


# Nested residual: the output of a wider slice is the narrower one's and a term that the new channels add.


@torch.no_grad()
def test_a_wider_convolution_adds_a_term_to_the_narrower_one():
    torch.manual_seed(0)
    conv, x = SlicedConv2d(8, 10, 3), torch.randn(2, 8, 5, 5)
    narrow, wide = conv(x[:, :3], 4), conv(x[:, :7], 9)
    added = F.conv2d(x[:, 3:7], conv.weight[:4, 3:7], padding=1)
    torch.testing.assert_close(wide[:, :4], narrow + added)
    assert added.abs().max() > 0.1


@torch.no_grad()
def test_a_wider_linear_layer_adds_a_term_to_the_narrower_one():
    torch.manual_seed(0)
    linear, x = SlicedLinear(8, 10), torch.randn(5, 8)
    torch.testing.assert_close(linear(x[:, :7], 9)[:, :4], linear(x[:, :3], 4) + x[:, 3:7] @ linear.weight[:4, 3:7].T)


@torch.no_grad()
def test_more_heads_add_a_term_to_fewer():
    torch.manual_seed(0)
    attention, x = SlicedAttention(8, 4, 2), torch.randn(2, 6, 8)
    first, rest = SlicedAttention(8, 4, 2), SlicedAttention(8, 2, 2)
    first.load_state_dict(attention.state_dict())
    rest.qkv.weight.copy_(attention.qkv.weight[12:])  # the last two heads alone, three rows of two for each
    rest.qkv.bias.copy_(attention.qkv.bias[12:])
    rest.proj.weight.copy_(attention.proj.weight[:, 4:])
    rest.proj.bias.zero_()
    torch.testing.assert_close(attention(x, 4, 8), first(x, 2, 8) + rest(x, 2, 8))


@torch.no_grad()
def test_depth_wise_convolutions_and_group_norm_leave_the_narrower_slice_as_it_is():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 5)
    depthwise, norm = SlicedConv2d(8, 8, 3, depthwise=True), SlicedGroupNorm(8, 2)
    torch.testing.assert_close(depthwise(x)[:, :4], depthwise(x[:, :4]))
    torch.testing.assert_close(norm(x, 8)[:, :4], norm(x[:, :4], 4))
