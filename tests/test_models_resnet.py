"""The ResNet family against published counts and timm's networks; its gates, group norm and loading."""

import threading
from itertools import pairwise

import pytest
import timm
import torch
from small_runs import full_routing, small_net
from timm.models.resnet import Bottleneck as TimmBottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import nn

from bench.core.errors import UserError
from bench.models import PRESETS
from bench.models.resnet import units as resnet
from bench.models.resnet.space import ResNetConfig
from bench.models.resnet.timm_names import from_timm, key_map, load_timm, to_timm
from bench.models.resnet.units import GateInput, Residual
from bench.models.widths import BlockStage
from bench.profilers.madds import executed_madds
from bench.slicing.choice import Choice
from bench.slicing.dynamic import ExtractedSegments, ViewSegments, fixed_router, run_grouped
from bench.slicing.extract import extract, parameters_of
from bench.slicing.gate import moments, new_gates
from bench.slicing.supernet import View
from bench.training.gating import route_costs

UNIFORM = [278_085_632, 1_052_311_552, 2_322_677_760, 4_089_184_256]  # METHODS 3.2: 0.278, 1.052, 2.323, 4.089 G
NAMES = [name for name in PRESETS.names() if "resnet" in name]
GATED = [name for name in NAMES if name.startswith("ds_")]
GROUPED = [name for name in GATED if "_bn" not in name and "_det" not in name and "_basic" not in name]
# (a detector's head has norms of its own)


def size_of(name):
    return next((size for size in (8, 32, 64) if name.endswith(f"micro{size}")), 224)


def weightless(name):
    """A preset without values, for what depends on shapes alone."""
    with torch.device("meta"):
        return PRESETS.get(name).build()


def close(a, b, tolerance=1e-5):
    assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_uniform_widths_cost_what_is_published():
    for name in ("ds_resnet50", "us_resnet50"):
        net = weightless(name)
        steps = range(4) if name == "ds_resnet50" else (0, 10, 20, 30)
        assert [net.cost(net.space.uniform(step), 224).madds for step in steps] == UNIFORM
    pairs = weightless("ds_resnet50_pp")
    costs = [cost.madds for cost in pairs.costs(pairs.space.uniform_choices, 224)]
    assert costs[1::2] == UNIFORM, "with its 3x3 kernels the ladder of ResNet-50++ is that of ResNet-50"
    assert costs[::2] == [201_015_296, 744_030_208, 1_629_044_736, 2_856_058_880]


@pytest.mark.parametrize(
    ("name", "madds"),
    [
        ("ds_resnet50", [378_638_336, 1_127_374_848, 2_364_223_488, 4_089_184_256]),
        ("ds_resnet50_bn", [1_031_327_744, 1_663_655_936, 2_682_941_440, 4_089_184_256]),
    ],
)
def test_routes_cost_the_full_stem_and_what_they_choose(name, madds):
    net = weightless(name)
    gates = len(net.space.decisions)
    assert [net.cost(net.space.routed([option] * gates), 224).madds for option in range(4)] == madds
    assert net.space.routed([3] * gates) == net.space.largest, "the widest route is ResNet-50 itself"
    assert net.space.smallest == net.space.routed([0] * gates)


def test_segments_of_resnet50():
    net = weightless("ds_resnet50")
    parts = [cost.madds for cost in net.segment_costs(net.space.largest, 224)]
    assert parts == [118_013_952, 667_942_912, 1_027_604_480, 1_464_336_384, 811_286_528]
    assert [decision.stage for decision in net.space.decisions] == [1, 2, 3, 4]
    assert [len(options.options) for options in net.space.decisions] == [4] * 4
    assert [len(d.options) for d in weightless("ds_resnet50_pp").space.decisions] == [8] * 4


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(("50", "50_bn", "50_pp"))])
def test_full_size_networks_hold_the_parameters_of_resnet50(name):
    """Switchable norms add a scale and a shift for each of 26,560 channels, at a quarter, half and three quarters."""
    switchable = 2 * 26_560 * 3 // 2 if name.startswith("s_") else 0
    assert parameters_of(weightless(name)) == 25_557_032 + switchable


@pytest.mark.parametrize("name", GATED)
def test_options_ascend_in_cost_whatever_arrives(name):
    net = weightless(name)
    first, *later = route_costs(net, full_routing(net), size_of(name))
    assert (first.diff() > 0).all()
    assert all((table.diff(dim=1) > 0).all() and (table.diff(dim=0) >= 0).all() for table in later)


