"""What gates do with images, from per-image scores: where they send them, whether rightly, and what that is worth.

The oracle is derived here and nowhere run: for each image the cheapest of the fixed choices that solves it, else the
cheapest of all, by the scores of `fixed_choice` on the same checkpoint. It has neither latency nor rank.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.reports.compare import HULL
from bench.reports.frame import natural
from bench.reports.rows import rows_of, select
from bench.reports.runs import Run
from bench.reports.scores import PointScores, read_scores
from bench.statistics.intervals import summarise

ByPoint = dict[str, PointScores]


class Oracle(NamedTuple):
    """Mean score and mean MAdds of the oracle."""

    score: float
    madds: float


def entropy_bits(route: NDArray[np.int64]) -> float:
    """Entropy of where images went, in bits: (n, G) routes, each taken as a whole."""
    _, counts = np.unique(route, axis=0, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no "-0.0"


def sent_on(is_wide: NDArray[np.bool_], narrow: NDArray) -> tuple[float, float]:
    """Share of images sent past the narrowest network, among those that it gets wrong and those that it gets right.

    narrow: (n,) its scores in [0, 1], by which an image counts among the right ones; nan where there are none.
    """

    def share(weights: NDArray) -> float:
        return float((weights * is_wide).sum() / weights.sum()) if weights.sum() else math.nan

    right = narrow.astype(np.float64)
    return share(1 - right), share(right)


def separation(spent: NDArray, narrow: NDArray) -> float:
    """Probability that an image which the narrowest network gets wrong is given more MAdds than one that it gets right.

    The area under the ROC curve of `spent` (n,): ties count half, 0.5 is what routing at random has; nan where the
    narrowest network gets all images right or all wrong. narrow: (n,) its scores in [0, 1].
    """
    right = narrow.astype(np.float64)
    values, place = np.unique(spent, return_inverse=True)
    rights = np.bincount(place, right, len(values))
    wrongs = np.bincount(place, 1 - right, len(values))
    pairs = rights.sum() * wrongs.sum()
    below = np.cumsum(rights) - rights
    return float((wrongs * (below + rights / 2)).sum() / pairs) if pairs else math.nan


def oracle(costs: NDArray, scores: NDArray) -> Oracle:
    """The cheapest choice with each image's best score: costs (K,) in MAdds, scores (K, n).

    With scores of 0 and 1 that is the cheapest that solves it, and the cheapest of all where none does.
    """
    order = np.argsort(costs, kind="stable")
    best = scores[order].argmax(axis=0)  # the first of equals is the cheapest
    taken = scores[order][best, np.arange(scores.shape[1])]
    return Oracle(float(taken.mean(dtype=np.float64)), float(np.asarray(costs, np.float64)[order][best].mean()))


def routing_space(point: str) -> list[list[int]]:
    """The options that gates may take by a dynamic point's name: one list for all of them ("dynamic0-2"), or one for
    each ("dynamic0-1_0-2"); none where the name is another."""
    found = re.fullmatch(r"dynamic(\d+(?:[-_]\d+)*)", point)
    return [[int(option) for option in options.split("-")] for options in found[1].split("_")] if found else []


def fixed_points(point: str, fixed: Sequence[str], only: bool) -> list[str]:
    """Those of the points of `fixed_choice` that lie in a dynamic point's routing space.

    only: the run has no other dynamic point, so all fixed points were taken from this one's space. Where there are
    others and the names do not tell, none.
    """
    if only:
        return list(fixed)
    space = routing_space(point)
    named = [f"uniform{option}" for option in space[0]] if len(space) == 1 else []
    return named if set(named) <= set(fixed) else []


def gates_frame(points: pd.DataFrame, runs: Sequence[Run], controls: pd.DataFrame) -> pd.DataFrame:
    """One row for each dynamic point that has controls on its checkpoint.

    points: as by `points_frame`; controls: as by `compare`. Columns: what names the point, top1_mean, madds_mean,
    routing; the means over seeds of `_told`; separation_low and _high (t interval); and of each control, random and
    hull, the difference, its interval, and the verdict. nan or None where a control was not run.
    """
    rows = []
    if controls.empty:
        return pd.DataFrame()
    evaluated = [run for run in runs if "eval" in run.bodies]
    scores = {run.run_id: read_scores(run) for run in evaluated if run.spec.method == "fixed_choice"}
    for row in sorted(rows_of(select(points, kind="dynamic", control=False)), key=_order):
        mine = select(controls, config_id=row["config_id"], point=row["point"])
        if mine.empty:
            continue
        names = ("dataset", "split", "model", "method", "variant", "config_id", "point", "seeds", "top1_mean")
        line = {name: row[name] for name in (*names, "madds_mean", "routing")}
        rows.append(line | _over_seeds(row, evaluated, scores) | _advantage(mine))
    return pd.DataFrame(rows)


def _order(row: dict[str, Any]) -> list[tuple]:
    return [natural(row[name]) for name in ("split", "model", "method", "variant", "point", "config_id")]


def _over_seeds(row: dict[str, Any], runs: Sequence[Run], fixed: dict[str, ByPoint]) -> dict[str, Any]:
    """Means over the seeds of what the gates of a point did."""
    told = []
    parents = {run.run_id: run for run in runs if run.config_id == row["config_id"]}
    judged = {run.spec.init_from: fixed[run.run_id] for run in runs if run.run_id in fixed}
    for run_id, run in parents.items():
        gates = read_scores(run)
        if row["point"] in gates:
            told.append(_told(row["point"], gates, judged.get(run_id, {})))
    means = {name: float(np.mean([one[name] for one in told])) for name in told[0]}
    spread = summarise([one["separation"] for one in told])
    return means | {"separation_low": spread.low, "separation_high": spread.high}


def _told(point: str, gates: ByPoint, fixed: ByPoint) -> dict[str, float]:
    """What one run's gates did at one point."""
    mine = gates[point]
    names = ("wide_if_wrong", "wide_if_right", "separation", "oracle_top1", "oracle_madds", "regret", "excess")
    told = {"entropy": entropy_bits(mine.route), **dict.fromkeys(names, math.nan)}
    space = [fixed[name] for name in fixed_points(point, list(fixed), len(gates) == 1)]
    if not space:
        return told
    costs = np.array([choice.madds.mean() for choice in space])
    scores = np.stack([choice.score for choice in space])
    narrow = scores[costs.argmin()]
    wrong, right = sent_on(is_wide(routing_space(point), mine.route), narrow)
    told |= {"wide_if_wrong": wrong, "wide_if_right": right, "separation": separation(mine.madds, narrow)}
    if mine.route.shape[1] > 1:
        return told  # the fixed choices are a few of the routes that several gates may take
    best = oracle(costs, scores)
    return told | {
        "oracle_top1": best.score,
        "oracle_madds": best.madds,
        "regret": best.score - float(mine.score.mean(dtype=np.float64)),
        "excess": float(mine.madds.mean()) / best.madds - 1,
    }


def is_wide(space: list[list[int]], route: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,): whether any gate sent the image past the first option of its list; route: (n, G).

    space: as by `routing_space`; where it is empty, the first option is the cheapest that any image took.
    """
    first = np.array([options[0] for options in space]) if space else route.min(axis=0)
    return np.any(route > first, axis=1)


def _advantage(controls: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for short, name in (("random", "random_gate"), ("hull", HULL)):
        line = next(iter(rows_of(select(controls, control=name))), {})
        found |= {f"{short}_{part}": line.get(part, math.nan) for part in ("difference", "low", "high")}
        found[f"{short}_verdict"] = line.get("verdict")
    return found
