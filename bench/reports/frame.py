"""The store as tables in memory: records, evaluated points, points over seeds."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.core.files import damaged
from bench.reports.rows import groups_of, rows_of
from bench.reports.runs import EvaluatedPoint, Run, read_runs
from bench.reports.variants import variants
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

    Beside ROW: kind, control, word (`EvaluatedPoint.word`), seed, images, metric (the headline's name), score (its
    value, a fraction), half_over_images (of its own interval over images; nan where it has none), madds_mean,
    madds_min, madds_max, params_stored, params_active, routing (route -> images), madds_theoretical (None where it is
    not another number).
    Raises UserError when an evaluation lacks one of the others.
    """
    return pd.DataFrame(_observed_rows(runs))


def _observed_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    label = variants(runs)
    rows = []
    for run in runs:
        try:
            rows += [_observed(run, label[run.config_id], point) for point in run.points.values()]
        except KeyError as error:
            raise damaged(run.folder / "eval.json", f"its records lack {error.args[0]!r}") from error
    return rows


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
        "word": point.word,
        "seed": run.spec.seed,
        "images": score.n,
        "metric": point.headline.name,
        "score": score.value,
        "half_over_images": _half(score.details.get("interval")),
        "madds_mean": madds.value,
        "madds_min": madds.details["min"],
        "madds_max": madds.details["max"],
        "madds_theoretical": theoretical.value if theoretical else None,
        "params_stored": point.records["params_stored"].value,
        "params_active": point.records["params_active"].value,
        "routing": point.routing,
    }


def _half(interval: Sequence[float] | None) -> float:
    """Half width of an interval that a measure brings along; nan without one."""
    return (interval[1] - interval[0]) / 2 if interval else float("nan")


def points_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each point of each config, over its seeds: what the leaderboard shows.

    Beside ROW: label ("gate to 40 % of MAdds", of those of the costliest row of the split and model), kind, control,
    seeds (their number), images, metric, score_mean, score_std (of the headline
    metric: fractions, std with n - 1), half_over_images (of the metric's own interval over images, where it has one),
    madds_mean, madds_std, madds_min, madds_max,
    madds_relative (to the costliest row of the same split), madds_theoretical (NaN where it is not another number),
    params_stored, params_active, routing (route -> mean share of the images), on_front (of all rows of the split).
    Sorted by split, then by MAdds, the better of equals first.
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in _observed_rows(runs):
        groups.setdefault(tuple(row[name] for name in ROW), []).append(row)
    if not groups:
        return pd.DataFrame()
    rows = []
    for group in groups.values():
        score, madds = (summarise([row[name] for row in group]) for name in ("score", "madds_mean"))
        theoretical = [row["madds_theoretical"] for row in group if row["madds_theoretical"] is not None]
        rows.append(
            {name: group[0][name] for name in (*ROW, "kind", "control", "word", "images", "metric")}
            | {"seeds": score.n, "score_mean": score.mean, "score_std": score.std}
            | {"half_over_images": summarise([row["half_over_images"] for row in group]).mean}
            | {"madds_mean": madds.mean, "madds_std": madds.std}
            | {"madds_min": min(row["madds_min"] for row in group), "madds_max": max(row["madds_max"] for row in group)}
            | {"madds_theoretical": summarise(theoretical).mean}
            | {name: summarise([row[name] for row in group]).mean for name in ("params_stored", "params_active")}
            | {"routing": _mean_shares(group)}
        )
    points = pd.DataFrame(sorted(rows, key=_by_cost))
    points["label"] = _labels(points)
    points["madds_relative"] = points["madds_mean"] / points.groupby("split")["madds_mean"].transform("max")
    points["on_front"] = False
    for _, group in groups_of(points, "split"):
        points.loc[group.index, "on_front"] = pareto_front(group["madds_mean"], group["score_mean"])
    return points


def _mean_shares(group: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of the images on each route, mean over the seeds; routes in natural order."""
    routes = sorted({route for row in group for route in row["routing"]}, key=natural)
    return {route: sum(row["routing"].get(route, 0) / row["images"] for row in group) / len(group) for route in routes}


def _by_cost(row: dict[str, Any]) -> tuple:
    names = (natural(row[name]) for name in ("model", "method", "variant", "point", "config_id"))
    return (row["split"], row["madds_mean"], -row["score_mean"], *names)


def _labels(points: pd.DataFrame) -> list[str]:
    """What each point is and costs, for people; with its name where two points of a config would read alike."""
    full = points.groupby(["split", "model"])["madds_mean"].transform("max")
    texts = [
        f"{row['word']} {'to' if row['kind'] == 'dynamic' else 'at'} {_percent(row['madds_mean'] / most)} of MAdds"
        for row, most in zip(rows_of(points), full, strict=True)
    ]
    keys = [(row["split"], row["config_id"], text) for row, text in zip(rows_of(points), texts, strict=True)]
    times = Counter(keys)
    return [
        f"{text} ({row['point']})" if times[key] > 1 else text
        for row, text, key in zip(rows_of(points), texts, keys, strict=True)
    ]


def _percent(share: float) -> str:
    """Two digits: "7.5 %", "40 %"."""
    return f"{100 * share:.{1 if share < 0.0995 else 0}f} %"


def natural(text: str) -> tuple:
    """A sort key in which "uniform9" comes before "uniform10"."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)
