"""Controls on one checkpoint: what routing at random, or not at all, would have given for the same weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from baselines.slice_cascade import CascadePoint, SliceCascade, sliced
from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.methods import Method, Run, method_of
from bench.methods.ds_net import require_gates, trained_gates
from bench.points import OperatingPoint, RoutedPoint, subnetwork_point
from bench.slicing.dynamic import Router
from bench.slicing.parts import Part
from bench.slicing.supernet import Features
from bench.statistics.routing import level_routes


def image_keys(x: Tensor, key: bytes) -> Tensor:
    """(B, C, H, W) to (B,) in [0, 1): a keyed hash of each image's bytes, so a function of the image alone."""
    images = x.detach().cpu().contiguous().numpy()
    digests = [hashlib.blake2b(image.tobytes(), digest_size=6, key=key).digest() for image in images]
    numbers = [int.from_bytes(digest, "big") / 2**48 for digest in digests]
    return torch.tensor(numbers, dtype=torch.float64)


class RandomlyRouted(RoutedPoint):
    """Routes by a keyed hash of the image with exactly the histogram of the gates on the images it will be judged on:
    each whole route, through all gates, is taken as often.

    Args:
        routes: (R, G), the routes to take, and `thresholds` (R - 1,) of the hash between them.
    """

    def __init__(
        self, gated: RoutedPoint, key: bytes, routes: Tensor | None = None, thresholds: Tensor | None = None
    ) -> None:
        super().__init__(gated.name, gated.supernet, [], gated.routing, gated.image_size, self._router_for)
        self.gated, self.key = gated, key
        self.routes, self.thresholds = routes, thresholds

    def on(self, images: Iterable[Tensor]) -> RandomlyRouted:
        """Fit the thresholds: the hashes of these images, split so that each route gets as many as the gates give."""
        keys, decided = [], []
        for x in images:
            keys.append(image_keys(x, self.key))
            decided.append(self.gated(x).route.cpu())
        ordered = torch.cat(keys).sort().values
        routes, counts = torch.cat(decided).unique(dim=0, return_counts=True)
        return RandomlyRouted(self.gated, self.key, routes, ordered[counts.cumsum(0)[:-1]])

    def _router_for(self, x: Tensor) -> Router:
        if self.routes is None or self.thresholds is None:
            raise RuntimeError("a random gate must be fitted with `on(images)` before it routes")
        ranks = torch.bucketize(image_keys(x, self.key), self.thresholds, right=True)
        route_of = self.routes[ranks].to(x.device)

        def route(index: int, features: Features, rows: Tensor) -> Tensor:
            return route_of[rows, index]

        return route


class BlindCascade(CascadePoint):
    """The control of a cascade: the same chain, but which images go on is decided by a keyed hash of their bytes, with
    exactly the cascade's proportions on the images that it is judged on. So it costs the same.

    Args:
        stops: the hashes (E,) below which images stop at each sub-network but the last.
    """

    def __init__(self, cascade: CascadePoint, key: bytes, stops: Tensor | None = None) -> None:
        self.cascade, self.key, self.stops = cascade, key, stops
        super().__init__(cascade.name, cascade.chain, cascade.thresholds, cascade.measure, self._places)

    def on(self, images: Iterable[Tensor]) -> BlindCascade:
        """Fit the hashes: those of these images, split so that each place gets as many as the cascade gives it."""
        keys, places = [], []
        for x in images:
            keys.append(image_keys(x, self.key))
            places.append(self.cascade.places(self.cascade(x).route))
        ordered = torch.cat((torch.cat(keys).sort().values, torch.ones(1, dtype=torch.float64)))
        counts = torch.cat(places).bincount(minlength=len(self.chain.costs))
        return BlindCascade(self.cascade, self.key, ordered[counts.cumsum(0)[:-1]])

    def parts(self) -> list[Part]:
        raise UserError(f"{self.name} is not routed by a network, so it cannot be exported")

    def _places(self, x: Tensor) -> Tensor:
        if self.stops is None:
            raise RuntimeError("a blind cascade must be fitted with `on(images)` before it runs")
        return torch.bucketize(image_keys(x, self.key), self.stops, right=True).to(x.device)


class OnDecisions(Method):
    """What both controls have in common: they work on a run that decides for each image which sub-network it runs."""

    kind = "control"
    paper = "control of this suite"
    needs_parent = True

    def check_start(self, parent: RunSpec) -> None:
        if parent.method != SliceCascade.name:
            require_gates(parent)

    def parent(self, run: Run) -> Run:
        """The run that a control works on. Raises `UserError` for one that decides nothing."""
        assert run.parent is not None  # `completed` refuses a control without a parent
        self.check_start(run.parent.spec)
        return run.parent


class RandomGate(OnDecisions):
    """The same checkpoint, routed by a hash of the image instead of the gate, in the gate's own proportions; or the
    same cascade, in which a hash decides who goes on, instead of how sure it is."""

    name = "random_gate"
    role = "random"

    def points(self, run: Run) -> list[OperatingPoint]:
        parent, key = self.parent(run), f"random_gate/{run.spec.seed}".encode()
        points = method_of(parent.spec.method).points(parent)
        return [
            BlindCascade(point, key) if isinstance(point, CascadePoint) else RandomlyRouted(point, key)  # type: ignore[arg-type]
            for point in points
        ]


class FixedChoice(OnDecisions):
    """The same checkpoint at choices that its gates may take, for every image alike: with several gates, those at which
    all gates stand at the same place of their lists (the last place of a shorter list). Of a cascade, at every
    sub-network that a chain could be made of."""

    name = "fixed_choice"
    role = "fixed"

    def points(self, run: Run) -> list[OperatingPoint]:
        parent, size = self.parent(run), run.data.image_size
        if parent.spec.method == SliceCascade.name:
            net, choices = sliced(parent)
            return [subnetwork_point(net, choice, size, route=(number,)) for number, choice in enumerate(choices)]
        net, gated = trained_gates(parent)
        routes = sorted({route for routing, _ in gated for route in level_routes(routing)})
        return [subnetwork_point(net, net.space.routed(route), size, route=route) for route in routes]
