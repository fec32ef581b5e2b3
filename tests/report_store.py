"""A small store of made-up runs for the report tests: written through the real Store, scored by a simple rule.

An image is as hard as its number says; a network solves the images that are not too hard for its width, give or take.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from bench.core.metrics import METRICS
from bench.core.record import Record
from bench.core.spec import DataSpec, RunSpec
from bench.core.store import Store
from bench.statistics.per_image import pack

IMAGES = 300
SPLIT = "digits/official@1:test"
"""That of `spec_of`."""
WIDTHS = {"uniform0": 100_000, "uniform1": 180_000, "uniform2": 290_000, "uniform3": 430_000}
"""Point -> MAdds of the four fixed networks of every made-up method."""
STORED = 7_676_204
"""Parameters."""
DYNAMIC = "dynamic0-1-2-3"
ROLES: dict[str, str | None] = {"random_gate": "random", "fixed_choice": "fixed"}
QUALITY = {"uniform": 0.01, "us_net": -0.01, "fixed_choice": 0.0}


def spec_of(method: str, seed: int, parent: RunSpec | None = None, **options) -> RunSpec:
    init_from = parent.run_id if parent else None
    data = DataSpec("digits")
    return RunSpec(method, "ds_mobilenet_v1_micro", data, options=options, seed=seed, init_from=init_from)


def solved(name: str, seed: int, level: float) -> np.ndarray:
    """(IMAGES,) 0/1 scores: the share `level` of the images, the easiest ones, with some luck."""
    key = int.from_bytes(hashlib.sha256(f"{name}/{seed}".encode()).digest()[:4], "big")
    luck = np.random.default_rng(key).normal(0, 0.03, IMAGES)
    return (np.linspace(0, 1, IMAGES) + luck < level).astype(np.float32)


def level_of(madds: int, quality: float) -> float:
    return 0.70 + 0.15 * np.log10(madds / 100_000) + quality


def static_point(method: str, name: str, seed: int) -> dict:
    madds = WIDTHS[name]
    score = solved(f"{method}/{name}", seed, level_of(madds, QUALITY[method]))
    return {"score": score, "madds": np.full(IMAGES, madds), "route": np.empty((IMAGES, 0), np.int64), "kind": "static"}


def dynamic_point(seed: int, clever: bool, options: Sequence[int] = (0, 1, 2, 3)) -> dict:
    """Routes to some of the four widths: by how hard an image is, or by nothing at all in the same proportions."""
    place = np.minimum(np.arange(IMAGES) * (len(options) + 1) // IMAGES, len(options) - 1)
    route = np.array(options)[place]
    if not clever:
        route = np.random.default_rng(seed).permutation(route)
    scores = np.stack([static_point("fixed_choice", name, seed)["score"] for name in WIDTHS])
    madds = np.array(list(WIDTHS.values()))[route] + 264
    score = scores[route, np.arange(IMAGES)]
    return {"score": score, "madds": madds, "route": route[:, None], "kind": "dynamic", "options": list(options)}


def points_of(method: str, seed: int) -> dict[str, dict]:
    if method in ("ds_net", "random_gate"):
        return {DYNAMIC: dynamic_point(seed, clever=method == "ds_net")}
    return {name: static_point(method, name, seed) for name in WIDTHS}


def write_eval(store: Store, spec: RunSpec, points: Mapping[str, dict]) -> None:
    """The eval phase of a run, as the suite writes it."""
    arrays = {}
    for name, p in points.items():
        arrays |= pack(name, p["score"], p["madds"], p["route"], p["madds"] // 10)
    per_image = write_arrays(store, spec, arrays)
    results = {"points": {name: described(spec, name, p) for name, p in points.items()}, "per_image": per_image}
    write_phases(store, spec, records_of(spec, points), results)


def described(spec: RunSpec, name: str, point: dict) -> dict:
    is_control, role = spec.method in ROLES, ROLES.get(spec.method)
    is_static = point["kind"] == "static"
    return {
        "kind": point["kind"],
        "method_kind": "control" if is_control else "dynamic" if spec.method == "ds_net" else "static",
        "control": {"of": spec.init_from, "role": role} if is_control else None,
        "routing_space": None if is_static else [point.get("options", [0, 1, 2, 3])],
        "route": [list(WIDTHS).index(name)] if spec.method == "fixed_choice" else None,
        "headline": "top1",
        "routing": histogram_of(point),
        "executed_proof": {},
    } | {key: point[key] for key in ("tier", "reported", "front_madds") if key in point}


def histogram_of(point: dict) -> dict[str, int]:
    if point["kind"] == "static":
        return {}
    routes, counts = np.unique(point["route"], axis=0, return_counts=True)
    return {"-".join(map(str, r)): int(c) for r, c in zip(routes.tolist(), counts, strict=True)}


def write_old_eval(store: Store, spec: RunSpec, points: Mapping[str, dict]) -> None:
    """The eval phase of a run, as it was written before results and records were told apart."""
    parts = ("score", "madds", "route")
    arrays = {f"{name}/{part}": np.ascontiguousarray(p[part]) for name, p in points.items() for part in parts}
    per_image = write_arrays(store, spec, arrays)
    results = {"points": {name: old_summary(p) for name, p in points.items()}, "per_image": per_image}
    bare = [replace(r, details={}) if r.metric == "madds" else r for r in records_of(spec, points)]
    write_phases(store, spec, bare, results)


def records_of(spec: RunSpec, points: Mapping[str, dict]) -> list[Record]:
    records = []
    for name, p in points.items():
        n, madds, correct = len(p["score"]), p["madds"], int(p["score"].sum())
        records += [
            record_of(spec, name, "top1", correct / n, n, correct=correct),
            record_of(spec, name, "madds", float(madds.mean()), n, min=int(madds.min()), max=int(madds.max())),
            record_of(spec, name, "params_stored", STORED, n),
            record_of(spec, name, "params_active", float((madds // 10).mean()), n),
        ]
    return records


def old_summary(point: dict) -> dict:
    return {
        "kind": point["kind"],
        "top1": {"correct": int(point["score"].sum()), "n": len(point["score"])},
        "madds_mean": float(point["madds"].mean()),
        "madds_min": int(point["madds"].min()),
        "madds_max": int(point["madds"].max()),
        "params_stored": STORED,
        "params_active_mean": float((point["madds"] // 10).mean()),
        "routing": histogram_of(point),
    }


def write_arrays(store: Store, spec: RunSpec, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The per-image file; what the evaluation says of it."""
    content = save(dict(arrays))
    (store.open_run(spec) / "per_image.safetensors").write_bytes(content)
    return {"file": "per_image.safetensors", "sha256": hashlib.sha256(content).hexdigest()}


