"""What the page of one test split shows, as JSON values: its rows, the runs behind each, and the reported points."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.core.metrics import METRICS
from bench.core.spec import DataSpec, RunSpec
from bench.reports.differences import read_scores
from bench.reports.facts import Facts, TestImages
from bench.reports.reported import ReportedRow
from bench.reports.rows import as_json, groups_of, rows_of
from bench.reports.runs import Run, chosen_settings
from bench.reports.site.gates import gates_of
from bench.reports.site.tiers import Tiers
from bench.reports.style import slug

FIELDS = {
    "method": "method", "model": "model", "variant": "variant", "label": "label", "name": "point", "kind": "kind",
    "control": "control", "rank": "rank", "tied": "tied", "score": "score_mean", "low": "score_low",
    "high": "score_high", "std": "score_std", "seeds": "seeds", "madds": "madds_mean", "madds_min": "madds_min",
    "madds_max": "madds_max", "stored": "params_stored", "active": "params_active", "smallest": "smallest",
    "unbeaten": "unbeaten", "budget_rank": "rank_in_budget", "config": "config_id",
}  # fmt: skip
"""Field of a row on the page -> column of the leaderboard's frame."""
MOST_PAIRS = 20_000
"""Pairs of rows that are surely told apart; a page names no more, and says ties by ranks alone then."""
MOST_CLASSES, MOST_ROWS_BY_CLASS = 200, 300


class Store(NamedTuple):
    """All that was read of a results directory. board, controls, gates, latency: the frames of these tables."""

    root: Path
    runs: Sequence[Run]
    board: pd.DataFrame
    controls: pd.DataFrame
    gates: pd.DataFrame
    latency: pd.DataFrame
    quoted: Sequence[ReportedRow]


class Board(NamedTuple):
    """One page: a split, its dataset, the file's name, and `data` for the script."""

    split: str
    dataset: str
    name: str
    data: dict[str, Any]


def boards(store: Store, facts: Facts, out: Path) -> list[Board]:
    """A page for each split that something was judged on. out: the site's folder, for links to the runs' files."""
    tiers = Tiers(store.root, facts.is_suites)
    pages = []
    for (split,), group in groups_of(store.board, "split") if not store.board.empty else ():
        runs = [run for run in store.runs if any(point.score.split == split for point in run.points.values())]
        dataset = rows_of(group)[0]["dataset"]
        pages.append(
            Board(str(split), dataset, slug(str(split)), _data(str(split), group, runs, store, facts, tiers, out))
        )
    return pages


def _data(
    split: str, group: pd.DataFrame, runs: Sequence[Run], store: Store, facts: Facts, tiers: Tiers, out: Path
) -> dict[str, Any]:
    rows, by_config, with_curves = rows_of(group), _by_config(runs), len(runs) <= MOST_CURVES
    latencies, settings = _latencies(store.latency)
    images = _test_images(runs, facts)
    classes = _by_class(rows, by_config, images)
    lines = []
    for number, row in enumerate(rows):
        key = (row["config_id"], row["point"])
        behind = [run for run in by_config[row["config_id"]] if row["point"] in run.points]
        line = {field: as_json(row[column]) for field, column in FIELDS.items()}
        line |= {"family": facts.families.get(row["model"], "other"), "tiers": tiers.of(behind)}
        line |= {"latency": latencies.get(key, {}), "routing": {k: round(v, 4) for k, v in row["routing"].items()}}
        line |= {"fixed": any(run.control and run.control.role == "fixed" for run in behind)}
        line |= {"proof": _proof(behind, row["point"]), "classes": classes[number] if classes else None}
        lines.append(line)
    metric, first = METRICS[rows[0]["metric"]], rows[0]
    worse = [row["worse"] or [] for row in rows] if "worse" in group else []
    return {
        "split": split,
        "images": int(first["images"]),
        "metric": {"title": metric.title, "axis": metric.axis},
        "columns": list(lines[0]),
        "rows": [list(line.values()) for line in lines],
        "worse": worse if sum(map(len, worse)) <= MOST_PAIRS else [],
        "settings": settings,
        "classes": list(images.classes) if isinstance(images, TestImages) and classes else [],
        "not_by_class": "" if classes else _why_no_classes(images),
        "configs": {config: _config(behind, out, facts, with_curves) for config, behind in by_config.items()},
        "environments": _environments(runs),
        "reported": [_quoted(row) for row in store.quoted if row.dataset == runs[0].spec.data.name],
        "gates": gates_of(split, rows, by_config, store.controls, store.gates, images),
    }


def _by_config(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.spec.seed):
        groups.setdefault(run.config_id, []).append(run)
    return groups


def _latencies(frame: pd.DataFrame) -> tuple[dict[tuple[str, str], dict[int, float]], list[dict[str, Any]]]:
    """Median milliseconds by (config, point) and number of the setting, and the settings."""
    if frame.empty:
        return {}, []
    names = ("device", "form", "batch", "threads")
    keys = sorted({tuple(row[name] for name in names) for row in rows_of(frame)}, key=lambda key: (key[0], key[2], key))
    places = {key: number for number, key in enumerate(keys)}
    times: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows_of(frame):
        place = places[tuple(row[name] for name in names)]
        times.setdefault((row["config_id"], row["point"]), {})[place] = float(f"{row['median_ms']:.6g}")
    busy = {places[tuple(row[name] for name in names)] for row in rows_of(frame) if row["busy"]}
    settings = [dict(zip(names, key, strict=True)) | {"busy": places[key] in busy} for key in keys]
    return times, settings


