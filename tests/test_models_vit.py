"""The Vision Transformer family: one network in every form, exact costs, DeiT's weights, importance order."""

import itertools
import random
import threading

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.core.errors import UserError
from bench.models import PRESETS
from bench.models.order import ordered
from bench.models.vit import timm_names as deit
from bench.models.vit import units as vit
from bench.models.vit.plain import PlainStage
from bench.models.vit.presets import DEIT_S, DEIT_TI, VIT, micro
from bench.models.vit.space import ViTConfig
from bench.points import RoutedPoint
from bench.slicing.choice import Choice
from bench.slicing.dynamic import (
    ExtractedSegments,
    ViewSegments,
    fixed_router,
    run_grouped,
    run_masked,
    run_one_by_one,
)
from bench.slicing.extract import extract, parameters_of
from bench.slicing.gate import Gate, moments
from bench.slicing.norms import SlicedLayerNorm
from bench.slicing.ops import SoftWidth

# Two blocks in a stage, two options of equal heads, and a stage in front of the only gate.
GROUPED = ViTConfig(8, 2, 8, ((1, 12, 16), (2, 16, 20), (2, 24, 20), (3, 40, 24)), (2, 1, 2))
ONE_GATE = ViTConfig(8, 2, 8, GROUPED.options, (1, 2), gated_from=1)
CONFIGS = {
    "ds_vit_s": (DEIT_S, 3),
    "ds_vit_ti": (DEIT_TI, 3),
    "ds_vit_micro8": (micro(8, 2), 1),
    "ds_vit_micro32": (micro(32, 4), 3),
    "ds_vit_micro64": (micro(64, 8), 3),
}


def weightless(name, classes, channels):
    """A preset without values, for what depends on shapes alone."""
    with torch.device("meta"):
        return PRESETS.get(name).build(classes=classes, channels=channels)


