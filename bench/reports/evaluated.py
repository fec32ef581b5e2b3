"""Whether the numbers of an evaluation follow from what every point did with each image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from bench.core.files import sha256
from bench.core.metrics import paired_metric
from bench.core.record import Record
from bench.reports.inspection import CLOSE, PER_IMAGE, Inspection
from bench.statistics.per_image import unpack


def check_owner(run: Inspection, file: Path, name: str) -> dict[str, Any]:
    """The metadata of a safetensors file, which must name this run."""
    try:
        with safe_open(file, framework="np") as opened:
            about = json.loads((opened.metadata() or {}).get("slicebench", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        run.wrong(name, "content", str(error), "readable")
        return {}
    if run.whole or about:
        run.equal(name, "run_id", about.get("run_id"), run.run_id)
    return about


def check_evaluation(run: Inspection) -> None:
    """Every number of every point follows from what it did with each image."""
    if "eval" not in run.bodies:
        return
    body = run.bodies["eval"]
    results = body["results"]
    per_image = results["per_image"]
    file = run.folder / PER_IMAGE
    if per_image["file"] != PER_IMAGE:
        run.wrong("eval.json", "per_image.file", per_image["file"], PER_IMAGE)
        return
    if not file.exists():
        if not run.whole:
            run.wrong(PER_IMAGE, "file", "not there", "the scores that the evaluation names")
        run.findings.missing.append("the scores of each image: nothing can be recomputed from them")
        return
    run.equal("eval.json", "per_image.sha256", per_image["sha256"], sha256(file))
    about = check_owner(run, file, PER_IMAGE)
    if run.whole or about:
        run.equal(PER_IMAGE, "split", about.get("split"), results.get("split"))
        for split, digest in results.get("digests", {}).items():
            if split == "test":
                run.equal(PER_IMAGE, "digest of the split", about.get("digest"), digest)
    with safe_open(file, framework="np") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a mapping)
    run.fingerprints["scores"] = hashlib.sha256(
        b"".join(tensors[key].tobytes() for key in sorted(tensors) if key.endswith(("/score", "/route")))
    ).hexdigest()
    records: dict[str, dict[str, Record]] = {}
    for record in body["records"]:
        if "split" in results or run.whole:
            run.equal("eval.json", f"split of {record.metric} of {record.point}", record.split, results.get("split"))
        records.setdefault(record.point, {})[record.metric] = record
    run.equal("eval.json", "points with records", sorted(records), sorted(results["points"]))
    for name, said in results["points"].items():
        _check_point(run, name, said, records.get(name, {}), tensors)


def _check_point(
    run: Inspection, name: str, said: Mapping[str, Any], records: Mapping[str, Record], tensors: Mapping[str, Any]
) -> None:
    here: Callable[[str], str] = lambda what: f"{what} of {name}"
    headline, paired = said["headline"], paired_metric(said["headline"])
    lacking = {headline, paired, "madds", "params_stored", "params_active"} - set(records)
    if lacking:
        run.wrong("eval.json", here("records"), f"without {min(lacking)}", "complete")
        return
    scores = unpack(name, tensors)
    n = len(scores.score)
    shapes = [list(part.shape) for part in scores]
    if shapes[:2] != [[n], [n]] or shapes[2][:1] != [n] or len(shapes[2]) != 2 or n == 0:
        run.wrong(PER_IMAGE, here("shapes"), shapes, "a score, a cost and a route of each image")
        return
    if not (np.isfinite(scores.score).all() and scores.score.min() >= 0 and scores.score.max() <= 1):
        run.wrong("per_image.safetensors", here("score"), "outside", "between 0 and 1")
    for metric, record in records.items():
        run.equal("eval.json", here(f"n of {metric}"), record.n, n)
    mean = float(scores.score.mean(dtype=np.float64))
    run.equal("eval.json", here(paired), records[paired].value, mean)
    if "correct" in (details := records[headline].details):
        run.equal("eval.json", here("correct"), details["correct"], int(scores.score.sum(dtype=np.float64)))
    madds, costs = records["madds"], np.sort(scores.madds)
    run.equal("eval.json", here("madds"), madds.value, float(scores.madds.mean()))
    computed = {"min": costs[0], "max": costs[-1]} | {f"p{q}": costs[min(n - 1, n * q // 100)] for q in (10, 50, 90)}
    for key, value in computed.items():
        if key in madds.details:
            run.equal("eval.json", here(f"madds {key}"), madds.details[key], int(value))
    if (front := said.get("front_madds")) is not None and front > costs[0]:
        run.wrong("eval.json", here("front_madds"), front, f"at most {costs[0]}, which an image was done with")
    if f"{name}/params" in tensors:
        params = tensors[f"{name}/params"][tensors[f"{name}/route"]]
        run.equal("eval.json", here("params_active"), records["params_active"].value, float(params.mean()))
    if records["params_active"].value > records["params_stored"].value * (1 + CLOSE):
        run.wrong("eval.json", here("params_active"), records["params_active"].value, "at most what is stored")
    if "madds_theoretical" in records and records["madds_theoretical"].value > madds.value * (1 + CLOSE):
        run.wrong("eval.json", here("madds_theoretical"), records["madds_theoretical"].value, "at most the madds")
    _check_routes(run, name, said, scores)


def _check_routes(run: Inspection, name: str, said: Mapping[str, Any], scores: Any) -> None:
    """The histogram, the routing space and the proof against the routes that images took."""
    routes, first, counts = np.unique(scores.route, axis=0, return_index=True, return_counts=True)
    spelled = ["-".join(map(str, route)) for route in routes.tolist()]
    gates = scores.route.shape[1]
    run.equal("eval.json", f"kind of {name}", said["kind"] == "dynamic", gates > 0)
    expected = dict(zip(spelled, counts.tolist(), strict=True)) if gates else {}
    run.equal("eval.json", f"routing of {name}", said["routing"], expected)
    if said["routing_space"] is not None and gates:
        space = [set(options) for options in said["routing_space"]]
        outside = [
            route
            for route in routes.tolist()
            if any(o not in s for o, s in zip(route, space, strict=len(space) == gates))
        ]
        if outside or len(space) != gates:
            run.wrong("eval.json", f"routing_space of {name}", said["routing_space"], f"one that holds {outside[:1]}")
    if not run.whole:
        return
    proof = said.get("executed_proof")
    if not isinstance(proof, Mapping) or not proof.get("networks"):
        run.wrong("eval.json", f"executed_proof of {name}", proof, "what was counted")
        return
    if gates:
        run.equal("eval.json", f"images that the proof of {name} ran", proof.get("images"), len(scores.score))
    claims = dict(zip(spelled if gates else ["static"], scores.madds[first].tolist(), strict=True))
    for route, counted in proof["networks"].items():
        if route in claims:
            run.equal("eval.json", f"multiply-adds of route {route} of {name}", claims[route], counted)
    uncounted = sorted(set(claims) - set(proof["networks"]))
    if len(uncounted) > proof.get("uncounted_routes", 0):
        run.wrong("eval.json", f"executed_proof of {name}", f"without route {uncounted[0]}", "of every route")
    if not proof.get("forms"):
        run.wrong("eval.json", f"forms that the proof of {name} ran", proof.get("forms"), "at least one")
