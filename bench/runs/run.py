"""Open a run: the only place where a stored run, its data and its parent become one value (`bench/training/run.py`)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from bench.core.errors import NotAtHand, UserError
from bench.core.files import sha256
from bench.core.names import is_part
from bench.core.spec import RunSpec
from bench.core.store import Store
from bench.data import load
from bench.data.dataset import Dataset
from bench.data.group import ALONE, Group
from bench.methods import Run, method_of
from bench.models import PRESETS
from bench.points import OperatingPoint
from bench.training.run import Progress, silent


def open_run(
    store: Store,
    run: RunSpec | str,
    data_root: str | Path | None,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    checkpoint_s: float = Run.checkpoint_s,
    finished: bool = True,
    group: Group = ALONE,
) -> Run:
    """A run of a store as one value; its data are read when they are first asked for.

    Whatever a finished run left is compared with the digests in its train.json before anything of it is read: the run's
    own checkpoints where it is `finished`, and its parent's where it needs them, to start from or to work on.

    Args:
        run: its spec, or its run_id. finished: its training is complete; False to train it. group: the processes that
            work on it together.

    Raises:
        UserError: there is no such run, it or its parent is not trained, or a checkpoint is missing or another one.
    """
    spec = store.read_spec(run) if isinstance(run, str) else run
    method = method_of(spec.method)
    if finished:
        _check_checkpoints(store, spec.run_id)
    parent = None
    if spec.init_from is not None and (method.needs_parent or not finished):
        parent = open_run(store, spec.init_from, data_root, device)
    root = None if data_root is None else Path(data_root)
    return Run(
        spec=spec,
        options=method.options(spec),
        folder=store.path(spec.run_id),
        open_data=cache(lambda: parent.data if parent and _sees_the_same(parent.spec, spec) else _data(spec, root)),
        device=torch.device(device),
        parent=parent,
        progress=progress,
        checkpoint_s=checkpoint_s,
        weights=store.weights,
        group=group,
    )


def _sees_the_same(spec: RunSpec, other: RunSpec) -> bool:
    return (spec.data, spec.model) == (other.data, other.model)


def _data(spec: RunSpec, root: Path | None) -> Dataset:
    return load(spec.data, root, PRESETS.get(spec.model).input)


def points_of(run: Run) -> list[OperatingPoint]:
    """The operating points of a trained run. Raises `UserError` where there are none, or two of one name."""
    method = method_of(run.spec.method)
    points = method.points(run)
    names = [point.name for point in points]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated or not names:
        raise UserError(f"{method.name} yielded {'no points' if not names else f'two points named {min(repeated)}'}")
    for name in names:
        if not is_part(name):
            raise UserError(f"{method.name} yielded a point named {name!r}, not of letters, digits and _.,:@=+-")
    return points


def _check_checkpoints(store: Store, run_id: str) -> None:
    if not store.has(run_id, "train"):
        raise UserError(f"{run_id} has not been trained yet in {store.root}; run its recipe first")
    for name, digest in store.read(run_id, "train")["results"].get("checkpoints", {}).items():
        if not is_part(name):
            raise UserError(f"{name!r}, which the train.json of {run_id} names, cannot be the name of a checkpoint")
        file = store.path(run_id) / "checkpoints" / f"{name}.safetensors"
        if not file.exists():
            raise NotAtHand(
                f"the checkpoint {file} that {run_id} left is missing; remove the run's folder to train it again"
            )
        if sha256(file) != digest:
            raise UserError(f"the checkpoint {file} is not the one that {run_id} left")