@pytest.mark.parametrize("name", GATED)
def test_a_gate_stands_in_front_of_the_first_block_of_its_stage_and_the_others_follow(name):
    net = weightless(name)
    for decision, segment, behind in zip(net.space.decisions, net.segments, list(net.segments)[1:], strict=False):
        assert isinstance(segment.units[-1], GateInput)
        first, *others = [unit for unit in behind.units if isinstance(unit, Residual)]
        assert first.shortcut is not None
        assert first.conv1.stage == decision.stage == first.shortcut.stage
        covered = {unit.conv1.stage for unit in others}
        end = net.space.depth_after(net.space.decisions.index(decision) + 1)
        assert covered <= set(range(decision.stage, end))


@pytest.mark.parametrize("name", GATED)
def test_what_stands_in_front_of_the_first_gate_is_fixed_at_full_width(name):
    net = weightless(name)
    first = net.space.decisions[0].stage
    assert net.space.fixed == net.space.largest.indices[:first]


@pytest.mark.parametrize("name", GROUPED)
def test_groups_divide_every_width_and_nothing_is_kept_for_a_width(name):
    net = weightless(name)
    assert not net.space.prefix_statistics
    assert list(net.buffers()) == []
    for choice in net.space.named:
        for norm in extract(net, choice).modules():
            if isinstance(norm, nn.GroupNorm):
                assert norm.num_channels == norm.num_groups * (16 if "50" in name else 4)


def test_a_group_that_does_not_divide_a_width_is_one_sentence():
    stages = (BlockStage((4, 10), 1, 1),)
    with pytest.raises(UserError, match="4 channels a group cannot run 10 channels"):
        resnet.build(ResNetConfig((4, 8), 3, 1, False, stages, (0,), 4), 10, 3)
    with pytest.raises(UserError, match="width lists of one length"):
        ResNetConfig((4,), 3, 1, False, stages)


def test_several_gates_with_batch_norm_are_refused():
    stages = (BlockStage((4, 8), 1, 1), BlockStage((4, 8), 1, 1))
    with pytest.raises(UserError, match="batch norm"):
        ResNetConfig((4, 8), 3, 1, False, stages, (0, 1), 0).space()


def test_only_later_blocks_have_an_elastic_kernel():
    net = weightless("ds_resnet50_pp")
    for block in (unit for segment in net.segments for unit in segment.units if isinstance(unit, Residual)):
        assert block.conv2.elastic is (block.shortcut is None)
        assert block.conv2.conv.kernel == 3
        assert (block.conv2.conv.stride == 2) <= (block.shortcut is not None)


def test_a_stage_of_one_block_has_no_kernel_to_choose():
    stages = (BlockStage((4, 8), 1, 1), BlockStage((4, 8), 2, 1))
    space = ResNetConfig((4, 8), 3, 1, False, stages, (0, 1), 4, (1, 3)).space()
    assert [len(decision.options) for decision in space.decisions] == [2, 4]
    with pytest.raises(UserError, match="stage0 has no elastic dimension 'kernel'; it slices filters"):
        space.choose({"stage0": {"kernel": 3}})


def mixed_choices(net):
    """Routed networks whose stages differ in width and kernel."""
    generator = torch.Generator().manual_seed(3)
    picks = [[torch.randint(len(d.options), (1,), generator=generator).item() for d in net.space.decisions]]
    for _ in range(3):
        picks.append([torch.randint(len(d.options), (1,), generator=generator).item() for d in net.space.decisions])
    return [net.space.routed(route) for route in picks]


@pytest.mark.parametrize("name", ["ds_resnet_micro64", "ds_resnet_pp_micro8"])
@torch.no_grad()
def test_mixed_choices_run_alike_in_every_form_and_cost_what_they_claim(name):
    net, size = small_net(name).eval(), size_of(name)
    x = torch.randn(2, net.input_channels, size, size)
    for choice in mixed_choices(net):
        plain = extract(net, choice)
        close(plain(x), net(x, choice))
        claimed = net.cost(choice, size).madds
        assert executed_madds(View(net, choice), x[:1]) == executed_madds(plain, x[:1]) == claimed


