"""The executed proof: what a point claims for its images is what was executed for them.

Every form that a point offers is counted. A static point is counted on one batch, and by fvcore. A dynamic point is
counted in each group of each batch (images that take one route, run together), and for some images run alone. A point
with many gates has nearly as many routes as images: then the groups beyond `GROUPS` of a batch run together, their
count compared with the sum of their claims, and fvcore counts `GRAPHS` of the routes; the proof says how many.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.data.dataset import Split
from bench.data.group import Group
from bench.evaluation.accuracy import BATCH, shared
from bench.points import OperatingPoint
from bench.profilers.madds import ANALYTIC, EXECUTED, executed_by, fvcore_madds, fvcore_version
from bench.slicing.dynamic import Prediction

ALONE = 64
REROUTED = 0.01  # share of images that another batch may route otherwise: a gate can be undecided to the last bit
GROUPS = 32  # of a batch that are run by themselves
GRAPHS = 32  # routes whose plain network is counted by fvcore
STATIC_IMAGES = 2  # a static network is counted on a batch of two: per-batch and per-image costs differ there


class Unproven(UserError):
    """An operating point executes other multiply-adds than it claims, or claims them for a batch, not an image."""


@torch.no_grad()
def prove(point: OperatingPoint, split: Split, device: torch.device, group: Group | None = None) -> dict[str, Any]:
    """Check every claim of a point and return what was checked. The processes of a group share the batches.

    Raises:
        Unproven: a count differs from its claim, or a route depends on the other images of the batch. Nothing may be
            recorded for such a point.
    """
    group = group or Group()
    first = next(iter(split.batches(BATCH, device=device))).x
    routes = _routes(point(first).route)
    counted = _some(routes, GRAPHS)
    graphs = _prove_graphs(point, counted, first[:1])
    if point.kind == "static":
        images = first[:STATIC_IMAGES]
        claimed = int(point.madds(point(images).route).sum())
        for form, module in point.executables().items():
            _compare(point, f"form {form}", claimed, executed_by(partial(module, images)), len(images))
        checked: dict[str, Any] = {"batches": 1, "groups": 1, "alone": 0}
    else:
        ours = _prove_groups(point, (batch.x for batch in shared(split, device, group)))
        counts, routes_met = zip(*group.gather(ours), strict=True)
        checked = {name: sum(each[name] for each in counts) for name in counts[0]}
        met = set().union(*routes_met)
        alone, rerouted = _prove_alone(point, first)
        checked |= {"alone": alone, "rerouted": checked["rerouted"] + rerouted}
        _require_steady(point, checked["rerouted"], checked["images"] + alone)
        later = _some(met - routes, GRAPHS - len(counted))
        graphs |= _prove_graphs(point, later, first[:1]) if later else {}
        routes |= met
    uncounted = len(routes) - len(graphs)
    return (
        checked
        | {
            "forms": sorted(point.executables()),
            "counters": {"analytic": ANALYTIC, "executed": EXECUTED, "fvcore": fvcore_version()},
            "networks": graphs,
        }
        | ({"uncounted_routes": uncounted} if uncounted else {})
    )


def _routes(route: Tensor) -> set[tuple[int, ...]]:
    return {tuple(row) for row in route.tolist()}


def _some(routes: set[tuple[int, ...]], most: int) -> list[tuple[int, ...]]:
    """At most so many of the routes, in order; always the same."""
    ordered = sorted(routes)
    return ordered if len(ordered) <= most else sorted(random.Random(0).sample(ordered, most))


def _compare(point: OperatingPoint, what: str, claimed: int, executed: int, images: int) -> None:
    if executed != claimed:
        raise Unproven(
            f"point {point.name} claims {claimed:,} multiply-adds for {images} images ({what}), but executes "
            f"{executed:,}"
        )


def _run_and_check(point: OperatingPoint, what: str, x: Tensor, before: Tensor) -> int:
    """Run x once, counting; what that run claims for its routes must be what it executed.

    Returns how many images took another route than `before` (B, G), in another batch.
    """
    predictions: list[Prediction] = []
    executed = executed_by(lambda: predictions.append(point(x)))
    route = predictions[0].route
    _compare(point, what, int(point.madds(route).sum()), executed, len(x))
    return int((route != before).any(dim=1).sum())


def _prove_graphs(point: OperatingPoint, routes: list[tuple[int, ...]], x: Tensor) -> dict[str, int]:
    """Claims against fvcore on the plain network behind each route; the counts by route."""
    claims = point.madds(torch.tensor(routes, dtype=torch.int64).reshape(len(routes), -1)).tolist()
    networks = point.subnetworks(routes)
    counts = {}
    for route, claim in zip(routes, claims, strict=True):
        counted = fvcore_madds(networks[route], x) + point.overhead()
        if counted != claim:
            raise Unproven(f"point {point.name}, route {route}: claims {claim:,}, fvcore counts {counted:,}")
        counts["-".join(map(str, route)) or "static"] = counted
    return counts


def _prove_groups(point: OperatingPoint, batches: Iterable[Tensor]) -> tuple[dict[str, Any], set[tuple[int, ...]]]:
    """Each group of each batch by the first form; one whole batch by every other form. Also says all routes taken."""
    forms: dict[str, nn.Module] = point.executables()
    proven, seen = {"batches": 0, "groups": 0, "images": 0, "rerouted": 0}, set()
    for x in batches:
        route = point(x).route
        seen |= _routes(route)
        if not proven["batches"]:
            claimed = int(point.madds(route).sum())
            for form, module in forms.items():
                module(x)  # forms that copy weights at first use do so before they are counted
                _compare(point, f"form {form}, a whole batch", claimed, executed_by(partial(module, x)), len(x))
        for rows in _groups(route):
            routes = route[rows]
            what = f"group of route {routes[0].tolist()}" if len(routes.unique(dim=0)) == 1 else "all other routes"
            proven["rerouted"] += _run_and_check(point, what, x[rows], routes)
            proven["groups"] += 1
        proven["batches"] += 1
        proven["images"] += len(x)
    return proven, seen


def _groups(route: Tensor) -> list[Tensor]:
    """Rows of the images that are run together: a group for each of the first `GROUPS` routes, one for all others."""
    _, member = route.unique(dim=0, return_inverse=True)
    member = member.clamp(max=GROUPS)
    return [(member == group).nonzero().flatten() for group in member.unique()]


def _prove_alone(point: OperatingPoint, x: Tensor) -> tuple[int, int]:
    """How many images were run alone, and how many of them took another route than in their batch."""
    rows = random.Random(0).sample(range(len(x)), min(ALONE, len(x)))
    route = point(x).route
    rerouted = sum(_run_and_check(point, "one image", x[row : row + 1], route[row]) for row in rows)
    return len(rows), rerouted


def _require_steady(point: OperatingPoint, rerouted: int, images: int) -> None:
    """Cost belongs to an image only if its route does."""
    if rerouted > REROUTED * images:
        raise Unproven(
            f"point {point.name} routes {rerouted} of {images} images otherwise when they come in another batch; "
            "the route must depend on the image alone"
        )