def write_phases(store: Store, spec: RunSpec, records: list[Record], results: dict) -> None:
    store.write(spec.run_id, "train", {"records": [], "results": {"epochs": spec.train.epochs}})
    store.write(spec.run_id, "eval", {"records": records, "results": results, "environment": {"load": 1.5}})


def record_of(
    spec: RunSpec, point: str, metric: str, value: float, n: int, form: str | None = None, **details
) -> Record:
    split = f"{spec.data.name}/{spec.data.protocol}@1:test"
    where = (spec.run_id, spec.method, spec.model, spec.data.name, split, point, spec.seed)
    return Record(*where, metric, value, METRICS[metric].unit, n, form, details)


def write_profile(store: Store, spec: RunSpec, points: Mapping[str, dict], slow: float = 1.0) -> None:
    """The profile phase: latency in proportion to the MAdds."""
    records = []
    for (name, point), batch, (form, factor) in product(points.items(), (1, 64), (("view", 1.1), ("extracted", 1.0))):
        madds = float(point["madds"].mean())
        ms = slow * factor * (0.2 + batch**0.8 * madds / 1e6)
        how = {"iqr_ms": ms / 20, "p90_ms": 1.1 * ms, "p99_ms": 1.3 * ms, "ratio_to_full": {"median": madds / 430_000}}
        how |= {"batch": batch, "threads": 1, "device": "cpu", "busy": batch == 64}
        records.append(record_of(spec, name, "latency_ms", ms, 15, form, **how))
    store.write(spec.run_id, "profile", {"records": records, "results": {}})


def make_store(root: Path, seeds: int = 3, profile: bool = True) -> Store:
    """Every first method on `seeds` seeds, complete."""
    store = Store(root)
    for seed in range(seeds):
        parent = spec_of("ds_net", seed)
        specs = [parent, spec_of("uniform", seed), spec_of("us_net", seed)]
        specs += [spec_of("random_gate", seed, parent), spec_of("fixed_choice", seed, parent)]
        for spec in specs:
            points = points_of(spec.method, seed)
            write_eval(store, spec, points)
            if profile:
                write_profile(store, spec, points)
    return store