def slices_used(net, choice):
    """For each block: (weight, rows, columns, kernel) of its convolutions under a choice, by hand."""
    inp = net.space.width(choice, 0)
    for block in (unit for segment in net.segments for unit in segment.units if isinstance(unit, Residual)):
        inner = net.space.width(choice, block.conv1.stage)
        kernel = net.space.width(choice, block.conv1.stage, "kernel") if block.conv2.elastic else 3
        yield block.conv1.conv.weight, inner, inp, 1
        yield block.conv2.conv.weight, inner, inner, kernel
        yield block.conv3.conv.weight, 4 * inner, inner, 1
        if block.shortcut is not None:
            yield block.shortcut.conv.weight, 4 * inner, inp, 1
        inp = 4 * inner


def test_gradients_fill_the_slice_and_nothing_else():
    net = small_net("ds_resnet_pp_micro8").train()
    x = torch.randn(4, 1, 8, 8)
    for choice in mixed_choices(net):
        net.zero_grad(set_to_none=True)
        net(x, choice).square().sum().backward()
        for weight, rows, columns, kernel in slices_used(net, choice):
            margin = (weight.shape[-1] - kernel) // 2
            inside = weight.grad[:rows, :columns, margin : margin + kernel, margin : margin + kernel]
            assert (inside != 0).any()
            assert (weight.grad != 0).sum() == (inside != 0).sum()


@torch.no_grad()
def test_four_threads_run_four_choices():
    net, x = small_net("ds_resnet_pp_micro8").eval(), torch.randn(4, 1, 8, 8)
    choices = mixed_choices(net)
    expected, found = [net(x, choice) for choice in choices], [[] for _ in choices]

    def work(index):
        with torch.no_grad():
            found[index] = [net(x, choices[index]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(choices))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(y, expected[i]) for i, results in enumerate(found) for y in results)
    assert all(len(results) == 5 for results in found)


@torch.no_grad()
def test_a_gate_sees_the_same_through_views_and_extracted_copies_and_costs_every_image_alike():
    net = small_net("ds_resnet_micro8").eval()
    x = torch.randn(3, 1, 8, 8)
    route = torch.tensor([[0, 3, 1], [3, 0, 2], [2, 2, 2]])
    seen = {}
    for segments in (ViewSegments(net), ExtractedSegments(net)):
        rows = seen[type(segments).__name__] = [torch.zeros(3, 0)] * 3

        def router(index, features, group, rows=rows):
            if rows[index].numel() == 0:
                rows[index] = torch.zeros(3, 2 * features.activation.shape[1])
            rows[index][group] = moments(features.activation)
            return route[group, index]

        run_grouped(segments, net.space, router, x)
    for view, plain in zip(*seen.values(), strict=True):
        assert view.shape[1] > 0
        close(plain, view)
    gates = new_gates(net, full_routing(net), 8)
    widths = [2 * 32, 2 * 4 * 4, 2 * 4 * net.space.stages[2].values("filters")[0]]  # twice what every route computes
    assert [gate.hidden.in_features for gate in gates] == widths
    assert [gate.madds for gate in gates] == [width * 16 + 16 * 4 for width in widths]


def test_a_gate_reads_mean_and_deviation_of_the_leading_channels():
    x = torch.randn(2, 6, 4, 4)
    passed, features = GateInput(4).decide(x, None)
    assert passed is x
    mean, spread = moments(features.activation).unflatten(1, (2, 4)).unbind(1)
    torch.testing.assert_close(mean, x[:, :4].mean((2, 3)))
    torch.testing.assert_close(spread, x[:, :4].flatten(2).std(2, correction=0), rtol=1e-4, atol=1e-4)


class GroupNorm16(nn.GroupNorm):
    """Group norm of sixteen channels a group, as timm builds norms."""

    def __init__(self, channels, **_):
        super().__init__(channels // 16, channels)


@torch.no_grad()
def lived_in(build):
    """A network of the given architecture with all values drawn here: initial ones would hide a wrong map."""
    with torch.device("meta"):
        network = build()
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5, generator=generator) if name.endswith(("weight", "var")) else tensor.zero_()
        elif tensor.dim() > 1:
            tensor.uniform_(-1.0, 1.0, generator=generator).mul_((3.0 / tensor[0].numel()) ** 0.5)
    for name, bias in network.named_parameters():
        if name.endswith("bias"):
            bias.uniform_(-0.5, 0.5, generator=generator)
    return network.eval().requires_grad_(False)


