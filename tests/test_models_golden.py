"""Networks with their authors' weights compute what the authors' code computes: its recorded logits, by weights from a
formula. Official logits are those of a run in float64, compared relative to the largest."""

import pytest
import torch
from golden_networks import draw, fixture, images, state_of
from torch import Tensor

from baselines.thinking_rounds import entropy
from baselines.thinking_vit import ThinkingViT, ThinkingViTOptions, rounds_of
from bench.core.errors import UserError
from bench.models import PRESETS
from bench.models.official import format_of, from_official, imagenet_rows
from bench.models.transfer import from_timm
from bench.slicing.choice import Choice
from bench.slicing.dynamic import ViewSegments, gate_router, run_grouped
from bench.slicing.gate import Gate
from bench.slicing.supernet import Supernet

FIXTURES = {  # format: fixture, preset
    "ds_mbnet": ("dsnet_slimmable_mbnet_v1_bn_uniform", "ds_mobilenet_v1"),
    "us_mobilenet_v1": ("us_mobilenet_v1", "us_mobilenet_v1"),
    "s_mobilenet_v1": ("s_mobilenet_v1", "s_mobilenet_v1"),
    "s_resnet50": ("s_resnet50", "s_resnet50"),
    "hydravit": ("hydravit_deit_b", "nested_vit_b"),
    "thinking_vit": ("thinkingvit_deit_3h_6h", "ds_vit_s"),
}
TOLERANCES = [(torch.float32, 1e-5), (torch.float64, 1e-8)]


@pytest.fixture(scope="module")
def imagenet():
    from timm.data.imagenet_info import ImageNetInfo

    return tuple(ImageNetInfo().label_names())


def loaded(name: str, classes: tuple[str, ...], **more: Tensor) -> tuple[Supernet, dict, dict]:
    """Our network with all tensors of the official one, the fixture, and what stands beside the network."""
    file, model = FIXTURES[name]
    golden, preset = fixture(file), PRESETS.get(model)
    net, state = preset.build().eval(), {**state_of(golden), **more}
    start = from_official(name, state, net, preset, classes)
    assert start.stayed == start.unused == (), "every tensor has a place"
    net.load_state_dict(start.state)
    return net, golden, dict(start.beside)


def assert_logits(logits: Tensor, entry: dict, tolerance: float, what: object) -> None:
    """Relative to the entry's largest logit, where it has only some of them to ours."""
    expected = torch.tensor(entry.get("logits", entry.get("first_logits")), dtype=logits.dtype)
    largest = entry.get("max_abs", logits.abs().max())
    assert (logits[:, : expected.shape[1]] - expected).abs().max() <= tolerance * largest, what


def choice_of(net: Supernet, entry: dict) -> Choice:
    """The sub-network of an entry: a width's place in its list, HydraViT's heads, or DS-MBNet's choice."""
    if "heads" in entry:
        return net.space.uniform(entry["heads"] - 3)
    step = entry.get("statistics_index", entry.get("choice", 0))
    if "width" in entry and "statistics_index" not in entry:
        step = [0.25, 0.5, 0.75, 1.0].index(entry["width"])
    return net.space.largest if step == "largest" else net.space.uniform(step)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("name", ["ds_mbnet", "us_mobilenet_v1", "s_mobilenet_v1", "s_resnet50"])
@torch.no_grad()
def test_every_recorded_choice_gives_the_logits_of_the_official_code(name, dtype, tolerance, imagenet):
    """All choices in float32; in float64, which is slow, those whose logits are recorded in full."""
    net, golden, _ = loaded(name, imagenet)
    net, x = net.to(dtype), images().to(dtype)
    entries = [entry for entry in golden["outputs"] if entry.get("mode") != "dynamic"]
    whole = [entry for entry in entries if "logits" in entry]
    assert len(whole) >= 4
    for entry in entries if dtype is torch.float32 else whole:
        assert_logits(net(x, choice_of(net, entry)), entry, tolerance, entry)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@torch.no_grad()
