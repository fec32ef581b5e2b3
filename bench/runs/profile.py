"""The profile phase: what every form of every point takes of each meter that the spec names."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from bench.core.record import Record
from bench.data.dataset import Split
from bench.points import OperatingPoint
from bench.profilers import METERS
from bench.profilers.meter import Conditions, Measurement, Served, measure
from bench.slicing.extract import extract
from bench.slicing.supernet import to_channels_last
from bench.statistics.paired import paired_ratio
from bench.training.run import Run

FULL = ("", "full")  # beside the (point, form) of the run


def profiled(run: Run, points: list[OperatingPoint], split: Split) -> dict[str, Any]:
    """Measure every form of every point, interleaved with the preset's full static network as a common yardstick.

    Each meter has rounds of its own, so that reading one does not stand in the values of another.
    """
    spec, data = run.spec, run.data
    networks = {(point.name, form): m for point in points for form, m in point.executables().items()}
    net = run.preset.build(len(data.classes), data.channels, image_size=data.image_size).to(run.device).eval()
    networks[FULL] = to_channels_last(extract(net, net.space.uniform_choices[-1], fold_bn=True))
    work = list(itertools.product(map(METERS.get, spec.profile.meters), spec.profile.batch_sizes))
    how: dict[str, Any] = {
        "threads": spec.threads,
        "warmup": spec.profile.warmup,
        "rounds": spec.profile.rounds,
        "seed": spec.seed,
    }
    records = []
    for done, (meter, size) in enumerate(work):
        run.progress("profile", done, len(work))
        batches = timed_batches(split, size, run.device)
        candidates = {slot: Served(network, batches) for slot, network in networks.items()}
        measured = measure(meter, candidates, Conditions(str(run.device), size, **how))
        yardstick = measured.pop(FULL)
        for (point, form), each in measured.items():
            about = (spec.run_id, spec.method, spec.model, data.id, split.id, point, spec.seed)
            details = each.details() | _ratio(each, yardstick)
            for metric, (value, unit) in each.metrics().items():
                records.append(Record(*about, metric, value, unit, each.n, form, details))
    return {"records": records, "results": {}}


def timed_batches(split: Split, size: int, device: torch.device) -> list[Tensor]:
    """The first batches of a split, at least 64 images in all; a split smaller than a batch is repeated to fill it."""
    batches = [batch.x for batch in itertools.islice(split.batches(size, device=device), -(-64 // size))]
    whole = [x for x in batches if len(x) == size]
    if whole:
        return whole
    rows = torch.arange(size, device=device) % len(batches[0])
    return [batches[0][rows].contiguous(memory_format=torch.channels_last)]


def _ratio(measurement: Measurement, yardstick: Measurement) -> dict[str, Any]:
    """Of what the full network took in the same rounds; nothing where the meter saw it take nothing."""
    if not all(yardstick.samples):
        return {}
    ratio = paired_ratio(measurement.samples, yardstick.samples)
    finite = ratio.low > 0 and ratio.n >= 6
    return {"ratio_to_full": {"median": ratio.median, "interval": [ratio.low, ratio.high] if finite else None}}
