"""The store as tables in memory: records, evaluated points, points over seeds, latencies."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from bench.core.files import damaged
from bench.reports.rows import groups_of, rows_of
from bench.reports.runs import EvaluatedPoint, Run, read_runs, variants
from bench.statistics.intervals import summarise
from bench.statistics.tradeoff import pareto_front

ROW = ["dataset", "split", "model", "method", "variant", "config_id", "parent_config", "point"]
"""What names a row of the leaderboard."""


def load(results_root: str | Path) -> pd.DataFrame:
    """Every record of every complete phase, one a row, beside the settings of its run.

    Columns: phase, the fields of a Record (`details` as JSON), config_id, variant, and the spec's fields by
    dotted name ("train.epochs", "options.random_widths"). Raises UserError when there is no run, or a
    damaged one.
    """
    runs = read_runs(results_root)
    label = variants(runs)
    rows = []
    for run in runs:
        names = {"config_id": run.config_id, "variant": label[run.config_id], "init_from": run.spec.init_from}
        settings = {key: value for key, value in run.settings.items() if key not in ("method", "model")}
        for phase in run.bodies:
            for record in run.records(phase):
                values = record.to_json() | {"details": json.dumps(record.details, sort_keys=True)}
                rows.append({"phase": phase, **values, **names, **settings})
    return pd.DataFrame(rows)


def observations(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each point of each evaluated run, so one for each seed.

    Beside ROW: kind, control, seed, images, metric (the headline's name), score (its value, a fraction), madds_mean,
    madds_min, madds_max, params_stored, params_active, routing (route -> images), madds_theoretical (None where it is
    not another number). Raises UserError when an evaluation lacks one of the others.
    """
    label = variants(runs)
    rows = []
    for run in runs:
        try:
            rows += [_observed(run, label[run.config_id], point) for point in run.points.values()]
        except KeyError as error:
            raise damaged(run.folder / "eval.json", f"its records lack {error.args[0]!r}") from error
    return pd.DataFrame(rows)


def _observed(run: Run, label: str, point: EvaluatedPoint) -> dict[str, Any]:
    score, madds, theoretical = point.score, point.records["madds"], point.records.get("madds_theoretical")
    return {
        "dataset": score.dataset,
        "split": score.split,
        "model": run.spec.model,
        "method": run.spec.method,
        "variant": label,
        "config_id": run.config_id,
        "parent_config": run.parent_config or "",
        "point": point.name,
        "kind": point.kind,
        "control": point.control is not None,
        "seed": run.spec.seed,
        "images": score.n,
        "metric": point.headline.name,
        "score": score.value,
        "madds_mean": madds.value,
        "madds_min": madds.details["min"],
        "madds_max": madds.details["max"],
        "madds_theoretical": theoretical.value if theoretical else None,
        "params_stored": point.records["params_stored"].value,
        "params_active": point.records["params_active"].value,
        "routing": point.routing,
    }


def points_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each point of each config, over its seeds: what the leaderboard shows.

    Beside ROW: kind, control, seeds (their number), images, metric, score_mean, score_std, score_low, score_high (of
    the headline metric: fractions; std with n - 1, t interval), madds_mean, madds_std, madds_min, madds_max,
    madds_relative (to the costliest row of the same split), madds_theoretical (NaN where it is not another number),
    params_stored, params_active, routing (route -> mean share of the images), on_front (of all rows of the split).
    Sorted by split, then best first.
    """
    observed = observations(runs)
    if observed.empty:
        return observed
    rows = []
    for key, group in groups_of(observed, *ROW):
        first = rows_of(group)[0]
        score, madds = summarise(group["score"].to_numpy()), summarise(group["madds_mean"].to_numpy())
        rows.append(
            dict(zip(ROW, key, strict=True))
            | {"kind": first["kind"], "control": first["control"], "seeds": score.n, "images": first["images"]}
            | {"metric": first["metric"]}
            | {"score_mean": score.mean, "score_std": score.std, "score_low": score.low, "score_high": score.high}
            | {"madds_mean": madds.mean, "madds_std": madds.std}
            | {"madds_min": group["madds_min"].min(), "madds_max": group["madds_max"].max()}
            | {"madds_theoretical": group["madds_theoretical"].astype(float).mean()}
            | {"params_stored": group["params_stored"].mean(), "params_active": group["params_active"].mean()}
            | {"routing": _mean_shares(group)}
        )
    points = pd.DataFrame(rows)
    costliest = points.groupby("split")["madds_mean"].transform("max")
    points["madds_relative"] = points["madds_mean"] / costliest
    points["on_front"] = False
    for _, group in groups_of(points, "split"):
        points.loc[group.index, "on_front"] = pareto_front(group["madds_mean"], group["score_mean"])
    return _best_first(points)


def _mean_shares(group: pd.DataFrame) -> dict[str, float]:
    """Share of the images on each route, mean over the seeds; routes in natural order."""
    routes = sorted({route for routing in group["routing"] for route in routing}, key=natural)
    counts = zip(group["routing"], group["images"], strict=True)
    shares = [{route: routing.get(route, 0) / images for route in routes} for routing, images in counts]
    return {route: sum(share[route] for share in shares) / len(shares) for route in routes}


def _best_first(points: pd.DataFrame) -> pd.DataFrame:
    def order(row: dict[str, Any]) -> tuple:
        names = (natural(row[name]) for name in ("model", "method", "variant", "point", "config_id"))
        return (row["split"], -row["score_mean"], row["madds_mean"], *names)

    return pd.DataFrame(sorted(rows_of(points), key=order), columns=points.columns)


def latency_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """Latencies over seeds: one row for each config, point, form, device, batch size and number of threads.

    median_ms, iqr_ms, p90_ms, p99_ms (ms a batch) and ratio_to_full (of the time of the full network in the same
    rounds) are each the median over the runs; calls is the number of timed calls of all runs, busy whether other work
    ran on the machine during any of them.
    """
    label = variants(runs)
    groups: dict[tuple, list[tuple[float, dict[str, Any]]]] = {}
    for run in runs:
        for record in run.records("profile"):
            if record.metric != "latency_ms":
                continue
            how = record.details
            key = (record.dataset, record.model, record.method, label[run.config_id], run.config_id, record.point)
            key += (record.form or "", str(how.get("device", run.spec.device)), int(how["batch"]))
            key += (int(how.get("threads", run.spec.threads)),)
            groups.setdefault(key, []).append((record.value, {"calls": record.n} | how))
    names = ["dataset", "model", "method", "variant", "config_id", "point", "form", "device", "batch", "threads"]
    ordered = sorted(groups, key=lambda key: [natural(str(part)) for part in key])
    return pd.DataFrame([dict(zip(names, key, strict=True)) | _timed(groups[key]) for key in ordered])


def _timed(timings: Sequence[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    """The statistics of one row, over the runs that timed it."""
    spread = {
        name: median(values) if (values := [how[name] for _, how in timings if name in how]) else float("nan")
        for name in ("iqr_ms", "p90_ms", "p99_ms")
    }
    ratios = [how["ratio_to_full"]["median"] for _, how in timings if "ratio_to_full" in how]
    return {
        "runs": len(timings),
        "calls": sum(how["calls"] for _, how in timings),
        "median_ms": median(value for value, _ in timings),
        **spread,
        "ratio_to_full": median(ratios) if ratios else float("nan"),
        "busy": any(how.get("busy", False) for _, how in timings),
    }


def natural(text: str) -> tuple:
    """A sort key in which "uniform9" comes before "uniform10"."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)
