"""Whether a run's numbers come out again: its points read back from their checkpoints and executed on today's data."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from bench.core.errors import UserError
from bench.core.provenance import environment
from bench.core.store import PHASES, Store
from bench.data.dataset import Split
from bench.evaluation.accuracy import BATCH, Evaluation, evaluate
from bench.evaluation.proof import prove
from bench.methods import Run
from bench.points import OperatingPoint
from bench.runs.evaluate import PER_IMAGE
from bench.runs.phases import Images, run_phase
from bench.runs.run import open_run, points_of
from bench.statistics.per_image import unpack
from bench.training.run import Progress, silent

MARGIN = 1e-4
"""Two best logits closer than this may change places on another type of machine; such images are listed."""
FORMS_AGREE = 1e-3
"""Relative difference of the outputs of two forms of a point, of the largest output."""


def reexecute(
    store: Store, run_id: str, data_root: Path | None, progress: Progress = silent
) -> tuple[list[tuple[str, Any, Any]], list[str]]:
    """Run every point of an evaluated run again.

    Returns the differences, as (what, what the record says, what came out), and notes: images that were decided by a
    margin below `MARGIN` and came out otherwise.

    Raises:
        NotAtHand: a checkpoint, its parent's, or the data are not at hand.
        UserError: a checkpoint or the data are others than the run's.
    """
    spec = store.read_spec(run_id)
    body = store.read(run_id, "eval")
    run = open_run(store, run_id, data_root)
    split = run.data.open_test()
    points = [point.on(Images(split, run.device)) for point in points_of(run)]
    if split.digest != body["results"].get("digests", {}).get(split.name, split.digest):
        raise UserError(f"{run_id} was judged on other data than the data directory holds")
    same_machine = _machine(environment()) == _machine(body["environment"])
    tensors = load_file(store.path(run_id) / PER_IMAGE)
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.threads)
    differences: list[tuple[str, Any, Any]] = []
    notes: list[str] = []
    try:
        if [point.name for point in points] != list(body["results"]["points"]):
            differences.append(("points", list(body["results"]["points"]), [point.name for point in points]))
            return differences, notes
        for done, point in enumerate(points):
            progress(f"verify {run_id}", done, len(points))
            scores = evaluate(point, split, run.task, run.device)
            differences += _compare(run, point, split, unpack(point.name, tensors), scores, same_machine, notes)
            differences += _own_agreement(point, split, scores)
            try:
                prove(point, split, run.device)
            except UserError as error:
                differences.append((f"executed proof of {point.name}", "holds", str(error)))
    finally:
        torch.set_num_threads(threads)
    return differences, notes


def _machine(about: dict[str, Any]) -> tuple[Any, ...]:
    return about.get("cpu"), about.get("platform"), (about.get("versions") or {}).get("torch")


def _compare(
    run: Run, point: OperatingPoint, split: Split, said: Any, came_out: Evaluation, same_machine: bool, notes: list[str]
) -> list[tuple[str, Any, Any]]:
    """Scores, routes and costs of each image against the per-image file."""
    if len(said.score) != len(came_out.score):
        return [(f"images of {point.name}", len(said.score), len(came_out.score))]
    other = (said.score != came_out.score.astype(np.float32)) | (said.route != came_out.route).any(axis=1)
    excused = np.zeros_like(other)
    if other.any() and not same_machine:
        excused = other & (_margins(point, split, run.device) < MARGIN)
        if excused.any():
            rows = ", ".join(map(str, np.flatnonzero(excused)[:10]))
            notes.append(f"{point.name}: {int(excused.sum())} images flipped by a margin below {MARGIN:g}: {rows}")
    differences = []
    rows = np.flatnonzero(other & ~excused)
    if len(rows):
        row = int(rows[0])
        was, now = ((float(s), r.tolist()) for s, r in ((said.score[row], said.route[row]),
                                                        (came_out.score[row], came_out.route[row])))  # fmt: skip
        differences.append(
            (f"score and route of {len(rows)} images of {point.name}, the first of them {row}", was, now)
        )
    same = (said.route == came_out.route).all(axis=1)
    wrong = np.flatnonzero(same & (said.madds != came_out.madds))
    if len(wrong):
        row = int(wrong[0])
        differences.append(
            (f"multiply-adds of image {row} of {point.name}", int(said.madds[row]), int(came_out.madds[row]))
        )
    return differences


@torch.no_grad()
def _margins(point: OperatingPoint, split: Split, device: torch.device) -> np.ndarray:
    """(n,): by how much the highest logit of each image is above the next one."""
    margins = []
    for batch in split.batches(BATCH, device=device):
        best = point(batch.x).output.flatten(1).topk(2, dim=1).values
        margins.append((best[:, 0] - best[:, 1]).cpu())
    return torch.cat(margins).numpy()


@torch.no_grad()
def _own_agreement(point: OperatingPoint, split: Split, scores: Evaluation) -> list[tuple[str, Any, Any]]:
    """Routing does not follow torch's seed, and all forms of a point give the same outputs."""
    x: Tensor = next(split.batches(BATCH)).x
    differences = []
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        route = point(x).route.cpu().numpy()
    if (route != scores.route[: len(x)]).any():
        differences.append((f"routing of {point.name} under another seed", "the same", "another"))
    outputs = {form: module(x) for form, module in point.executables().items()}
    first = next(iter(outputs.values()))
    for form, output in outputs.items():
        largest = float((output - first).abs().max() / first.abs().max().clamp_min(1e-12))
        if largest > FORMS_AGREE:
            differences.append((f"outputs of form {form} of {point.name}", "those of the other forms", largest))
    return differences


def rerun(store: Store, run_id: str, data_root: Path | None, progress: Progress = silent) -> list[tuple[str, Any, Any]]:
    """Train and evaluate a run once more, in a folder of its own, and compare the digest of its evaluation.

    Runs that it starts from are taken as they are. Raises UserError as training does.
    """
    spec = store.read_spec(run_id)
    with tempfile.TemporaryDirectory() as folder:
        again = Store(folder)
        if store.weights.is_dir():
            shutil.copytree(store.weights, again.weights)
        parent = spec.init_from
        while parent is not None:
            shutil.copytree(store.path(parent), again.path(parent))
            parent = store.read_spec(parent).init_from
        for phase in PHASES[:2]:
            run_phase(replace(spec), phase, folder, data_root, progress)
        was, now = (each.read(run_id, "eval")["digest"] for each in (store, again))
    return [] if was == now else [("digest of the evaluation after training again", was, now)]
