"""ThinkingViT: nested rounds, the entropy that ends them, recycled tokens; the second round is really skipped."""

from typing import Any

import pytest
import torch
from small_runs import CPU, digits, small_net, small_spec, trained_points

from baselines.one_decision import OneDecisionPoint, confidences, threshold_for
from baselines.thinking_rounds import RoundWidth, entropy
from baselines.thinking_vit import ThinkingViTOptions, rounds_of
from bench.core.errors import UserError
from bench.evaluation.proof import Unproven, prove
from bench.methods import method_of
from bench.models import PRESETS
from bench.models.vit.space import ViTConfig
from bench.models.vit.units import build
from bench.profilers.madds import executed_by
from bench.runs.estimate import FirstImages
from bench.slicing.extract import extract, parameters_of

MODEL = "ds_vit_micro8"
HALF = (2, 64, 32)


def rounds(alpha=0.7):
    torch.manual_seed(0)
    network = rounds_of(small_net(MODEL), ThinkingViTOptions()).eval()
    with torch.no_grad():
        network.nested.alpha.fill_(alpha)
    return network


def first_images(count=40):
    return next(digits().validation.batches(count)).x


def point_at(network, threshold):
    forms = {"view": network, "extracted": network.extract().eval()}
    return OneDecisionPoint("point", forms, threshold, network.costs(), (1, 2))


def half_way(network):
    """A point at which half of the validation images stop."""
    first, both = network.costs()
    known = confidences(network, digits().validation, CPU)
    return point_at(network, threshold_for(known, network.costs(), (first + both) / 2))


@pytest.mark.parametrize("classes", [4, 10, 1000])
def test_entropy_is_that_of_the_ten_largest_probabilities(classes):
    torch.manual_seed(0)
    logits = 3 * torch.randn(6, classes)
    likely = logits.softmax(1).topk(min(classes, 10)).values
    reference = torch.distributions.Categorical(probs=likely).entropy()  # scales them to sum to one
    assert torch.allclose(entropy(logits), reference, atol=1e-6)


def test_entropy_at_its_ends():
    sure, torn = torch.tensor([[500.0] + [0.0] * 9]), torch.zeros(1, 10)
    assert entropy(sure).item() == 0.0
    assert entropy(torn).item() == pytest.approx(torch.tensor(10.0).log().item())


def test_the_first_round_is_half_of_everything():
    assert rounds().first == HALF
    assert rounds().second == RoundWidth(4, 128, 64)
    narrow = build(ViTConfig(8, 2, 16, (HALF,), (1, 1, 1, 1)), 10, 1)
    assert parameters_of(rounds().extract().first) == parameters_of(narrow)
    assert rounds().costs()[0] == narrow.cost(narrow.space.largest, 8).madds


def test_the_rounds_of_deit_s():
    """METHODS 13: three heads of DeiT-S are DeiT-Ti; the projection that their constants leave out is 14.5 M."""
    with torch.device("meta"):
        network = rounds_of(PRESETS.get("ds_vit_s").build(), ThinkingViTOptions())
    assert network.first == RoundWidth(3, 768, 192)
    assert network.costs() == (1_253_683_200, 1_253_683_200 + 4_598_882_304 + 197 * 192 * 384)


