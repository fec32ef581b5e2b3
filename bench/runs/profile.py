"""The profile phase: latency of every form of every point."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from bench.core.record import Record
from bench.core.spec import RunSpec
from bench.data.dataset import Dataset, Split
from bench.models import PRESETS
from bench.points import OperatingPoint
from bench.profilers.latency import Latency, as_served, measure
from bench.slicing.extract import extract
from bench.statistics.paired import paired_ratio
from bench.training.context import Context


def profiled(spec: RunSpec, data: Dataset, context: Context, points: list[OperatingPoint]) -> dict[str, Any]:
    """Latency of every form of every point, interleaved with the preset's full static network as a common yardstick."""
    split = data.open_test()
    networks = {(point.name, form): m for point in points for form, m in point.executables().items()}
    net = PRESETS.get(spec.model).build(classes=len(data.classes), channels=data.channels).to(context.device).eval()
    full = extract(net, net.space.uniform_choices[-1], fold_bn=True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    records = []
    for done, size in enumerate(spec.profile.batch_sizes):
        context.progress("profile", done, len(spec.profile.batch_sizes))
        batches = _timed_batches(split, size, context.device)
        steps = {slot: _cycling(module, batches) for slot, module in networks.items()}
        by_name = {f"{point}/{form}": step for (point, form), step in steps.items()}
        by_name["full"] = _cycling(full, batches)
        with as_served([*networks.values(), full], spec.threads):
            timed = measure(by_name, spec.profile.rounds, spec.profile.warmup, context.device, seed=spec.seed)
        yardstick = timed.pop("full")
        for name, latency in timed.items():
            point, _, form = name.rpartition("/")
            records += _latency_records(spec, data.id, split.id, point, form, size, latency, yardstick)
    return {"records": records, "results": {}}


def _timed_batches(split: Split, size: int, device: torch.device) -> list[Tensor]:
    """The first batches of a split, at least 64 images in all; a split smaller than a batch is repeated to fill it."""
    batches = [batch.x for batch in itertools.islice(split.batches(size, device=device), -(-64 // size))]
    whole = [x for x in batches if len(x) == size]
    if whole:
        return whole
    rows = torch.arange(size, device=device) % len(batches[0])
    return [batches[0][rows].contiguous(memory_format=torch.channels_last)]


def _cycling(module, batches: list[Tensor]):
    """A step that runs the next of a few real batches, so that a dynamic point meets a mixture of images."""
    following = itertools.cycle(batches)
    return lambda: module(next(following))


def _latency_records(
    spec: RunSpec, dataset: str, split: str, point: str, form: str, size: int, latency: Latency, yardstick: Latency
) -> list[Record]:
    ratio = paired_ratio(latency.samples_ms, yardstick.samples_ms)
    finite = ratio.low > 0 and ratio.n >= 6
    details = latency.details() | {
        "batch": size,
        "ratio_to_full": {"median": ratio.median, "interval": [ratio.low, ratio.high] if finite else None},
    }
    values = {
        "latency_ms": (latency.median_ms, "ms/batch"),
        "images_per_s": (1e3 * size / latency.median_ms, "images/s"),
    }
    about = (spec.run_id, spec.method, spec.model, dataset, split, point, spec.seed)
    return [Record(*about, metric, value, unit, latency.n, form, details) for metric, (value, unit) in values.items()]
