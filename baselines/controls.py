"""Controls on a DS-Net checkpoint: what routing at random, or not at all, would have given for the same weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from bench.core.spec import RunSpec
from bench.data.dataset import Dataset
from bench.dynamic_slimmable import load_trained, point_name
from bench.methods import Method
from bench.points import OperatingPoint, RoutedPoint, subnetwork_point
from bench.slicing.dynamic import Router
from bench.slicing.gate import Gate
from bench.slicing.supernet import Features, Supernet
from bench.training.context import Context


def image_keys(x: Tensor, key: bytes) -> Tensor:
    """(B, C, H, W) to (B,) in [0, 1): a keyed hash of each image's bytes, so a function of the image alone."""
    images = x.detach().cpu().contiguous().numpy()
    digests = [hashlib.blake2b(image.tobytes(), digest_size=6, key=key).digest() for image in images]
    numbers = [int.from_bytes(digest, "big") / 2**48 for digest in digests]
    return torch.tensor(numbers, dtype=torch.float64)


class RandomlyRouted(RoutedPoint):
    """Routes by a keyed hash of the image with exactly the histogram of a gate on the images it will be judged on."""

    def __init__(self, gated: RoutedPoint, key: bytes, thresholds: Tensor | None = None) -> None:
        super().__init__(gated.name, gated.supernet, [], gated.routing, gated.image_size, self._router_for)
        self.gated, self.key = gated, key
        self.thresholds = thresholds

    def on(self, images: Iterable[Tensor]) -> RandomlyRouted:
        """Fit the thresholds: the hashes of these images, split so that each option gets as many as the gate gives."""
        keys, taken = [], []
        for x in images:
            keys.append(image_keys(x, self.key))
            taken.append(self.gated(x).route[:, 0].cpu())
        ordered, routes = torch.cat(keys).sort().values, torch.cat(taken)
        counts = torch.tensor([(routes == option).sum().item() for option in self.routing[0]])
        ends = counts.cumsum(0)[:-1]
        edge = torch.cat([ordered, torch.ones(1, dtype=torch.float64)])
        return RandomlyRouted(self.gated, self.key, edge[ends])

    def _router_for(self, x: Tensor) -> Router:
        if self.thresholds is None:
            raise RuntimeError("a random gate must be fitted with `on(images)` before it routes")
        ranks = torch.bucketize(image_keys(x, self.key), self.thresholds, right=True)
        options = torch.tensor(self.routing[0])[ranks].to(x.device)

        def route(index: int, features: Features, rows: Tensor) -> Tensor:
            return options[rows]

        return route


class RandomGate(Method):
    """The same checkpoint, routed by a hash of the image instead of the gate, in the gate's own proportions."""

    name = "random_gate"
    kind = "control"
    paper = "control of this suite"
    families = ("ds_",)
    needs_parent = True

    def operating_points(self, spec: RunSpec, data: Dataset, context: Context) -> list[OperatingPoint]:
        net, gates = parent_of(data, context)
        key = f"random_gate/{spec.seed}".encode()
        points: list[OperatingPoint] = []
        for routing, gate in gates:
            gated = RoutedPoint(point_name(routing), net, [gate], [routing], data.image_size)
            points.append(RandomlyRouted(gated, key))
        return points


class FixedChoice(Method):
    """The same checkpoint at each choice that its gates may take, for every image alike."""

    name = "fixed_choice"
    kind = "control"
    paper = "control of this suite"
    families = ("ds_",)
    needs_parent = True

    def operating_points(self, spec: RunSpec, data: Dataset, context: Context) -> list[OperatingPoint]:
        net, gates = parent_of(data, context)
        options = sorted({option for routing, _ in gates for option in routing})
        return [subnetwork_point(net, net.space.routed([option]), data.image_size) for option in options]


def parent_of(data: Dataset, context: Context) -> tuple[Supernet, list[tuple[tuple[int, ...], Gate]]]:
    """Supernet and gates of the run that a control starts from."""
    assert context.parent_spec is not None  # `completed` refuses a control without a parent
    return load_trained(context.parent_spec, data, context)