@torch.no_grad()
def test_view_and_extracted_agree_in_both_rounds():
    network, x = rounds(), first_images()
    plain = network.extract()
    for option in (0, 1):
        expected = network(x, option)
        assert (plain(x, option) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_first_round_uses_the_leading_part_of_the_weights():
    network = rounds()
    network.outputs(first_images())[0].square().sum().backward()
    block: Any = network.nested.blocks[0]
    gradient = block.attention.qkv.weight.grad
    assert gradient is not None
    assert gradient[: 2 * 3 * 16, :32].abs().min() > 0
    assert gradient[2 * 3 * 16 :].abs().max() == 0 == gradient[:, 32:].abs().max()
    assert block.fc1.weight.grad[64:].abs().max() == 0
    position = network.nested.embedding.position.grad
    assert position is not None
    assert position[..., 32:].abs().max() == 0 < position[..., :32].abs().max()
    assert network.nested.recycle.weight.grad is None


@torch.no_grad()
def test_before_training_the_second_round_is_the_plain_network():
    """alpha starts at 0, so nothing is recycled yet."""
    supernet = small_net(MODEL).eval()
    network, x = rounds_of(supernet, ThinkingViTOptions()).eval(), first_images()
    assert network.nested.alpha.item() == 0
    expected = extract(supernet, supernet.space.largest)(x)
    assert (network(x, 1) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_alpha_can_leave_zero_and_what_is_recycled_teaches_the_first_round():
    network = rounds(alpha=0.0)
    network.outputs(first_images())[1].square().sum().backward()
    assert network.nested.alpha.grad.abs().item() > 0  # type: ignore[union-attr]
    network, x = rounds(alpha=1.0), first_images()
    block: Any = network.nested.blocks[0]
    weight = block.attention.qkv.weight
    (through,) = torch.autograd.grad(network.outputs(x)[1].sum(), weight)
    _, tokens = network.nested.run(x, network.first)
    (beside,) = torch.autograd.grad(network.nested.run(x, network.second, tokens.detach())[0].sum(), weight)
    differs = (through - beside).abs() > 1e-3 * beside.abs().max()
    assert differs[: 2 * 3 * 16, :32].any()
    assert not differs[2 * 3 * 16 :].any()


def test_the_second_round_is_skipped_for_images_that_are_done():
    """Trap: early exit simulated. All done: the first round alone; none: both; some: both for them only."""
    network, x = rounds(), first_images()
    first, both = network.costs()
    for form in ("view", "extracted"):
        for threshold, expected in ((-torch.inf, len(x) * first), (torch.inf, len(x) * both)):
            module = point_at(network, threshold).executables()[form]
            assert executed_by(lambda module=module: module(x)) == expected
    point = half_way(network)
    route = point(x).route
    stopped = int((route == 0).sum())
    assert 0 < stopped < len(x)
    executed = executed_by(lambda: point(x))
    assert executed == stopped * first + (len(x) - stopped) * both < len(x) * both


def test_a_claim_without_the_recycling_projection_is_refused():
    network = rounds()
    point = half_way(network)
    prove(point, FirstImages(digits().validation, 12), CPU)
    point.costs = point.costs - torch.tensor([0, 17 * 32 * 64])
    with pytest.raises(Unproven, match="claims"):
        prove(point, FirstImages(digits().validation, 12), CPU)


@torch.no_grad()
def test_grouped_and_one_by_one_agree():
    point, x = half_way(rounds()), first_images()
    output, route = point(x)
    alone = [point(x[row : row + 1]) for row in range(len(x))]
    assert torch.equal(route, torch.cat([each.route for each in alone]))
    assert (output - torch.cat([each.output for each in alone])).abs().max() <= 1e-5 * output.abs().max()


@torch.no_grad()
def test_routes_are_no_matter_of_luck():
    """Trap: noise at evaluation."""
    point, x = half_way(rounds()), first_images()
    torch.manual_seed(1)
    first = point(x)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, point(x), strict=True))


def test_a_threshold_is_an_entropy_below_which_an_image_is_done(tmp_path):
    spec = small_spec("thinking_vit", options={"budgets": [], "thresholds": [0, 1.9, 9]})
    points = trained_points(spec, tmp_path)
    assert [point.name for point in points] == ["entropy0", "entropy1.9", "entropy9"]
    x = first_images()
    with torch.no_grad():
        early = points[0].forms["view"](x, 0)  # type: ignore[attr-defined]
    for point, threshold in zip(points, (0, 1.9, 9), strict=True):
        assert torch.equal(point(x).route[:, 0] == 0, entropy(early) < threshold)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budgets": ()}, "at least one budget or threshold"),
        ({"thresholds": (-0.1,)}, "thresholds of thinking_vit must be at least 0, not -0.1"),
        ({"thresholds": (1, 1.0)}, "names each once"),
        ({"first_weight": 1.5}, "first_weight of thinking_vit must be at most 1"),
    ],
)
def test_impossible_settings_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        small_spec("thinking_vit", options=options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"heads": 4}, "1 to 3 of the 4 heads, not 4"), ({"budgets": [0.2]}, "as little as budget 0.2")],
)
def test_what_the_network_cannot_do_is_refused_before_any_work(options, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("thinking_vit").check(small_spec("thinking_vit", options=options), PRESETS.get(MODEL).build(), 8)
