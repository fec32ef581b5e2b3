"""The points of a run by engine and by clock, beside its full network: how much of the saved compute is saved time.

Every engine runs the full network of the run's model too, and a point is compared with that of its own engine, in the
rounds that both were in. What a point costs in multiply-adds is that of the very images that were timed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import unknown
from bench.export.engines import ENGINES, point_in_engine
from bench.export.job import failing_as
from bench.methods import fresh_model
from bench.points import OperatingPoint, StaticPoint, subnetwork_point
from bench.profilers import loadgen
from bench.profilers.latency import LATENCY
from bench.profilers.meter import Conditions, Meter, Served, measure
from bench.runs.profile import timed_batches
from bench.runs.run import points_of
from bench.slicing.supernet import to_channels_last
from bench.statistics.paired import paired_ratio
from bench.training.run import Progress, Run, silent

EAGER = ("view", "extracted")
FORMS = (*EAGER, *ENGINES)
CLOCKS = ("own", "loadgen")
FULL = "full network"


@dataclass(frozen=True)
class Asked:
    """What is to be timed.

    Attributes:
        points: by name; none for all.
        forms: of `FORMS`; a point that lacks one of PyTorch's is left out of it. batches: sizes. clocks: of `CLOCKS`.
        rounds: of all candidates of a batch size; six or more give an interval.
    """

    points: Sequence[str] = ()
    forms: Sequence[str] = ("extracted", "onnx")
    batches: Sequence[int] = (1, 64)
    clocks: Sequence[str] = ("own",)
    rounds: int = 15

    def check(self) -> None:
        """Raise `UserError` for a form or clock that is none, or whose extra is not installed."""
        for what, names, allowed in (("form", self.forms, FORMS), ("clock", self.clocks, CLOCKS)):
            for name in names:
                if name not in allowed:
                    raise unknown(what, name, allowed)
        for name in set(self.forms) & set(ENGINES):
            ENGINES[name].check()
        if "loadgen" in self.clocks:
            loadgen.check_extra()


def clocked(run: Run, asked: Asked, tell: Progress = silent) -> list[dict[str, Any]]:
    """A row for each clock, batch size, form and point: what a call took, and its ratio to the full network's.

    Keys: clock, batch, form, point, madds (mean of the timed images), madds_ratio, ratio, low, high (95 %, None with
    fewer than six rounds), and all of `Measurement.details`.

    Raises:
        UserError: what is asked for cannot be: a point, form or clock that is none, an extra that is missing, or a
            point that an engine does not run.
    """
    asked.check()
    points = _chosen(run, asked.points)
    net = to_channels_last(fresh_model(run).eval())
    full = subnetwork_point(net, net.space.uniform_choices[-1], run.data.image_size, FULL)
    rows = []
    for batch, form in itertools.product(asked.batches, asked.forms):
        batches = timed_batches(run.data.open_test(), batch, run.device)
        if form in ENGINES:
            batches = [x.contiguous() for x in batches]  # engines take plain layout
        networks = {}
        for point in (full, *points):
            tell(f"preparing {point.name} for {form}", 0, 1)
            network = in_form(point, form, batches[0], run.spec.threads)
            if network is not None:
                networks[point.name] = network
        madds = {point.name: mean_madds(point, batches) for point in (full, *points) if point.name in networks}
        for clock in asked.clocks:
            meter = LATENCY if clock == "own" else loadgen.meter(batch)
            tell(f"timing {form} at batch {batch} by {clock}", 0, 1)
            for row in _timed(networks, batches, meter, asked.rounds, run):
                saved = {"madds": madds[row["point"]], "madds_ratio": madds[row["point"]] / madds[FULL]}
                rows.append({"clock": clock, "batch": batch, "form": form} | saved | row)
    return rows


def _chosen(run: Run, names: Sequence[str]) -> list[OperatingPoint]:
    points = {point.name: point for point in points_of(run)}
    for name in names:
        if name not in points:
            raise unknown(f"point of {run.spec.run_id}", name, points)
    return [points[name] for name in names or points]


def in_form(point: OperatingPoint, form: str, images: Tensor, threads: int) -> nn.Module | None:
    """A point in a form; None where it has no such form of PyTorch's. `images`: (B, C, H, W), to trace with."""
    if form in EAGER:
        return point.executables().get(form)
    example = images[:2] if len(images) > 1 else images.repeat(2, 1, 1, 1)
    with failing_as(f"{point.name} cannot be exported as onnx"):
        return point_in_engine(point, example, form, threads)


@torch.no_grad()
def mean_madds(point: OperatingPoint, batches: Sequence[Tensor]) -> float:
    """What an image of these batches costs on average, as the point claims it."""
    if isinstance(point, StaticPoint):
        return float(point.claimed)
    costs = torch.cat([point.madds(point(x).route.cpu()) for x in batches])
    return costs.double().mean().item()


def _timed(
    networks: dict[str, nn.Module], batches: list[Tensor], meter: Meter, rounds: int, run: Run
) -> list[dict[str, Any]]:
    conditions = Conditions(str(run.device), len(batches[0]), run.spec.threads, rounds=rounds, seed=run.spec.seed)
    timed = measure(meter, {name: Served(network, batches) for name, network in networks.items()}, conditions)
    rows = []
    for name, calls in timed.items():
        ratio = paired_ratio(calls.samples, timed[FULL].samples)
        low, high = (ratio.low, ratio.high) if ratio.low > 0 else (None, None)
        rows.append({"point": name, "ratio": ratio.median, "low": low, "high": high} | calls.details())
    return rows
