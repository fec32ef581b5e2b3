"""The eval phase: the test split is judged once, by the final points, and what was measured becomes records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.numpy import save

from bench.core.files import sha256, write_atomic
from bench.core.record import METRICS, Record
from bench.core.spec import RunSpec
from bench.data.dataset import Split
from bench.evaluation.accuracy import Evaluation, evaluate
from bench.evaluation.measures import Measure, backbone_measures, measures_of
from bench.evaluation.proof import prove
from bench.points import OperatingPoint
from bench.training.run import Run

PER_IMAGE = "per_image.safetensors"


def evaluated(run: Run, points: list[OperatingPoint], split: Split) -> dict[str, Any]:
    """The test split judges the final points, once."""
    spec, data, task = run.spec, run.data, run.task
    records, results, arrays = [], {}, {}
    for done, point in enumerate(points):
        run.progress("eval", done, len(points))
        proof = prove(point, split, run.device)
        scores = evaluate(point, split, task, run.device)
        measures = measures_of(task, scores, data.classes)
        measures += backbone_measures(point, scores.route, next(split.batches(1, device=run.device)).x)
        results[point.name] = _summary(point, scores, measures[0], proof)
        records += _accuracy_records(spec, data.id, split.id, point, scores, measures, proof)
        arrays |= scores.tensors(point.name)
    file = run.folder / PER_IMAGE
    about = {"run_id": spec.run_id, "split": split.id, "digest": split.digest}
    write_atomic(file, save(arrays, {"slicebench": json.dumps(about, sort_keys=True)}))
    per_image = {"file": PER_IMAGE, "sha256": sha256(file)}
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