def _proof(runs: Sequence[Run], point: str) -> dict[str, int] | None:
    """What the executed proof of a point ran, over its seeds."""
    proofs = [run.bodies["eval"]["results"]["points"][point].get("executed_proof") or {} for run in runs]
    if not all(proofs):
        return None
    parts = ("images", "groups", "alone")
    return {part: sum(int(proof.get(part) or 0) for proof in proofs) for part in parts} | {
        "networks": len({(route, madds) for proof in proofs for route, madds in proof.get("networks", {}).items()})
    }


def _config(runs: Sequence[Run], out: Path, facts: Facts, with_curves: bool) -> dict[str, Any]:
    """What a row rests on: the settings that are not a spec's defaults, what a command line must name for it, and each
    seed's run with its files."""
    spec = runs[0].spec.to_json()
    defaults = RunSpec(runs[0].spec.method, runs[0].spec.model).to_json()
    needs = [
        ("--data DIR", runs[0].spec.data.name != DataSpec().name),
        ("--plugin FILE", facts.needs_plugin(runs[0].spec)),
    ]
    said = {key: _differing(value, defaults[key]) for key, value in spec.items() if value != defaults[key]}
    return {
        "spec": {"method": runs[0].spec.method, "model": runs[0].spec.model}
        | {key: value for key, value in said.items() if key not in ("seed", "init_from")},
        "settings": dict(sorted(chosen_settings(runs[0].settings).items())),
        "needs": [option for option, is_needed in needs if is_needed],
        "parent": runs[0].parent_config,
        "runs": [_run(run, out) | {"curves": _curves(run) if with_curves else None} for run in runs],
    }


MOST_CURVES = 300
"""Runs of a page up to which it holds the curves of their training: each is some kilobytes."""


def _differing(value: Any, default: Any) -> Any:
    """Of a section of a spec the settings that differ; anything else as it is."""
    if not isinstance(value, Mapping) or not isinstance(default, Mapping) or not default:
        return value
    return {key: each for key, each in value.items() if key not in default or each != default[key]}


def _run(run: Run, out: Path) -> dict[str, Any]:
    folder = Path(os.path.relpath(run.folder.resolve(), out.resolve())).as_posix()
    files = ["spec.json", *(f"{phase}.json" for phase in run.bodies)]
    named = run.bodies["eval"]["results"].get("per_image", {})
    digests = {phase: body["digest"][:16] for phase, body in run.bodies.items() if "digest" in body}
    seconds = {phase: round(body["timing"]["seconds"], 1) for phase, body in run.bodies.items() if "timing" in body}
    return {
        "id": run.run_id,
        "seed": run.spec.seed,
        "from": run.spec.init_from,
        "folder": folder,
        "files": files + ([named["file"]] if named else []),
        "digests": digests | ({"per image": named["sha256"][:16]} if named else {}),
        "seconds": seconds,
        "environment": _environment(run),
    }


def _curves(run: Run) -> dict[str, Any]:
    return run.bodies["train"]["results"].get("curves", {}) if "train" in run.bodies else {}


def _environment(run: Run) -> str:
    """Where and with which versions a run was judged, in one line."""
    about = run.bodies["eval"].get("environment") or {}
    versions = ", ".join(f"{name} {version}" for name, version in (about.get("versions") or {}).items())
    parts = [about.get("cpu"), *(about.get("gpus") or []), about.get("platform"), f"Python {about.get('python')}"]
    commit = f"commit {str(about.get('commit'))[:12]}{' with changes' if about.get('dirty') else ''}"
    return "; ".join(str(part) for part in (*parts, versions, commit) if part) if about.get("versions") else ""


def _environments(runs: Sequence[Run]) -> list[str]:
    return sorted({_environment(run) for run in runs} - {""})


def _quoted(row: ReportedRow) -> dict[str, Any]:
    madds = row.madds_exact if row.madds_exact is not None else row.madds
    said = {"method": row.method, "model": row.model, "point": row.point, "score": row.top1 / 100, "madds": madds}
    return said | {"source": row.source, "table": row.table, "convention": row.convention}


def _test_images(runs: Sequence[Run], facts: Facts) -> TestImages | str:
    digests = next((run.bodies["eval"]["results"].get("digests") for run in runs if run.points), None) or {}
    if "test" not in digests:
        return "These records do not say of which images they are."
    return facts.test_images(runs[0].spec.data, digests["test"])


def _why_no_classes(images: TestImages | str) -> str:
    return images if isinstance(images, str) else "Too many rows or classes, or images without one class each."


def _by_class(
    rows: Sequence[Mapping[str, Any]], by_config: Mapping[str, Sequence[Run]], images: TestImages | str
) -> list[list[float]]:
    """The mean score of each class over the seeds, for every row; empty where it cannot be told."""
    if isinstance(images, str) or not len(images.targets) or len(rows) > MOST_ROWS_BY_CLASS:
        return []
    if len(images.classes) > MOST_CLASSES:
        return []
    targets = np.asarray(images.targets)
    counts = np.maximum(np.bincount(targets, minlength=len(images.classes)), 1)
    scores = {run.run_id: read_scores(run) for runs in by_config.values() for run in runs}
    lines = []
    for row in rows:
        of_seeds = [
            np.bincount(targets, scores[run.run_id][row["point"]].score, len(images.classes)) / counts
            for run in by_config[row["config_id"]]
            if row["point"] in run.points
        ]
        lines.append([round(float(value), 4) for value in np.mean(of_seeds, axis=0)])
    return lines
