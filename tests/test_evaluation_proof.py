"""The executed proof lets honest points pass and refuses every way of claiming a saving that did not happen."""

import pytest
import torch
import torch.nn.functional as F
from small_runs import (
    CPU,
    changed,
    digits,
    full_routing,
    routed_point,
    small_net,
    spread_gates,
    state_of,
)
from torch import nn

from bench.core.errors import UserError
from bench.evaluation import proof
from bench.evaluation.proof import Unproven, prove
from bench.points import OperatingPoint, Prediction, RoutedPoint, StaticPoint, subnetwork_point
from bench.runs.estimate import FirstImages
from bench.slicing.dynamic import gate_router, run_masked
from bench.slicing.supernet import View

IMAGES = 16


@pytest.fixture(scope="module")
def split():
    return FirstImages(digits().validation, IMAGES)


@pytest.fixture(scope="module")
def honest():
    return routed_point()


def as_is(honest, kind=RoutedPoint):
    """The same point, of another kind."""
    return kind("d", honest.supernet, list(honest.gates), honest.routing, 8)


def test_an_honest_dynamic_point_passes(honest, split):
    proven = prove(honest, split, CPU)
    assert (proven["batches"], proven["groups"], proven["images"], proven["alone"]) == (1, 4, IMAGES, IMAGES)
    assert proven["rerouted"] == 0
    assert proven["forms"] == ["extracted", "view"]
    claims = honest.madds(torch.arange(4)[:, None]).tolist()
    assert proven["networks"] == {str(option): claim for option, claim in enumerate(claims)}
    assert all("@" in version for version in proven["counters"].values())


def test_several_gates_pass_with_every_route_that_was_taken(split):
    point = routed_point("ds_vit_micro8")
    proven = prove(point, FirstImages(digits().validation, 6), CPU)
    with torch.no_grad():
        routes = {tuple(route) for route in point(split.batch.x[:6]).route.tolist()}
    assert proven["networks"].keys() == {"-".join(map(str, route)) for route in routes}
    assert proven["groups"] == len(routes) > 1


def test_images_run_alone_are_a_sample(honest, split, monkeypatch):
    assert proof.ALONE == 64
    monkeypatch.setattr(proof, "ALONE", 5)
    proven = prove(honest, split, CPU)
    assert (proven["images"], proven["alone"]) == (IMAGES, 5)


def test_an_honest_static_point_passes(split):
    net = small_net().eval()
    point = subnetwork_point(net, net.space.uniform(1), 8)
    proven = prove(point, split, CPU)
    assert proven["forms"] == ["extracted", "view"]
    assert proven["networks"] == {"static": net.cost(net.space.uniform(1), 8).madds}
    assert point.madds(torch.empty(3, 0)).tolist() == [proven["networks"]["static"]] * 3


def test_with_more_routes_than_are_counted_every_image_is_still_executed(split, monkeypatch):
    monkeypatch.setattr(proof, "GROUPS", 2)
    monkeypatch.setattr(proof, "GRAPHS", 3)
    point = routed_point("ds_vit_micro8")
    with torch.no_grad():
        routes = {tuple(route) for route in point(split.batch.x).route.tolist()}
    assert len(routes) > 3
    proven = prove(point, split, CPU)
    assert (proven["groups"], proven["images"], proven["alone"]) == (3, IMAGES, IMAGES)
    assert len(proven["networks"]) == 3
    assert proven["uncounted_routes"] == len(routes) - 3


class InTwo:
    """A split in two batches."""

    def __init__(self, batch):
        self.batch = batch

    def batches(self, batch_size, device="cpu"):
        half = len(self.batch.x) // 2
        for rows in (slice(0, half), slice(half, None)):
            yield self.batch._replace(views=(self.batch.x[rows],), targets=self.batch.targets[rows])


