"""What gates do with images, from per-image scores: where they send them, whether rightly, and what that is worth."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.core.metrics import paired_metric
from bench.reports.frame import natural
from bench.reports.rows import rows_of, select
from bench.reports.runs import EvaluatedPoint, Run
from bench.reports.scores import read_scores
from bench.statistics.intervals import summarise
from bench.statistics.routing import entropy_bits, is_wide, level_routes, oracle, sent_on, separation


def fixed_points(point: EvaluatedPoint, fixed: Iterable[EvaluatedPoint]) -> list[str]:
    """Those of the fixed sub-networks on whose routes all gates of a dynamic point stand at one place; none where one
    of these was not run, or the point has no list of options."""
    levels = level_routes(point.routing_space) if point.routing_space else []
    by_route = {each.route: each.name for each in fixed}
    return [by_route[route] for route in levels] if levels and by_route.keys() >= set(levels) else []


def gates_frame(points: pd.DataFrame, runs: Sequence[Run], controls: pd.DataFrame) -> pd.DataFrame:
    """One row for each dynamic point that has controls on its checkpoint.

    points: as by `points_frame`; controls: as by `compare`. Columns: what names the point, metric (of the images' mean
    score), madds_mean, routing; the means over seeds of `_told`; separation_low and _high (t interval); and of each
    control, random and hull, the difference, its interval, and the verdict. nan or None where a control was not run.
    """
    rows = []
    if controls.empty:
        return pd.DataFrame()
    for row in sorted(rows_of(select(points, kind="dynamic", control=False)), key=_order):
        mine = select(controls, config_id=row["config_id"], point=row["point"])
        if mine.empty:
            continue
        names = ("dataset", "split", "model", "method", "variant", "config_id", "point", "seeds")
        line = {name: row[name] for name in (*names, "madds_mean", "routing")}
        line |= {"metric": paired_metric(row["metric"])}
        rows.append(line | _over_seeds(row, runs) | _advantage(mine))
    return pd.DataFrame(rows)


def _order(row: dict[str, Any]) -> list[tuple]:
    return [natural(row[name]) for name in ("split", "model", "method", "variant", "point", "config_id")]


def _over_seeds(row: dict[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """Means over the seeds of what the gates of a point did."""
    told = []
    fixed = {run.control.of: run for run in runs if run.control and run.control.role == "fixed"}
    for run in runs:
        if run.config_id == row["config_id"] and row["point"] in run.points:
            told.append(_told(run, run.points[row["point"]], fixed.get(run.run_id)))
    means = {name: float(np.mean([one[name] for one in told])) for name in told[0]}
    spread = summarise([one["separation"] for one in told])
    return means | {"separation_low": spread.low, "separation_high": spread.high}


def _told(run: Run, point: EvaluatedPoint, fixed: Run | None) -> dict[str, float]:
    """What one run's gates did at one point; `fixed` holds the fixed sub-networks on its checkpoint."""
    mine = read_scores(run)[point.name]
    names = ("wide_if_wrong", "wide_if_right", "separation", "oracle_score", "oracle_madds", "regret", "excess")
    told = {"entropy": entropy_bits(mine.route), **dict.fromkeys(names, math.nan)}
    told["score_mean"] = float(mine.score.mean(dtype=np.float64))
    space = fixed_points(point, fixed.points.values()) if fixed else []
    if fixed is None or not space:
        return told
    choices = [read_scores(fixed)[name] for name in space]
    costs = np.array([choice.madds.mean() for choice in choices])
    scores = np.stack([choice.score for choice in choices])
    narrow = scores[costs.argmin()]
    wrong, right = sent_on(is_wide(point.routing_space, mine.route), narrow)
    told |= {"wide_if_wrong": wrong, "wide_if_right": right, "separation": separation(mine.madds, narrow)}
    if mine.route.shape[1] > 1:
        return told  # the fixed choices are a few of the routes that several gates may take
    best = oracle(costs, scores)
    return told | {
        "oracle_score": best.score,
        "oracle_madds": best.madds,
        "regret": best.score - told["score_mean"],
        "excess": float(mine.madds.mean()) / best.madds - 1,
    }


def _advantage(controls: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for short, role in (("random", "random"), ("hull", "fixed")):
        line = next(iter(rows_of(select(controls, role=role))), {})
        found |= {f"{short}_{part}": line.get(part, math.nan) for part in ("difference", "low", "high")}
        found[f"{short}_verdict"] = line.get("verdict")
    return found
