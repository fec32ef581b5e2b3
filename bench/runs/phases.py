"""One run: its three phases, each a pure function of the spec (and of what earlier phases left in its folder)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.core.files import sha256
from bench.core.identity import SEEN_IN_TRAINING, begin, recorded, refuse_other_data
from bench.core.provenance import environment
from bench.core.spec import RunSpec
from bench.core.store import PHASES, Store
from bench.data import load as load_data
from bench.data.dataset import Dataset, Split
from bench.evaluation.accuracy import BATCH
from bench.methods import method_of, start_of
from bench.points import OperatingPoint
from bench.profilers import allocator
from bench.profilers.memory import peak_rss_mb
from bench.runs.evaluate import evaluated
from bench.runs.profile import profiled
from bench.training.context import Context, Progress, silent


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
    _check_data(spec, phase, store, data)
    context = _context(spec, store, device, progress)
    points = method_of(spec.method).operating_points(spec, data, context)
    _check_points(spec, points)
    if phase == "train":
        body = _trained(context, points, start_of(spec, data, context))
        body["results"]["digests"] = data.digests(*SEEN_IN_TRAINING)
    else:
        images = _Images(data.open_test(), device)
        points = [point.on(images) for point in points]
        work = evaluated if phase == "eval" else profiled
        body = work(spec, data, context, points)
    timing = {"seconds": time.perf_counter() - started, "peak_rss_mb": peak_rss_mb()}
    return body | {"environment": environment(spec.threads), "timing": timing}


def _check_data(spec: RunSpec, phase: str, store: Store, data: Dataset) -> None:
    """Raises UserError where the run, or a parent with its data, has seen another split of a name than there is."""
    today = data.digests(*SEEN_IN_TRAINING)
    seen = recorded(store, spec.run_id)
    if "test" in seen:
        today["test"] = data.open_test().digest
    refuse_other_data(seen, today, spec.run_id)
    if spec.init_from is not None and store.read_spec(spec.init_from).data == spec.data:
        refuse_other_data(recorded(store, spec.init_from), today, spec.init_from)
    if phase == "train":
        begin(store, spec.run_id, today)


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
    digests = {file.stem: sha256(file) for file in files}
    results = {"points": [point.name for point in points], "checkpoints": digests}
    return {"results": results | ({"start": start} if start else {})}
