"""Each criterion against a second, obvious way to score channels, on networks small enough to read."""

from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from baselines.pruning import PruningOptions
from baselines.pruning_budget import prune_to_budget
from baselines.pruning_coupling import couplings_of
from baselines.pruning_criteria import CRITERIA, Evidence
from bench.core.errors import UserError
from bench.data.dataset import Batch
from bench.slicing.attention import PlainAttention

IMAGE = torch.zeros(1, 3, 6, 6)


def toy(seed: int = 0) -> nn.Sequential:
    """Two convolutions, the first with batch norm, whose twelve and eight channels can be removed."""
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU())
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    norm = net[1]
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.uniform_(0.5, 1.5)
    return net.eval()


def images(count: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(count, 4, 3, 6, 6, generator=generator)
    return [Batch((x,), torch.tensor([0, 1, 2, 3])) for x in pixels]


def scores(criterion: str, net: nn.Module, seed: int = 0, batches: list[Batch] | None = None) -> dict[str, Tensor]:
    couplings, _ = couplings_of(net, IMAGE)
    found = CRITERIA[criterion].score(Evidence(net, couplings, seed, batches or []))
    return {coupling.name: score for coupling, score in zip(couplings, found, strict=True) if score is not None}


def assert_proportional(found: Tensor, expected: list[float] | Tensor):
    """Scores within a coupling matter up to a factor: magnitudes are scaled to a mean of one."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found / found.mean(), expected / expected.mean(), rtol=1e-5, atol=1e-8)


def filters(net: nn.Sequential, layer: int) -> list[list[float]]:
    return net[layer].weight.detach().double().flatten(1).tolist()


def test_the_options_name_every_criterion():
    assert set(get_args(get_type_hints(PruningOptions)["criterion"])) == set(CRITERIA)


def test_l1_is_the_sum_of_absolute_weights():
    net = toy()
    found = scores("l1", net)
    assert found.keys() == {"0", "3"}  # what the network returns is no coupling
    for layer in (0, 3):
        assert_proportional(found[str(layer)], [sum(abs(w) for w in weights) for weights in filters(net, layer)])


def test_l2_is_the_euclidean_norm():
    net = toy()
    for layer in (0, 3):
        expected = [sum(w * w for w in weights) ** 0.5 for weights in filters(net, layer)]
        assert_proportional(scores("l2", net)[str(layer)], expected)


def test_fpgm_is_the_sum_of_distances_to_the_other_filters():
    net = toy()
    for layer in (0, 3):
        rows = filters(net, layer)
        expected = [sum(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) ** 0.5 for y in rows) for x in rows]
        assert_proportional(scores("fpgm", net)[str(layer)], expected)


@pytest.mark.parametrize("criterion", ["norm_scale", "slimming"])
def test_scales_are_those_of_the_norm_and_what_has_none_is_not_judged(criterion):
    net = toy()
    net[1].weight.data[4] *= -1  # the sign says nothing
    found = scores(criterion, net)
    assert found.keys() == {"0"}
    torch.testing.assert_close(found["0"], net[1].weight.detach().double().abs())


def gated_gradient(net: nn.Sequential, batch: Batch, after: int, channels: int) -> Tensor:
    """Derivative of the loss by a gate on each channel behind layer `after`, at the open gate."""
    gate = torch.ones(channels, requires_grad=True)
    x = net[: after + 1](batch.x) * gate[:, None, None]
    loss = nn.functional.cross_entropy(net[after + 1 :](x), batch.targets)
    return torch.autograd.grad(loss, gate)[0].double()


def test_taylor_is_the_squared_derivative_by_a_gate_on_the_channel():
    net, batches = toy(), images()
    found = scores("taylor", net, batches=batches)
    for name, after, channels in (("0", 1, 12), ("3", 3, 8)):  # behind the norm; behind the bare convolution
        expected = sum(gated_gradient(net, batch, after, channels) ** 2 for batch in batches) / len(batches)
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-12)


def test_taylor_leaves_the_network_alone_and_needs_images():
    net = toy().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    scores("taylor", net, batches=images())
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    with pytest.raises(UserError, match="needs images"):
        scores("taylor", net)


def test_random_depends_on_the_seed_alone():
    net = toy()
    first = scores("random", net, seed=1)
    torch.rand(7)  # whatever was drawn in between
    assert all(torch.equal(score, scores("random", net, seed=1)[name]) for name, score in first.items())
    assert not torch.equal(first["0"], scores("random", net, seed=2)["0"])


def test_several_producers_count_alike():
    """Depth-wise behind point-wise: nine weights a channel against forty, and neither drowns the other."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(32, 2)
    )
    net[0].weight.data.mul_(100)
    wide, narrow = net[0].weight.abs().sum((1, 2, 3)), net[2].weight.abs().sum((1, 2, 3))
    assert_proportional(scores("l1", net)["0"], (wide / wide.mean() + narrow / narrow.mean()).detach())


@pytest.mark.parametrize("criterion", ["l1", "fpgm", "taylor"])
def test_heads_are_scored_whole(criterion):
    """Rows of one head lie together in our layout, (heads, 3, head_dim)."""
    torch.manual_seed(0)
    attention = PlainAttention(nn.Linear(8, 3 * 12), nn.Linear(12, 8), heads=3)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), Transposed(), attention, MeanToken(), nn.Linear(8, 5))
    found = scores(criterion, net, batches=images())
    weights = attention.qkv.weight.detach().double().reshape(3, -1)
    if criterion == "l1":
        assert_proportional(found["3"], weights.abs().sum(1))
    elif criterion == "fpgm":
        assert_proportional(found["3"], [sum((x - y).norm().item() for y in weights) for x in weights])
    else:
        assert found["3"].shape == (3,)


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class MeanToken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_what_scores_least_goes(criterion):
    net = toy()
    expected = scores(criterion, net, batches=images())
    pruned = prune_to_budget(net, IMAGE, 0.5, CRITERIA[criterion], batches=images())
    for name, kept in pruned.kept.items():
        score = expected.get(name)
        if score is None:
            assert kept == tuple(range(len(kept)))
        elif len(kept) < len(score):
            gone = set(range(len(score))) - set(kept)
            assert max(score[list(gone)]) <= min(score[list(kept)])
            weight = net.get_submodule(name).weight[list(kept)]
            assert pruned.network.get_submodule(name).weight.shape[0] == len(kept)
            if name == "0":
                assert torch.equal(pruned.network.get_submodule(name).weight, weight)


def test_a_criterion_refuses_families_that_it_cannot_judge():
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    with pytest.raises(UserError, match="slimming serves families with batch norm, and some_model is not"):
        CRITERIA["slimming"].check(plain, "some_model")
    with pytest.raises(UserError, match="norm_scale serves families with batch, group or layer norm"):
        prune_to_budget(plain, IMAGE, 0.5, CRITERIA["norm_scale"])
