"""Runs of several processes that torchrun started: rank 0 goes through the plan, and the others do what it does.

torchrun --nproc-per-node=4 -m bench run RECIPE --set train.workers=4 --executor serial
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.data.group import ALONE, Group, Lost, backend, current
from bench.runs.phases import run_phase

PATIENCE = timedelta(days=7)
"""How long a process waits for another, which may be measuring latencies meanwhile."""


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """This process in the group that torchrun started; alone where it did not."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield ALONE
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(backend(device), timeout=PATIENCE)
    try:
        yield current()
    finally:
        current().leave()


def check_workers(specs: Sequence[RunSpec], group: Group) -> None:
    """Raise `UserError` for a run that asks for another number of processes than there are."""
    for spec in specs:
        if spec.train.workers not in (1, group.size):
            raise UserError(
                f"{spec.run_id} asks for {spec.train.workers} processes (train.workers), and there are {group.size}: "
                f"use --executor ray, or torchrun --nproc-per-node={spec.train.workers} with --executor serial"
            )


@contextmanager
def leading(group: Group) -> Iterator[Callable[[RunSpec, str, Path, Path | None], None]]:
    """For rank 0: how to do a phase, together with those who `follow`. They go home at the end."""

    def run(spec: RunSpec, phase: str, store_root: Path, data_root: Path | None) -> None:
        if group.size > 1 and not distributed.is_initialized():
            raise UserError("the group of processes ended with the run before; run the same command again")
        with _ending():
            group.same(lambda: (spec, phase, store_root, data_root))
            run_phase(spec, phase, store_root, data_root)

    yield run
    if group.size > 1 and distributed.is_initialized():
        group.same(lambda: None)


def follow(group: Group) -> None:
    """For all other ranks: do what rank 0 does, until it is done or a run has failed."""
    while distributed.is_initialized():
        with _ending(), suppress(UserError):  # rank 0 says what is wrong
            work: Any = group.same(lambda: None)
            if work is None:
                return
            spec, phase, store_root, data_root = work
            if spec.processes(phase) > 1:
                run_phase(spec, phase, store_root, data_root)


@contextmanager
def _ending() -> Iterator[None]:
    """End this process, which torchrun may start again with all others, where another one was lost."""
    try:
        yield
    except Lost as lost:
        raise SystemExit(f"slicebench: {lost}; the same command goes on where it was") from lost
