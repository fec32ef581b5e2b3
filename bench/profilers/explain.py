"""Why multiply-adds are not time: where a network's time goes, stage by stage, beside what the machine could do.

A stage is a run of layers that work at one resolution. Its arithmetic at the machine's peak and its traffic at the
machine's bandwidth are two lower bounds of its time (the roofline model: Williams et al. 2009, CACM 52(4)); the larger
one says what it is bound by, and how far the time is above it how much is lost to neither: calls, small kernels, layers
that wait for one another. Both peaks are measured on the spot, on as many threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench.profilers.latency import LATENCY
from bench.profilers.madds import executed_madds
from bench.profilers.meter import Conditions, Served, measure
from bench.slicing.choice import Choice
from bench.slicing.extract import extract, parameters_of
from bench.slicing.supernet import Supernet, to_channels_last

BYTES = 4  # of a float32
PRODUCT = 1024  # rows and columns of the matrices that the peak is measured with
TRAFFIC = 2**26  # bytes that are copied to measure the bandwidth: more than a cache holds


class Peaks(NamedTuple):
    """What this machine reaches: `gflops` (two operations a multiply-add) in a matrix product, `gbytes` a second when
    it copies, reading and writing counted."""

    gflops: float
    gbytes: float


@dataclass(frozen=True)
class Stage:
    """Layers that work at one resolution, on one batch.

    Attributes:
        name: the shape of what comes out, "32x16x16".
        bytes: weights and activations that its layers read and write, if no layer finds anything in a cache.
        ms: median of its calls. gflops: operations a second that it reaches.
        bound: "compute" or "memory": which bound is the larger. times_bound: how many times that its time is.
    """

    name: str
    layers: int
    madds: int
    bytes: int
    ms: float
    gflops: float
    share: float
    bound: str
    times_bound: float


@dataclass(frozen=True)
class Line:
    """Latency of a family's networks as intercept + slope x MAdds, by least squares.

    Attributes:
        intercept: ms of a network that multiplies nothing. slope: ms for a million multiply-adds.
        error: mean distance of the networks from the line, relative to their times. r2: of the fit.
    """

    intercept: float
    slope: float
    error: float
    r2: float


@torch.no_grad()
def peaks(conditions: Conditions) -> Peaks:
    """Measure what the machine reaches under these conditions (threads, device)."""
    square = torch.rand(PRODUCT, PRODUCT, device=conditions.device)
    source = torch.zeros(TRAFFIC // BYTES, device=conditions.device)
    goal = torch.empty_like(source)
    steps = {"product": lambda: square @ square, "copy": lambda: goal.copy_(source)}
    timed = measure(LATENCY, steps, conditions)
    fastest = {name: min(calls.samples) / 1e3 for name, calls in timed.items()}
    return Peaks(2 * PRODUCT**3 / fastest["product"] / 1e9, 2 * TRAFFIC / fastest["copy"] / 1e9)


@torch.no_grad()
def stages(network: nn.Sequential, x: Tensor, machine: Peaks, conditions: Conditions) -> list[Stage]:
    """Where the time of a plain network goes, on a batch (B, C, H, W). The stages are timed interleaved, each on what
    the one in front of it gives."""
    arriving, inputs, traffic = x, [], []
    for layer in network:
        inputs.append(arriving)
        arriving = layer(arriving)
        traffic.append(BYTES * (inputs[-1].numel() + arriving.numel() + parameters_of(layer)))
    outputs = [*inputs[1:], arriving]
    ranges = [list(places) for _, places in groupby(range(len(inputs)), key=lambda place: outputs[place].shape[2:])]
    modules = {places[0]: network[places[0] : places[-1] + 1] for places in ranges}
    timed = measure(LATENCY, {first: Served(modules[first], [inputs[first]]) for first in modules}, conditions)
    total = sum(calls.median for calls in timed.values())
    measured = []
    for places in ranges:
        first, ms = places[0], timed[places[0]].median
        madds, moved = executed_madds(modules[first], inputs[first]), sum(traffic[place] for place in places)
        compute, memory = 2e3 * madds / (machine.gflops * 1e9), 1e3 * moved / (machine.gbytes * 1e9)
        shape = "x".join(map(str, outputs[places[-1]].shape[1:]))
        bound = "compute" if compute >= memory else "memory"
        rate = 2 * madds / ms / 1e6
        stage = Stage(shape, len(places), madds, moved, ms, rate, ms / total, bound, ms / max(compute, memory))
        measured.append(stage)
    return measured


def ladder(net: Supernet, choices: Sequence[Choice], x: Tensor, conditions: Conditions) -> list[tuple[int, float]]:
    """(multiply-adds, ms) of plain sub-networks on a batch, timed interleaved."""
    plain = {choice: to_channels_last(extract(net, choice, fold_bn=True)) for choice in choices}
    timed = measure(LATENCY, {choice: Served(network, [x]) for choice, network in plain.items()}, conditions)
    return [(net.cost(choice, x.shape[-1]).madds, timed[choice].median) for choice in choices]


def fitted_line(points: Sequence[tuple[int, float]]) -> Line:
    """The line through (multiply-adds, ms) of three networks or more, each counting alike.

    >>> line = fitted_line([(10**6, 3.0), (2 * 10**6, 5.0), (3 * 10**6, 7.0)])
    >>> round(line.intercept, 9), round(line.slope, 9), round(line.r2, 9)
    (1.0, 2.0, 1.0)

    Raises:
        ValueError: fewer than three networks.
    """
    if len(points) < 3:
        raise ValueError(f"a line needs three networks to say anything, not {len(points)}")
    madds, ms = np.array(points, dtype=float).T
    slope, intercept = np.polyfit(madds / 1e6, ms, 1)
    expected = intercept + slope * madds / 1e6
    spread = float(((ms - ms.mean()) ** 2).sum())
    r2 = 1 - float(((ms - expected) ** 2).sum()) / spread if spread else 0.0
    return Line(float(intercept), float(slope), float(np.mean(np.abs(ms - expected) / ms)), r2)