@pytest.mark.parametrize("most", [32, 4])
def test_routes_that_only_later_batches_take_are_counted_or_told(split, monkeypatch, most):
    monkeypatch.setattr(proof, "GRAPHS", most)
    point = routed_point("ds_vit_micro8")
    with torch.no_grad():
        route = [tuple(row) for row in point(split.batch.x).route.tolist()]
    first, taken = set(route[: IMAGES // 2]), set(route)
    assert len(first) < len(taken)
    assert len(taken) > 4
    proven = prove(point, InTwo(split.batch), CPU)
    assert len(proven["networks"]) == min(most, len(taken))
    assert proven.get("uncounted_routes", 0) == max(len(taken) - most, 0)
    if most == 32:
        assert proven["networks"].keys() == {"-".join(map(str, row)) for row in taken}


class CheatsOnTheLast(RoutedPoint):
    """Claims one multiply-add less, for one route that is neither run by itself nor counted."""

    def madds(self, route):
        last = max(map(tuple, self.told))
        return super().madds(route) - torch.tensor([int(tuple(row) == last) for row in route.tolist()])


def test_a_claim_among_all_other_routes_is_checked_too(split, monkeypatch):
    monkeypatch.setattr(proof, "ALONE", 0)
    monkeypatch.setattr(proof, "GROUPS", 2)
    monkeypatch.setattr(proof, "_prove_graphs", lambda *_: {})
    monkeypatch.setattr(RoutedPoint, "executables", lambda self: {})
    honest = routed_point("ds_vit_micro8")
    point = as_is(honest, CheatsOnTheLast)
    with torch.no_grad():
        point.told = honest(split.batch.x).route.tolist()
    prove(as_is(honest), split, CPU)
    with pytest.raises(Unproven, match="all other routes"):
        prove(point, split, CPU)


def test_the_proof_leaves_the_point_as_it_was(honest, split):
    before, x = state_of(honest.supernet), split.batch.x
    with torch.no_grad():
        output = honest(x).output
        prove(honest, split, CPU)
        assert torch.equal(honest(x).output, output)
    assert not changed(before, honest.supernet)
    modules = [*honest.supernet.modules(), *honest.gates.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)


@pytest.mark.parametrize("off", [-1, 1])
def test_a_static_claim_that_is_off_by_one_is_refused(split, off):
    net = small_net().eval()
    honest = subnetwork_point(net, net.space.smallest, 8)
    liar = StaticPoint("liar", honest.network, honest.claimed + off)
    with pytest.raises(Unproven, match=r"point liar, route \(\): claims .*, fvcore counts") as caught:
        prove(liar, split, CPU)
    assert isinstance(caught.value, UserError)


def test_a_form_that_runs_another_network_is_refused(split):
    net = small_net().eval()
    point = subnetwork_point(net, net.space.smallest, 8)
    point.forms["view"] = View(net, net.space.largest)
    with pytest.raises(Unproven, match=r"for 2 images \(form view\), but executes"):
        prove(point, split, CPU)


class OneLess(RoutedPoint):
    """Claims one multiply-add less, on one route only."""

    def madds(self, route):
        return super().madds(route) - (route[:, 0] == 2).long()


class WithoutGates(RoutedPoint):
    """Forgets what its gates cost."""

    def madds(self, route):
        return super().madds(route) - sum(gate.madds for gate in self.gates)


class WrongGates(RoutedPoint):
    """Tells everyone who asks that its gates cost a little less, or more, than they do."""

    off = 0

    def overhead(self):
        return super().overhead() + self.off


@pytest.mark.parametrize("kind", [OneLess, WithoutGates])
def test_a_dynamic_claim_that_is_too_low_is_refused(honest, split, kind):
    with pytest.raises(Unproven, match=r"point d, route .* fvcore counts"):
        prove(as_is(honest, kind), split, CPU)


@pytest.mark.parametrize("off", [-1, 1])
def test_what_plain_networks_do_not_show_the_execution_does(honest, split, off):
    point = as_is(honest, WrongGates)
    point.off = off
    with pytest.raises(Unproven, match="but executes"):
        prove(point, split, CPU)


class Masked(RoutedPoint):
    """Computes every channel, zeroes what was not chosen, and claims the slice."""

    def __call__(self, x):
        return run_masked(self.supernet, gate_router(list(self.gates), self.routing), x)


class MaskedForms(Masked):
    """Predicts and is timed masked."""

    def executables(self):
        return {"view": Only(self)}


class Only(nn.Module):
    def __init__(self, point):
        super().__init__()
        self.point = point

    def forward(self, x):
        return self.point(x).output


@pytest.mark.parametrize("kind", [Masked, MaskedForms])
def test_a_mask_is_no_saving(honest, split, kind):
    with pytest.raises(Unproven, match="but executes"):
        prove(as_is(honest, kind), split, CPU)


def certainty(output):
    return output.softmax(1).max(1).values


def median(values):
    middle = len(values) // 2
    return values.sort().values[middle - 1 : middle + 1].mean()  # between two images, so neither is undecided


class EarlyExit(OperatingPoint):
    """Two stages; an image of which the first is certain leaves there.

    Args:
        skips: whether images that left are really kept out of the second stage.
    """

    name, kind = "exits", "dynamic"

    @torch.no_grad()
    def __init__(self, skips, images):
        torch.manual_seed(0)
        self.skips = skips
        self.stem, self.body = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.heads = nn.ModuleList([nn.Linear(4, 10), nn.Linear(8, 10)])
        self.level = median(certainty(self.heads[0](self.stem(images).relu().mean((2, 3)))))

    def __call__(self, x):
        y = self.stem(x).relu()
        early = self.heads[0](y.mean((2, 3)))
        certain = certainty(early)
        stays = certain < self.threshold(certain)
        output = early.clone()
        if self.skips:
            output[stays] = self.rest(y[stays]) if stays.any() else early[stays]
        else:
            output = torch.where(stays[:, None], self.rest(y), early)
        return Prediction(output, stays.long()[:, None])

    def threshold(self, certain):
        return self.level

    def rest(self, y):
        return self.heads[1](self.body(y).relu().mean((2, 3)))

    def madds(self, route):
        first, second = 9 * 4 * 64 + 40, 4 * 9 * 8 * 64 + 80
        return first + route[:, 0] * second

    def executables(self):
        return {"view": Only(self)}

    def subnetworks(self, routes):
        both = [nn.Sequential(self.stem, nn.ReLU(), Pooled(self.heads[0]))]
        both.append(TwoHeads(both[0], nn.Sequential(self.stem, nn.ReLU(), self.body, nn.ReLU(), Pooled(self.heads[1]))))
        return {route: both[route[0]] for route in routes}


class Pooled(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, x):
        return self.head(x.mean((2, 3)))


class TwoHeads(nn.Module):
    """The network of an image that stays: the stem once, both heads."""

    def __init__(self, first, whole):
        super().__init__()
        self.first, self.whole = first, whole

    def forward(self, x):
        y = F.relu(self.whole[0](x))
        return self.first[2](y) + self.whole[2:](y)


def test_an_early_exit_that_skips_passes(split):
    proven = prove(EarlyExit(True, split.batch.x), split, CPU)
    assert proven["networks"].keys() == {"0", "1"}, "some leave early, some stay"


def test_an_early_exit_that_computes_everything_is_refused(split):
    with pytest.raises(Unproven, match="but executes"):
        prove(EarlyExit(False, split.batch.x), split, CPU)


class Median(EarlyExit):
    """Lets the more certain half of every batch leave early: what an image costs depends on its company."""

    def threshold(self, certain):
        return median(certain)


def test_a_route_that_depends_on_the_batch_is_refused(split):
    with pytest.raises(Unproven, match="images otherwise when they come in another batch"):
        prove(Median(True, split.batch.x), split, CPU)


def test_an_untrained_gate_is_undecided_and_still_steady(split):
    """All logits are zero: the first option wins every tie, in any batch."""
    net = small_net().eval()
    gates = spread_gates(net, full_routing(net))
    nn.init.zeros_(gates[0].head.weight)
    proven = prove(RoutedPoint("d", net, gates, full_routing(net), 8), split, CPU)
    assert (proven["groups"], proven["rerouted"]) == (1, 0)
