"""Controls on a DS-Net checkpoint: what routing at random, or not at all, would have given for the same weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from bench.core.spec import RunSpec
from bench.methods import Method, Run
from bench.methods.ds_net import point_name, require_gates, trained_gates
from bench.points import OperatingPoint, RoutedPoint, subnetwork_point
from bench.slicing.dynamic import Router
from bench.slicing.gate import Gate, Routing
from bench.slicing.supernet import Features, Supernet
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
        keys, taken = [], []
        for x in images:
            keys.append(image_keys(x, self.key))
            taken.append(self.gated(x).route.cpu())
        ordered = torch.cat(keys).sort().values
        routes, counts = torch.cat(taken).unique(dim=0, return_counts=True)
        return RandomlyRouted(self.gated, self.key, routes, ordered[counts.cumsum(0)[:-1]])

    def _router_for(self, x: Tensor) -> Router:
        if self.routes is None or self.thresholds is None:
            raise RuntimeError("a random gate must be fitted with `on(images)` before it routes")
        ranks = torch.bucketize(image_keys(x, self.key), self.thresholds, right=True)
        route_of = self.routes[ranks].to(x.device)

        def route(index: int, features: Features, rows: Tensor) -> Tensor:
            return route_of[rows, index]

        return route


class OnGates(Method):
    """What both controls have in common: they work on the checkpoint of a run that leaves gates."""

    kind = "control"
    paper = "control of this suite"
    trains = ("dynamic slimmable", "dynamic weight slicing")
    needs_parent = True

    def check_start(self, parent: RunSpec) -> None:
        require_gates(parent)


class RandomGate(OnGates):
    """The same checkpoint, routed by a hash of the image instead of the gate, in the gate's own proportions."""

    name = "random_gate"
    role = "random"

    def points(self, run: Run) -> list[OperatingPoint]:
        net, gated = gates_of_parent(run)
        key = f"random_gate/{run.spec.seed}".encode()
        points = [RoutedPoint(point_name(r), net, gates, r, run.data.image_size) for r, gates in gated]
        return [RandomlyRouted(point, key) for point in points]


class FixedChoice(OnGates):
    """The same checkpoint at choices that its gates may take, for every image alike: with several gates, those at which
    all gates stand at the same place of their lists (the last place of a shorter list)."""

    name = "fixed_choice"
    role = "fixed"

    def points(self, run: Run) -> list[OperatingPoint]:
        net, gated = gates_of_parent(run)
        routes = sorted({route for routing, _ in gated for route in level_routes(routing)})
        return [subnetwork_point(net, net.space.routed(route), run.data.image_size, route=route) for route in routes]


def gates_of_parent(run: Run) -> tuple[Supernet, list[tuple[Routing, list[Gate]]]]:
    """Supernet and gates of the run that a control works on."""
    assert run.parent is not None  # `completed` refuses a control without a parent
    return trained_gates(run.parent)