def empty(name, classes=10):
    """A preset without initial values, to be loaded."""
    with torch.device("meta"):
        net = PRESETS.get(name).build(classes=classes)
    return net.to_empty(device="cpu").eval()


@pytest.fixture(scope="module")
def reference():
    return lived_in(lambda: timm.create_model("resnet50", num_classes=10))


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["ds_resnet50_bn", "us_resnet50", "s_resnet50"])
@torch.no_grad()
def test_the_full_network_is_timms(name, reference):
    net = empty(name)
    load_timm(net, reference.state_dict())
    close(net(IMAGES, net.space.largest), reference(IMAGES))
    back = to_timm(net)
    theirs = {k: v for k, v in reference.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.items())


def test_narrow_prefixes_begin_with_the_leading_statistics(reference):
    net = empty("ds_resnet50_bn")
    load_timm(net, reference.state_dict())
    norm = net.segments[1].units[0].conv1.norm
    mean, var = norm.statistics(net.space.uniform(0).key(3))
    assert torch.equal(mean, reference.layer2[0].bn1.running_mean[:32])
    assert torch.equal(var, reference.layer2[0].bn1.running_var[:32])


@torch.no_grad()
def test_with_group_norm_too():
    theirs = lived_in(lambda: TimmResNet(TimmBottleneck, (3, 4, 6, 3), num_classes=10, norm_layer=GroupNorm16))
    net = empty("ds_resnet50_pp")
    load_timm(net, theirs.state_dict(), group=16)
    close(net(IMAGES, net.space.largest), theirs(IMAGES))
    widest = net.space.routed([len(decision.options) - 1 for decision in net.space.decisions])
    close(net(IMAGES, widest), theirs(IMAGES))


def test_the_classifier_may_stay(reference):
    net = empty("ds_resnet50_bn", classes=7)
    classifier = net.segments[-1].units[-1].linear.weight.data.fill_(0.5)
    load_timm(net, reference.state_dict(), head=False)
    assert (classifier == 0.5).all()
    assert torch.equal(net.segments[0].units[0].conv.conv.weight, reference.conv1.weight)


def test_the_key_map_names_every_tensor_once_for_each_kind(reference):
    net = weightless("ds_resnet50")
    assert set(key_map(net)) == set(net.state_dict())
    assert len(set(key_map(net).values())) == len(net.state_dict())


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


def refusals(state):
    bare = {key: value for key, value in state.items() if "running" not in key}
    return [
        ("ds_resnet50", state, None, "has batch norm, and this network group norm of 16 channels a group"),
        ("ds_resnet50", bare, None, "nothing says how many channels its groups have"),
        ("ds_resnet50", bare, 8, "of the checkpoint its groups have 8"),
        ("ds_resnet50_bn", bare, None, "no batch-norm statistics"),
        ("ds_resnet50_bn", without(state, "layer2.0.conv2.weight"), None, "lacks layer2.0.conv2.weight: it is another"),
        ("ds_resnet50_bn", state | {"layer3.6.bn1.bias": state["bn1.bias"]}, None, "also holds layer3.6.bn1.bias"),
        ("ds_resnet50_bn", state | {"fc.weight": torch.zeros(9, 2048)}, None, r"fc.weight has shape \(9, 2048\)"),
    ]


def test_a_checkpoint_that_does_not_fit_is_one_sentence_and_changes_nothing(reference):
    for name, state, group, sentence in refusals(reference.state_dict()):
        with torch.device("meta"):
            net = PRESETS.get(name).build(classes=10)
        with pytest.raises(UserError, match=sentence):
            from_timm(state, net, group=group)


@pytest.mark.parametrize("name", ["ds_resnet_bn_micro8", "us_resnet_micro8"])
def test_batch_norm_presets_keep_statistics_for_their_named_choices(name):
    net = weightless(name)
    space = net.space
    assert space.prefix_statistics
    norm = net.segments[-1].units[-2].conv3.norm
    keys = {key.removeprefix("mean_") for key, _ in norm.named_buffers() if key.startswith("mean_")}
    assert keys == {choice.keys[-1] for choice in space.named}
    if space.decisions:
        routes = [space.routed([option]) for option in range(4)]
        assert list(space.named) == routes
    with pytest.raises(UserError, match="no batch-norm statistics"):
        space.check(Choice((*space.smallest.indices[:-1], space.largest.indices[-1])))