def shaken(net, seed=0):
    """The network with every parameter moved: fresh biases are zero and fresh norms one, which hides mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def net():
    return shaken(vit.build(GROUPED, 5, 2))


@pytest.fixture(scope="module")
def x():
    return torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def mixed_choices(net, count=6):
    """Choices off the ladder: every elastic dimension of every stage on its own."""
    generator = random.Random(3)
    lists = [[range(len(values)) for _, values in stage.dimensions] for stage in net.space.stages]
    return [Choice(tuple(tuple(generator.choice(r) for r in ranges) for ranges in lists)) for _ in range(count)]


def formula(config, triples, input_channels, classes):
    """METHODS 3.4, with each block's own q, m and d'."""
    n, d = config.tokens, config.channels
    blocks = sum(
        3 * n * w * h * config.head_dim + 2 * n * n * h * config.head_dim + n * h * config.head_dim * w + 2 * n * w * m
        for h, m, w in triples
    )
    return (n - 1) * input_channels * config.patch**2 * d + blocks + classes * d


def executed(module, x):
    """Multiply-adds that ran, fused attention on the CPU included."""

    def fused(query, key, value, *args, out_shape=None, **kwargs):
        batch, heads, tokens, size = query
        return 4 * batch * heads * tokens * key[2] * size

    table = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=table) as counter:
        module(x)
    return counter.get_total_flops() / 2


# -- cost ---------------------------------------------------------------------------------------------------------


def test_full_networks_cost_what_deit_costs():
    net = weightless("ds_vit_s", 1000, 3)
    assert net.cost(net.space.largest, 224).madds == 4_598_882_304
    assert [net.cost(c, 224).madds for c in net.space.uniform_choices[:3]] == [
        1_223_165_952,
        1_979_948_544,
        2_852_926_464,
    ]
    assert parameters_of(net) == 22_050_664
    tiny = weightless("ds_vit_ti", 1000, 3)
    assert tiny.cost(tiny.space.largest, 224).madds == 1_253_683_200
    assert parameters_of(tiny) == 5_717_416


@pytest.mark.parametrize("heads", [2, 3, 4, 5, 6])
def test_heads_and_hidden_width_alone_cost_what_the_reference_table_says(heads):
    reference = {2: 1_572, 3: 2_329, 4: 3_085, 5: 3_842, 6: 4_599}  # METHODS 3.4, in millions
    config = ViTConfig(224, 16, 64, ((heads, heads * 256, 384), (6, 1536, 384)))
    with torch.device("meta"):
        net = vit.build(config, 1000, 3)
    assert round(net.cost(net.space.smallest, 224).madds / 1e6) == reference[heads]


@pytest.mark.parametrize("name", CONFIGS)
def test_cost_is_the_formula_for_every_preset(name):
    config, channels = CONFIGS[name]
    net = weightless(name, 7, channels)
    for step, option in enumerate(config.options):
        madds = net.cost(net.space.uniform(step), config.image_size).madds
        assert madds == formula(config, [option] * sum(config.stages), channels, 7)
    assert net.space.uniform(3) == net.space.largest
    assert len(net.space.decisions) == 4


def test_executed_equals_claimed_in_every_form(net, x):
    for choice in (*net.space.uniform_choices, *mixed_choices(net)):
        claim = net.cost(choice, 8).madds * len(x)
        assert executed(lambda images, c=choice: net(images, c), x) == claim
        assert executed(extract(net, choice), x) == claim


def test_grouped_executes_what_it_claims(net, x):
    torch.manual_seed(2)
    gates = [Gate(2 * GROUPED.channels, 4, net.gate_hidden, "separate").requires_grad_(False) for _ in range(3)]
    for gate in gates:
        nn.init.normal_(gate.head.weight)
    point = RoutedPoint("dynamic", net, gates, [range(4)] * 3, 8)
    claims = point.madds(point(x).route)
    assert len(set(claims.tolist())) > 1
    for form, module in point.executables().items():
        assert executed(module, x) == claims.sum().item(), form
        assert [executed(module, x[i : i + 1]) for i in range(len(x))] == claims.tolist()


@pytest.mark.parametrize(("name", "share"), [("ds_vit_s", 1e-4), ("ds_vit_ti", 2e-4), ("ds_vit_micro8", 0.015)])
def test_gates_cost_next_to_nothing(name, share):
    config, channels = CONFIGS[name]
    net = weightless(name, 1000 if channels == 3 else 10, channels)
    gates = len(net.space.decisions) * Gate(2 * config.channels, 4, net.gate_hidden).madds
    assert 0 < gates < share * net.cost(net.space.smallest, config.image_size).madds


# -- one network in every form ------------------------------------------------------------------------------------


def test_view_equals_extracted(net, x):
    for choice in (*net.space.uniform_choices, *mixed_choices(net)):
        plain = extract(net, choice)
        torch.testing.assert_close(plain(x), net(x, choice), rtol=1e-5, atol=1e-5)
        assert not any(isinstance(module, SlicedLayerNorm) for module in plain.modules())


def test_choices_differ(net, x):
    outputs = [net(x, choice) for choice in net.space.named]
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.combinations(outputs, 2))


def test_grouped_masked_and_one_by_one_equal_the_composed_choice(net):
    route = torch.tensor(list(itertools.product(range(4), repeat=3)))
    route = route[torch.randperm(len(route), generator=torch.Generator().manual_seed(0))]
    x = torch.randn(len(route), 2, 8, 8, generator=torch.Generator().manual_seed(4))
    views = torch.cat([net(x[i : i + 1], net.space.routed(r)) for i, r in enumerate(route.tolist())])
    for segments in (ViewSegments(net), ExtractedSegments(net)):
        grouped = run_grouped(segments, net.space, fixed_router(route), x)
        torch.testing.assert_close(grouped.output, views, rtol=1e-5, atol=1e-5)
        assert torch.equal(grouped.route, route)
    masked = run_masked(net, fixed_router(route), x)
    torch.testing.assert_close(masked.output, views, rtol=1e-5, atol=1e-5)
    alone = run_one_by_one(ViewSegments(net), net.space, fixed_router(route), x)
    torch.testing.assert_close(alone.output, views, rtol=1e-5, atol=1e-5)


def test_groups_merge_at_every_gate(net):
    """64 routes, but no segment runs more than four times: what comes in has one width, so only the option counts."""
    route = torch.tensor(list(itertools.product(range(4), repeat=3)))
    calls = []

    def segments(index, x, choice):
        calls.append(index)
        return net.segments[index](x, choice)

    run_grouped(segments, net.space, fixed_router(route), torch.randn(64, 2, 8, 8))
    assert [calls.count(index) for index in range(4)] == [1, 4, 4, 4]


def test_masked_equals_grouped_behind_one_gate(x):
    net = shaken(vit.build(ONE_GATE, 5, 2))
    route = torch.tensor([[0], [1], [2], [3], [3], [0]])
    masked = run_masked(net, fixed_router(route), x)
    grouped = run_grouped(ViewSegments(net), net.space, fixed_router(route), x)
    torch.testing.assert_close(masked.output, grouped.output, rtol=1e-5, atol=1e-5)
    assert net.space.routed([3]).indices[0] == net.space.stages[0].first  # in front of the gate: at its smallest


class SoftRoute:
    """One option a stage for each image, as weights: the least that masked execution asks of a choice."""

    def __init__(self, space, weights):
        self.space, self.weights = space, weights

    def pick(self, stage, position, values):
        options = self.space.decisions[stage].options
        widths = tuple(values[option[0][position]] for option in options)
        return widths[0] if len(set(widths)) == 1 else SoftWidth(widths, self.weights[stage])


def test_masked_equals_sliced_behind_several_gates_and_carries_a_gradient(net, x):
    route = torch.tensor([[0, 3, 1], [1, 0, 2], [2, 2, 0], [3, 3, 3], [0, 0, 0], [1, 2, 3]])
    weights = [F.one_hot(column, 4).float().requires_grad_() for column in route.T]
    masked = net(x, SoftRoute(net.space, weights))
    sliced = torch.cat([net(x[i : i + 1], net.space.routed(r)) for i, r in enumerate(route.tolist())])
    torch.testing.assert_close(masked, sliced, rtol=1e-5, atol=1e-5)
    masked.square().sum().backward()
    for weight in weights:
        assert weight.grad is not None
        assert weight.grad.isfinite().all()
        assert (weight.grad.abs().sum(1) > 0).all()


def test_soft_layer_norm_reads_only_the_channels_inside():
    norm = shaken(SlicedLayerNorm(8, 1e-6))
    x = torch.randn(2, 3, 8)
    width = SoftWidth((4, 8), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    result = norm(x, width)
    torch.testing.assert_close(result[0, :, :4], F.layer_norm(x[0, :, :4], (4,), norm.weight[:4], norm.bias[:4], 1e-6))
    torch.testing.assert_close(result[1], F.layer_norm(x[1], (8,), norm.weight, norm.bias, 1e-6))
    assert not result[0, :, 4:].any()


# -- slicing ------------------------------------------------------------------------------------------------------


def test_idle_channels_are_carried_unchanged(net):
    stage = net.segments[1].units[0]
    stream = torch.randn(2, 17, 24)
    result = stage(stream, net.space.smallest)
    assert torch.equal(result[..., 16:], stream[..., 16:])
    assert not torch.equal(result[..., :16], stream[..., :16])
    assert torch.equal(stage.extract(net.space.smallest)(stream)[..., 16:], stream[..., 16:])


def test_gradients_outside_the_slice_are_zero(x):
    net = shaken(vit.build(GROUPED, 5, 2)).requires_grad_(True)
    net(x, net.space.smallest).sum().backward()  # 1 head of 8, 12 hidden units, 16 of 24 channels
    block = net.segments[1].units[0].blocks[0]
    inside = {
        "norm1.weight": (16,),
        "norm1.bias": (16,),
        "norm2.weight": (16,),
        "norm2.bias": (16,),
        "attention.qkv.weight": (24, 16),
        "attention.qkv.bias": (24,),
        "attention.proj.weight": (16, 8),
        "attention.proj.bias": (16,),
        "fc1.weight": (12, 16),
        "fc1.bias": (12,),
        "fc2.weight": (16, 12),
        "fc2.bias": (16,),
    }
    assert inside.keys() == dict(block.named_parameters()).keys()
    for name, parameter in block.named_parameters():
        kept = tuple(slice(count) for count in inside[name])
        assert parameter.grad[kept].abs().sum() > 0, name
        parameter.grad[kept] = 0
        assert not parameter.grad.any(), name


def test_a_forward_changes_nothing_on_the_network(net, x):
    before = {name: dict(module.__dict__) for name, module in net.named_modules()}
    state = {key: value.clone() for key, value in net.state_dict().items()}
    first = [net(x, choice) for choice in net.space.named]
    assert all(torch.equal(net(x, choice), out) for choice, out in zip(net.space.named, first, strict=True))
    assert before == {name: dict(module.__dict__) for name, module in net.named_modules()}
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_two_threads_may_run_two_choices(net, x):
    choices = [net.space.smallest, net.space.largest]
    expected = [net(x, choice) for choice in choices]
    wrong = []

    def work(index):
        for _ in range(50):
            if not torch.equal(net(x, choices[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_moments_tell_images_apart_and_have_a_gradient_for_constant_tokens():
    stream = torch.ones(2, 5, 8, requires_grad=True)
    moments(stream).sum().backward()
    assert stream.grad is not None
    assert stream.grad.isfinite().all()
    flat, busy = torch.zeros(1, 4, 8), torch.randn(1, 4, 8)
    busy = busy - busy.mean(1, keepdim=True)  # equal means: only the spread differs
    assert not torch.allclose(moments(flat), moments(busy))


@pytest.mark.parametrize("name", ["ds_vit_micro8", "ds_vit_micro32", "ds_vit_micro64"])
def test_micro_presets_run_and_hold_nested_sub_networks(name):
    config, channels = CONFIGS[name]
    net = PRESETS.get(name).build().eval()
    size = config.image_size
    with torch.no_grad():
        assert net(torch.randn(2, channels, size, size), net.space.smallest).shape == (2, 10)
    costs = [cost.madds for cost in net.costs(net.space.uniform_choices, size)]
    assert costs == sorted(costs)
    assert parameters_of(extract(net, net.space.largest)) == parameters_of(net)


# -- export -------------------------------------------------------------------------------------------------------


def test_an_extracted_network_exports(net, x):
    choice = net.space.routed([0, 3, 1])
    plain = extract(net, choice)
    assert isinstance(plain[1], PlainStage)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(plain, (x,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(x[:3]), net(x[:3], choice), rtol=1e-5, atol=1e-5)


# -- DeiT ---------------------------------------------------------------------------------------------------------


TWIN = {"img_size": 8, "patch_size": 2, "in_chans": 2, "num_classes": 5, "embed_dim": 24, "depth": 5, "num_heads": 3}
TWIN |= {"mlp_ratio": 40 / 24}


def timm_twin(**changes):
    """A timm Vision Transformer of the shape of `GROUPED`, with nothing at its initial value."""
    return timm.models.VisionTransformer(**{**TWIN, **changes})


def test_timm_logits_equal_ours_and_the_key_map_inverts(x):
    theirs = shaken(timm_twin(), seed=5)
    net = vit.build(GROUPED, 5, 2).eval()
    deit.load_timm(net, theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(net(x, net.space.largest), theirs(x), rtol=1e-5, atol=1e-5)
    back = deit.to_timm(net)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


@pytest.mark.slow
def test_deit_small_of_timm_has_our_logits_and_our_cost():
    theirs = shaken(timm.create_model("deit_small_patch16_224", pretrained=False))
    net = PRESETS.get("ds_vit_s").build().eval()
    deit.load_timm(net, theirs.state_dict())
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(net(images, net.space.largest), theirs(images), rtol=1e-5, atol=1e-5)
    assert executed(theirs, images) == net.cost(net.space.largest, 224).madds == 4_598_882_304


def test_the_classifier_may_stay(x):
    theirs = timm_twin(num_classes=9).eval()
    net = vit.build(GROUPED, 5, 2).eval()
    own = net.segments[-1].units[-1].linear.weight.clone()
    deit.load_timm(net, theirs.state_dict(), head=False)
    assert torch.equal(net.segments[-1].units[-1].linear.weight, own)
    assert torch.equal(net.segments[-1].units[-1].norm.weight, theirs.norm.weight)


def distilled():
    return timm.models.VisionTransformerDistilled(**TWIN)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (distilled, "distilled"),
        (lambda: timm_twin(depth=4), "lacks blocks.4.norm1.weight and 11 more"),
        (lambda: timm_twin(depth=6), "also holds blocks.5"),
        (lambda: timm_twin(embed_dim=36), r"cls_token has shape \(1, 1, 36\), this network needs \(1, 1, 24\)"),
        (lambda: timm_twin(img_size=16), r"pos_embed has shape \(1, 65, 24\), this network needs \(1, 17, 24\)"),
        (lambda: timm_twin(norm_layer="rmsnorm"), "lacks blocks.0.norm1.bias and .* layer norm"),
        (lambda: timm_twin(qk_norm=True), "also holds blocks.0.attn.q_norm.weight .* layer norm"),
        (lambda: timm_twin(init_values=0.1), "also holds blocks.0.ls1.gamma .* another architecture"),
        (lambda: timm_twin(num_classes=9), r"head.weight has shape \(9, 24\), this network needs \(5, 24\)"),
    ],
)
def test_a_checkpoint_that_does_not_match_says_what_does_not(model, says):
    net = vit.build(GROUPED, 5, 2)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(UserError, match=says):
        deit.load_timm(net, model().state_dict())
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_another_image_size_is_a_clear_error(net):
    with pytest.raises(UserError, match=r"reads 2x8x8 images .* not 2x16x16"):
        net(torch.randn(1, 2, 16, 16), net.space.largest)
    with pytest.raises(UserError, match="not 2x12x12"):
        net.cost(net.space.largest, 12)
    with pytest.raises(UserError, match="not 3x8x8"):
        net(torch.randn(1, 3, 8, 8), net.space.largest)


# -- importance order ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(0)])
def test_an_order_leaves_the_full_network_as_it_was(net, x, generator):
    other = ordered(net, VIT, generator)
    torch.testing.assert_close(other(x, net.space.largest), net(x, net.space.largest), rtol=1e-5, atol=1e-5)
    assert (other(x, net.space.smallest) - net(x, net.space.smallest)).abs().max() > 1e-3


def test_what_matters_most_goes_first():
    net = vit.build(GROUPED, 5, 2)
    block = net.segments[1].units[0].blocks[0]
    with torch.no_grad():
        block.fc1.weight[7] += 1.0
        block.attention.qkv.weight[2 * 24 :] += 1.0  # the third head
        for part in net.segments[1:]:
            for writer in part.units[0].blocks:
                writer.fc2.weight[11] += 1.0  # a channel of the stream
    first = ordered(net, VIT).segments[1].units[0].blocks[0]
    assert first.fc1.weight[0].mean() > 0.9
    assert first.attention.qkv.weight[:24].mean() > 0.9
    assert first.fc2.weight[0].mean() > 0.9
    assert first.fc2.weight[1:].mean() < 0.1