def test_hydravit_at_every_recorded_number_of_heads(dtype, tolerance, imagenet):
    net, golden, _ = loaded("hydravit", imagenet)
    net, x = net.to(dtype), images().to(dtype)
    assert [entry["heads"] for entry in golden["outputs"]] == [3, 6, 9, 12]
    for entry in golden["outputs"]:
        assert_logits(net(x, choice_of(net, entry)), entry, tolerance, entry["heads"])


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@torch.no_grad()
def test_ds_mbnet_routes_and_answers_as_the_official_code_with_its_gates(dtype, tolerance, imagenet):
    entries = [entry for entry in fixture(FIXTURES["ds_mbnet"][0])["outputs"] if entry["mode"] == "dynamic"]
    assert [entry["routes"] for entry in entries] == [[1, 1], [2, 1], [0, 3]]
    for entry in entries:
        weight = torch.from_numpy(draw(entry["gate_weight_name"], [4, 66, 1, 1]))
        net, _, beside = loaded("ds_mbnet", imagenet, **{"blocks.3.first_block.gate.gate.0.weight": weight})
        gate = Gate(66, 4)
        gate.head.weight.data.copy_(beside["blocks.3.first_block.gate.gate.0.weight"])
        net, gate, x = net.to(dtype), gate.to(dtype), images().to(dtype)
        features = net.segments[0](x, Choice(net.space.fixed))[1]
        scores, expected = gate(features), torch.tensor(entry["gate_logits"], dtype=dtype)
        assert (scores - expected).abs().max() <= tolerance * expected.abs().max()
        found = run_grouped(ViewSegments(net), net.space, gate_router([gate], [range(4)]), x)
        assert found.route[:, 0].tolist() == entry["routes"]
        assert_logits(found.output, entry, tolerance, entry["gate_weight_name"])


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@torch.no_grad()
def test_thinking_vit_thinks_twice_as_the_official_code_does(dtype, tolerance, imagenet):
    net, golden, beside = loaded("thinking_vit", imagenet)
    rounds = rounds_of(net, ThinkingViTOptions()).eval()
    rounds.nested.load_state_dict({ThinkingViT.beside[key]: value for key, value in beside.items()}, strict=False)
    rounds, x = rounds.to(dtype), images().to(dtype)
    first, second, plain, by_entropy = golden["outputs"]
    early, late = rounds.outputs(x)
    assert_logits(early, first, tolerance, "round 1")
    assert_logits(late, second, tolerance, "round 2")
    expected = torch.tensor(first["entropy_of_top10"], dtype=dtype)
    assert (entropy(early) - expected).abs().max() <= max(tolerance, 1e-8) * 10
    assert (entropy(early) >= by_entropy["threshold"]).int().tolist() == by_entropy["takes_round_2"]
    exact = golden["macs"]["exact_multiply_adds"]
    assert rounds.costs() == (exact["round 1, sliced embedding"], exact["both"])
    rounds.nested.alpha.zero_()
    assert_logits(rounds.outputs(x)[1], plain, tolerance, "round 2 without the first")


@torch.no_grad()
def test_scala_is_refused_and_read_as_timms_its_full_network_would_be_slightly_wrong():
    """Names and shapes are those of timm's DeiT-S: only the epsilon of its norms tells the full network apart."""
    with pytest.raises(UserError, match=r"cuts the rows of query, key and value as one block.*eps 1e-5"):
        format_of("scala")
    preset, golden = PRESETS.get("nested_vit_s"), fixture("scala_deit_s")
    net = preset.build().eval()
    net.load_state_dict(from_timm(state_of(golden), net, preset.family).state)
    (entry,) = [entry for entry in golden["outputs"] if entry["ratio"] == 1.0]
    logits, expected = net.double()(images().double(), net.space.largest), torch.tensor(entry["logits"]).double()
    assert (logits - expected).abs().max() / entry["max_abs"] == pytest.approx(7.3e-6, rel=0.05)


@pytest.fixture(scope="module")
def s_mobilenet():
    return state_of(fixture("s_mobilenet_v1"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("features.1.body.0.weight"), "the checkpoint lacks features.1.body.0.weight: it is another"),
        (lambda s: s.update(extra=torch.zeros(1)), "the checkpoint also holds extra: it is another architecture"),
        (lambda s: s.update({"classifier.0.bias": torch.zeros(10)}), r"classifier.0.bias has shape \(10,\), this"),
        (lambda s: s.pop("classifier.0.bias"), "the checkpoint lacks classifier.0.bias"),
    ],
)
def test_a_tensor_that_is_missing_or_too_much_or_misshapen_is_named(s_mobilenet, imagenet, change, says):
    state, preset = dict(s_mobilenet), PRESETS.get("s_mobilenet_v1")
    change(state)
    with pytest.raises(UserError, match=says) as error:
        from_official("s_mobilenet_v1", state, preset.build(), preset, imagenet)
    assert "\n" not in str(error.value)


def test_formats_go_by_the_name_that_a_user_gives(s_mobilenet, imagenet):
    preset = PRESETS.get("us_mobilenet_v1")
    with pytest.raises(UserError, match="s_mobilenet_v1 are weights of s_mobilenet_v1, not of us_mobilenet_v1"):
        from_official("s_mobilenet_v1", s_mobilenet, preset.build(), preset, imagenet)
    with pytest.raises(UserError, match="did you mean 'hydravit'"):
        format_of("hydravt")


def test_classes_of_imagenet_take_their_rows_of_the_classifier(s_mobilenet, imagenet):
    preset, classes = PRESETS.get("s_mobilenet_v1"), (imagenet[7], imagenet[3])
    start = from_official("s_mobilenet_v1", s_mobilenet, preset.build(classes=2), preset, classes)
    (bias,) = [value for key, value in start.state.items() if key.endswith("linear.bias")]
    assert torch.equal(bias, s_mobilenet["classifier.0.bias"][[7, 3]])
    assert imagenet_rows(("cat", "dog")) is None
    net = preset.build(classes=2)
    others = from_official("s_mobilenet_v1", s_mobilenet, net, preset, ("cat", "dog"))
    assert sorted(key.rpartition(".")[2] for key in others.stayed) == ["bias", "weight"]
    assert others.unused == ("classifier.0.weight", "classifier.0.bias")
    net.load_state_dict(others.state)
