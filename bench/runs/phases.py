"""One run: its three phases, each a pure function of the spec (and of what earlier phases left in its folder)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import date
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
from bench.data.dataset import Split
from bench.data.group import ALONE, Group, Lost, current
from bench.evaluation.accuracy import BATCH
from bench.methods import method_of, start_of
from bench.profilers import allocator
from bench.profilers.exclusive import alone_on_this_machine
from bench.profilers.memory import peak_rss_mb
from bench.runs.evaluate import evaluated
from bench.runs.profile import profiled
from bench.runs.run import open_run, points_of
from bench.training import checkpoint
from bench.training.precision import precision_of
from bench.training.run import Progress, Run, silent


def run_phase(
    spec: RunSpec,
    phase: str,
    store_root: str | Path,
    data_root: str | Path | None,
    progress: Progress = silent,
) -> None:
    """Do one phase ("train", "eval", "profile") of a run, unless it is complete.

    Holds the run's lease meanwhile. Whatever goes wrong is written to error.json and raised again. Where a spec asks
    for several processes, all of a group call it alike; rank 0 holds the lease and writes the results. One that fails
    leaves the group, and the others raise `Lost`.

    Raises:
        UserError: the spec, the data or a checkpoint is not usable, or the spec is for another number of processes.
        Busy: another live process works on the run.
    """
    if phase not in PHASES:
        raise ValueError(f"a phase is one of {', '.join(PHASES)}, not {phase!r}")
    store, group = Store(store_root), ALONE if spec.processes(phase) == 1 else current()
    with ExitStack() as stack:

        def claimed() -> bool:
            """Whether there is anything to do; its lease is then held."""
            store.open_run(spec)
            if store.has(spec.run_id, phase):
                return False
            stack.enter_context(store.lease(spec.run_id))
            if group.size > 1:
                store.clear_error(spec.run_id)
            return not store.has(spec.run_id, phase)

        if not group.same(claimed):
            return
        try:
            _check_processes(spec, phase, group)
            quiet = alone_on_this_machine() if phase == "profile" else nullcontext()
            with _prepared(spec) as device, quiet:
                body = _perform(spec, phase, store, data_root, device, progress if group.rank == 0 else silent, group)
            if group.rank == 0:
                store.write(spec.run_id, phase, body)
                store.clear_error(spec.run_id)
        except Lost:
            raise
        except Exception as error:
            store.write_error(spec.run_id, phase, error)
            group.leave()
            raise


def _check_processes(spec: RunSpec, phase: str, group: Group) -> None:
    needed = spec.processes(phase)
    if group.size != needed:
        raise UserError(
            f"{spec.run_id} asks for {needed} processes by train.workers, and runs in {group.size}: use --executor "
            f"ray, or torchrun --nproc-per-node={needed}"
        )


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
    spec: RunSpec,
    phase: str,
    store: Store,
    data_root: str | Path | None,
    device: torch.device,
    progress: Progress,
    group: Group,
) -> dict[str, Any]:
    started = time.perf_counter()
    run = open_run(store, spec, data_root, device, progress, finished=phase != "train", group=group)
    _check_data(run, phase, store)
    if phase == "train":
        method_of(spec.method).train(run)
        if group.rank:
            return {}
        body = _trained(replace(run, group=ALONE))
        body["results"]["digests"] = run.data.digests(*SEEN_IN_TRAINING)
    else:
        test = run.data.open_test()
        points = [point.on(Images(test, device)) for point in points_of(run)]
        body = (evaluated if phase == "eval" else profiled)(run, points, test)
    timing = {"seconds": time.perf_counter() - started, "peak_rss_mb": peak_rss_mb(), "date": date.today().isoformat()}
    return body | {"environment": environment(spec.threads), "timing": timing}


def _check_data(run: Run, phase: str, store: Store) -> None:
    """Raises UserError where the run, or a parent with its data, has seen another split of a name than there is."""
    spec, data = run.spec, run.data
    today = data.digests(*SEEN_IN_TRAINING)
    seen = recorded(store, spec.run_id)
    if "test" in seen:
        today["test"] = data.open_test().digest
    refuse_other_data(seen, today, spec.run_id)
    if run.parent is not None and run.parent.spec.data == spec.data:
        refuse_other_data(recorded(store, run.parent.run_id), today, run.parent.run_id)
    if phase == "train" and run.group.rank == 0:
        begin(store, spec.run_id, today)


class Images:
    """The images of a split in batches, made anew for whoever iterates over them: they may be too many for memory."""

    def __init__(self, split: Split, device: torch.device):
        self._split, self._device = split, device

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.x for batch in self._split.batches(BATCH, device=self._device))


def _trained(run: Run) -> dict[str, Any]:
    names, start = [point.name for point in points_of(run)], start_of(run)
    files = sorted((run.folder / "checkpoints").glob("*.safetensors"))
    results: dict[str, Any] = {"points": names, "checkpoints": {file.stem: sha256(file) for file in files}}
    curves = {file.stem: checkpoint.notes_of(file).get("curve") for file in files}
    results["curves"] = {name: curve for name, curve in curves.items() if curve}
    return {
        "results": results | ({"start": start} if start else {}) | precision_of(run.spec.train.precision, run.device)
    }