@torch.no_grad()
def test_deciding_costs_a_static_network_nothing():
    """What gates would see is not computed where nobody asks."""
    net = small_net("ds_resnet_micro8").eval()
    x = torch.randn(1, 1, 8, 8)
    asked = []
    for unit in net.modules():
        if isinstance(unit, GateInput):
            unit.decide = lambda *args, unit=unit: asked.append(unit) or type(unit).decide(unit, *args)
    net(x, net.space.largest)
    assert not asked
    run_grouped(ViewSegments(net), net.space, fixed_router(torch.zeros(1, 3, dtype=torch.int64)), x)
    assert len(asked) == 3


# -- basic blocks --------------------------------------------------------------------------------------------------

SIZES = [8, 32, 64]


@pytest.mark.parametrize("size", SIZES)
def test_kinds_of_the_basic_family_share_their_front_and_differ_in_training_alone(size):
    """Stem and front at full width in all sub-networks, about a third of the widest, cut off as a segment."""
    presets = [PRESETS.get(f"{kind}_resnet_basic_micro{size}") for kind in ("ds", "us", "s")]
    nets = [preset.build() for preset in presets]
    for net in nets:
        assert len(net.segments) == 2
        front = {net.segment_costs(choice, size)[0].madds for choice in net.space.named}
        share = front.pop() / net.cost(net.space.largest, size).madds
        assert (front, 0.3 < share < 0.4) == (set(), True)
        costs = [cost.madds for cost in net.costs(net.space.uniform_choices, size)]
        assert max(b / a for a, b in pairwise(costs)) < 2, "a gate routes between neighbours"
    assert len({net.cost(net.space.largest, size) for net in nets}) == 1
    assert len({net.cost(net.space.smallest, size) for net in nets}) == 1
    weights = [{key for key, p in net.named_parameters() if p.dim() > 1} for net in nets]
    assert weights[0] == weights[1] == weights[2]
    assert [bool(net.space.decisions) for net in nets] == [True, False, False]


def test_the_widest_basic_network_is_of_the_size_for_small_machines():
    """25.6 M multiply-adds at 32x32, by hand: 3x3 convolutions and the projections of option B."""

    def block(inp, out, side, stride):
        return side**2 * (9 * out * (inp + out) + (inp * out if stride > 1 else 0))

    parts = [32**2 * 27 * 16, block(16, 16, 32, 1), block(16, 32, 16, 2)]
    parts += [block(32, 64, 8, 2), block(64, 64, 8, 1), block(64, 128, 4, 2), block(128, 128, 4, 1), 128 * 10]
    for name in ("ds_resnet_basic_micro32", "ds_resnet_basic_pp_micro32"):
        net = PRESETS.get(name).build()
        elastic = [stage.name for stage in net.space.stages if "kernel" in dict(stage.dimensions)]
        assert len(elastic) == (2 if name == "ds_resnet_basic_pp_micro32" else 0)
        threes = net.space.choose({stage: {"kernel": 3} for stage in elastic})
        assert net.cost(threes, 32).madds == sum(parts)


def test_a_front_has_single_widths():
    with pytest.raises(UserError, match="its front single widths"):
        ResNetConfig((8, 16), 3, 1, False, (BlockStage((8, 16), 1, 1),) * 2, expansion=1, front=1)


@torch.no_grad()
def test_a_smaller_kernel_of_a_basic_block_is_the_centre_of_the_larger():
    net = small_net("ds_resnet_basic_pp_micro32").eval()
    x, space = torch.randn(2, 3, 32, 32), net.space
    small = space.choose({stage.name: {"kernel": 3} for stage in space.stages[-2:]})
    other = small_net("ds_resnet_basic_pp_micro32").eval()
    for unit in other.units[-5:-1]:
        if unit.conv2.elastic:
            margin = torch.ones(5, 5, dtype=torch.bool)
            margin[1:4, 1:4] = False
            unit.conv2.conv.weight[..., margin] = 0.0
    assert not torch.equal(net(x, small), net(x, space.largest))
    torch.testing.assert_close(other(x, space.largest), net(x, small), rtol=1e-4, atol=1e-4)
