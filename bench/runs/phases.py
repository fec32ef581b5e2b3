"""One run: its three phases, each a pure function of the spec (and of what earlier phases left in its folder)."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save
from torch import Tensor

from bench.core.errors import UserError
from bench.core.files import write_atomic
from bench.core.provenance import environment
from bench.core.record import METRICS, Record
from bench.core.spec import RunSpec
from bench.core.store import PHASES, Store
from bench.data import load as load_data
from bench.data.dataset import Dataset, Split
from bench.evaluation.accuracy import BATCH, Evaluation, evaluate
from bench.evaluation.measures import Measure, backbone_measures, measures_of
from bench.evaluation.proof import prove
from bench.methods import method_of, start_of
from bench.models import MODELS
from bench.points import OperatingPoint
from bench.profilers import allocator
from bench.profilers.latency import Latency, as_served, measure
from bench.profilers.memory import peak_rss_mb
from bench.slicing.extract import extract
from bench.statistics.paired import paired_ratio
from bench.tasks.task import task_of
from bench.training.context import Context, Progress, silent

PER_IMAGE = "per_image.safetensors"


def run_phase(
    spec: RunSpec, phase: str, store_root: str | Path, data_root: str | Path | None, progress: Progress = silent
) -> None:
    """Do one phase ("train", "eval", "profile") of a run, unless it is complete.

    Holds the run's lease meanwhile. Whatever goes wrong is written to error.json and raised again.

    Raises:
        UserError: the spec, the data or a checkpoint is not usable. Busy: another live process works on the run.
    """
    if phase not in PHASES:
        raise ValueError(f"a phase is one of {', '.join(PHASES)}, not {phase!r}")
    store = Store(store_root)
    store.open_run(spec)
    if store.has(spec.run_id, phase):
        return
    with store.lease(spec.run_id):
        if store.has(spec.run_id, phase):
            return
        try:
            with _prepared(spec) as device:
                body = _perform(spec, phase, store, data_root, device, progress)
            store.write(spec.run_id, phase, body)
            store.clear_error(spec.run_id)
        except Exception as error:
            store.write_error(spec.run_id, phase, error)
            raise


@contextmanager
def _prepared(spec: RunSpec) -> Iterator[torch.device]:
    """The device, threads and allocator that a spec asks for; threads are put back afterwards."""
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but torch sees no CUDA device here; use --device cpu")
    threads = torch.get_num_threads()
    allocator.pin()
    torch.set_num_threads(spec.threads)
    try:
        yield torch.device(spec.device)
    finally:
        torch.set_num_threads(threads)


def _perform(
    spec: RunSpec, phase: str, store: Store, data_root: str | Path | None, device: torch.device, progress: Progress
) -> dict[str, Any]:
    started = time.perf_counter()
    data = load_data(spec.data, None if data_root is None else Path(data_root))
    context = _context(spec, store, device, progress)
    points = method_of(spec.method).operating_points(spec, data, context)
    _check_points(spec, points)
    if phase == "train":
        body = _trained(context, points, start_of(spec, data, context))
    else:
        images = _Images(data.open_test(), device)
        points = [point.on(images) for point in points]
        work = _evaluated if phase == "eval" else _profiled
        body = work(spec, data, context, points)
    timing = {"seconds": time.perf_counter() - started, "peak_rss_mb": peak_rss_mb()}
    return body | {"environment": environment(spec.threads), "timing": timing}


class _Images:
    """The images of a split in batches, made anew for whoever iterates over them: they may be too many for memory."""

    def __init__(self, split: Split, device: torch.device):
        self._split, self._device = split, device

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.x for batch in self._split.batches(BATCH, device=self._device))


def _context(spec: RunSpec, store: Store, device: torch.device, progress: Progress) -> Context:
    parent = parent_spec = None
    if spec.init_from is not None:
        parent, parent_spec = store.path(spec.init_from), store.read_spec(spec.init_from)
    return Context(store.path(spec.run_id), spec.run_id, device, progress, parent, parent_spec, weights=store.weights)


def _check_points(spec: RunSpec, points: list[OperatingPoint]) -> None:
    names = [point.name for point in points]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated or not names:
        raise UserError(f"{spec.method} yielded {'no points' if not names else f'two points named {min(repeated)}'}")


def _trained(context: Context, points: list[OperatingPoint], start: dict[str, Any]) -> dict[str, Any]:
    files = sorted((context.directory / "checkpoints").glob("*.safetensors"))
    digests = {file.stem: _sha256(file) for file in files}
    results = {"points": [point.name for point in points], "checkpoints": digests}
    return {"results": results | ({"start": start} if start else {})}


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _evaluated(spec: RunSpec, data: Dataset, context: Context, points: list[OperatingPoint]) -> dict[str, Any]:
    """The test split is opened here, once, by the final points."""
    split, task = data.open_test(), task_of(data)
    records, results, arrays = [], {}, {}
    for done, point in enumerate(points):
        context.progress("eval", done, len(points))
        proof = prove(point, split, context.device)
        scores = evaluate(point, split, task, context.device)
        measures = measures_of(task, scores, data.classes)
        measures += backbone_measures(point, scores.route, next(split.batches(1, device=context.device)).x)
        results[point.name] = _summary(point, scores, measures[0], proof)
        records += _accuracy_records(spec, data.id, split.id, point, scores, measures, proof)
        arrays |= scores.tensors(point.name)
    file = context.directory / PER_IMAGE
    about = {"run_id": spec.run_id, "split": split.id, "digest": split.digest}
    write_atomic(file, save(arrays, {"slicebench": json.dumps(about, sort_keys=True)}))
    per_image = {"file": PER_IMAGE, "sha256": _sha256(file)}
    return {"records": records, "results": {"points": results, "split": split.id, "per_image": per_image}}


def _summary(point: OperatingPoint, scores: Evaluation, headline: Measure, proof: dict[str, Any]) -> dict[str, Any]:
    n, theoretical = len(scores.score), _theoretical_madds(point, scores)
    if headline.metric == "top1":
        judged: dict[str, Any] = {"top1": {"correct": scores.solved, "n": n}}
    else:
        total = float(scores.score.sum(dtype="float64"))
        judged = {"headline": {"metric": headline.metric, "value": headline.value, "score": total, "n": n}}
    quantiles = {f"p{q}": int(sorted(scores.madds)[min(n - 1, n * q // 100)]) for q in (10, 50, 90)}
    return {
        "kind": point.kind,
        **judged,
        "madds_mean": float(scores.madds.mean()),
        "madds_min": int(scores.madds.min()),
        "madds_max": int(scores.madds.max()),
        "madds_quantiles": quantiles,
        "params_stored": point.params_stored,
        "params_active_mean": float(scores.params.mean()),
        "routing": scores.routing(),
        "executed_proof": proof,
    } | ({} if theoretical is None else {"madds_theoretical_mean": theoretical})


def _theoretical_madds(point: OperatingPoint, scores: Evaluation) -> float | None:
    """Mean over the images of what a point would cost in theory, for points where that is another number."""
    madds = point.madds_theoretical(torch.from_numpy(scores.route))
    return None if madds is None else float(madds.double().mean())


def _accuracy_records(
    spec: RunSpec,
    dataset: str,
    split: str,
    point: OperatingPoint,
    scores: Evaluation,
    measures: Sequence[Measure],
    proof: dict[str, Any],
) -> list[Record]:
    n = len(scores.score)
    counters = {"counters": proof["counters"]}

    def record(metric: str, value: float, unit: str, details: dict[str, Any]) -> Record:
        return Record(
            spec.run_id, spec.method, spec.model, dataset, split, point.name, spec.seed, metric, value, unit, n,
            details=details,
        )  # fmt: skip

    theoretical = _theoretical_madds(point, scores)
    shown = [] if theoretical is None else [record("madds_theoretical", theoretical, "MAdds/image", {})]
    return [
        *(record(each.metric, each.value, METRICS[each.metric][0], each.details) for each in measures),
        record("madds", float(scores.madds.mean()), "MAdds/image", counters),
        *shown,
        record("params_stored", point.params_stored, "parameters", {}),
        record("params_active", float(scores.params.mean()), "parameters", {}),
    ]


def _profiled(spec: RunSpec, data: Dataset, context: Context, points: list[OperatingPoint]) -> dict[str, Any]:
    """Latency of every form of every point, interleaved with the preset's full static network as a common yardstick."""
    split = data.open_test()
    networks = {(point.name, form): m for point in points for form, m in point.executables().items()}
    net = MODELS.get(spec.model)(classes=len(data.classes), input_channels=data.channels).to(context.device).eval()
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
