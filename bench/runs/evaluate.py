"""The eval phase: the test split is judged once, by the final points. Records hold every number that was measured;
results hold what is no number: what each point is, where it sent the images, and the proof of its cost."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from safetensors.numpy import save

from bench.core.files import write_atomic
from bench.core.metrics import METRICS, Measured, metrics_of
from bench.core.record import Record
from bench.core.spec import RunSpec
from bench.data.dataset import Dataset, Split
from bench.evaluation.accuracy import Evaluation, evaluate
from bench.evaluation.backbone import backbone_madds
from bench.evaluation.proof import prove
from bench.methods import method_of
from bench.models import PRESETS
from bench.models.preset import ALONE
from bench.models.weights import is_official
from bench.points import OperatingPoint
from bench.statistics.per_image import pack
from bench.tasks.task import Task
from bench.training.run import Run

PER_IMAGE = "per_image.safetensors"
AUTHORS = "authors' weights, evaluated here"
"""The tier of points whose weights their authors trained and published: a row of theirs is no result of a training
here."""


def evaluated(run: Run, points: list[OperatingPoint], split: Split) -> dict[str, Any]:
    """The test split judges the final points, once."""
    spec, data, task = run.spec, run.data, run.task
    records, results, arrays = [], {}, {}
    for done, point in enumerate(points):
        run.progress("eval", done, len(points))
        proof = prove(point, split, run.device, run.group)
        scores = evaluate(point, split, task, run.device, run.group)
        image = next(split.batches(1, device=run.device)).x
        measured = _judged(data, scores) | _costs(point, scores, backbone_madds(point, scores.route, image), proof)
        names = (spec.run_id, spec.method, spec.model, data.id, split.id, point.name, spec.seed)
        records += [
            Record(*names, metric, each.value, METRICS[metric].unit, len(scores.score), details=each.details)
            for metric, each in measured.items()
        ]
        results[point.name] = _described(spec, point, task) | {"routing": scores.routing(), "executed_proof": proof}
        arrays |= pack(point.name, scores.score, scores.madds, scores.route, scores.params)
    file = run.folder / PER_IMAGE
    about = {"run_id": spec.run_id, "split": split.id, "digest": split.digest}
    content = save(arrays, {"slicebench": json.dumps(about, sort_keys=True)})
    if run.group.rank == 0:
        write_atomic(file, content)
    per_image = {"file": PER_IMAGE, "sha256": hashlib.sha256(content).hexdigest()}
    about = {"split": split.id, "digests": {split.name: split.digest}, "per_image": per_image}
    return {"records": records, "results": {"points": results, **about}}


def _described(spec: RunSpec, point: OperatingPoint, task: Task) -> dict[str, Any]:
    """What a point is, as values for those who read its records: see `bench.reports.runs.EvaluatedPoint`."""
    method = method_of(spec.method)
    published = is_official(spec.weights) or (spec.weights is not None and PRESETS.get(spec.model).trains_as == ALONE)
    are_authors = method.as_given and published and spec.train.epochs == 0
    return ({"tier": AUTHORS, "reported": point.reported} if are_authors else {}) | {
        "kind": point.kind,
        "method_kind": method.kind,
        "control": {"of": spec.init_from, "role": method.role} if method.kind == "control" else None,
        "routing_space": None if point.routing_space is None else [list(options) for options in point.routing_space],
        "route": None if point.route is None else list(point.route),
        "front_madds": point.front_madds,
        "decides": point.decides,
        "headline": task.headline,
    }


def _judged(data: Dataset, scores: Evaluation) -> dict[str, Measured]:
    """The metrics of the data's task, by name."""
    measured = {m.name: m.measure(scores.score, scores.details, data.classes) for m in metrics_of(data.task)}
    return {name: each for name, each in measured.items() if each is not None}


def _costs(
    point: OperatingPoint, scores: Evaluation, backbone: float | None, proof: dict[str, Any]
) -> dict[str, Measured]:
    """What an image costs, by metric: means over the images, with the extremes and the quantiles of the MAdds."""
    n, madds = len(scores.madds), sorted(scores.madds.tolist())
    spread = {"min": madds[0], "max": madds[-1]} | {f"p{q}": madds[min(n - 1, n * q // 100)] for q in (10, 50, 90)}
    costs = {
        "madds": Measured(float(scores.madds.mean()), {"counters": proof["counters"], **spread}),
        "params_stored": Measured(point.params_stored),
        "params_active": Measured(float(scores.params.mean())),
    }
    theoretical = point.madds_theoretical(torch.from_numpy(scores.route))
    if theoretical is not None:
        costs["madds_theoretical"] = Measured(float(theoretical.double().mean()))
    if backbone is not None:
        costs["madds_backbone"] = Measured(backbone)
    return costs
