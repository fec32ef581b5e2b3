"""Ranks, and dynamic points against their controls, from the per-image scores of all runs."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.core.errors import UserError
from bench.core.metrics import paired_metric
from bench.reports.rows import groups_of, rows_of
from bench.reports.runs import Run
from bench.reports.scores import read_scores
from bench.statistics.intervals import MINIMUM_SEEDS, holm
from bench.statistics.per_image import PointScores
from bench.statistics.significance import Difference, PairedBootstrap, ranks
from bench.statistics.tradeoff import hull_mixture

Row = tuple[str, str]
"""(config_id, point)"""
BySeed = dict[int, NDArray]
ByPoint = dict[str, PointScores]

NAMED = ("dataset", "split", "model", "method", "variant", "config_id", "point")
"""What a line of the controls table takes from the dynamic point's row."""
HULL = "fixed_choice hull"


@dataclass(frozen=True)
class Control:
    """What a dynamic point is held against: its scores and mean MAdds by seed."""

    of: Row
    name: str
    role: str
    scores: BySeed
    madds: dict[int, float]

    @property
    def row(self) -> Row:
        return (*self.of, self.name)  # type: ignore[return-value]


def compare(points: pd.DataFrame, runs: Sequence[Run]) -> tuple[dict[Row, int | None], pd.DataFrame]:
    """The rank of every row, and one row for each dynamic point and control of it (columns: `_judged`).

    points: as by `points_frame`. Rows are compared within their split only. Raises UserError when runs on one split
    were scored on different numbers of images, or a per-image file is damaged.
    """
    scores = {run.run_id: read_scores(run) for run in runs if "eval" in run.bodies}
    rank: dict[Row, int | None] = {}
    controls: list[dict[str, Any]] = []
    for (split,), group in groups_of(points, "split"):
        named = {(row["config_id"], row["point"]): row for row in rows_of(group)}
        by_row = {row: scores_by_seed(row, runs, scores) for row in named}
        held = [control for row in named.values() for control in _controls_of(row, runs, scores)]
        try:
            bootstrap = PairedBootstrap(by_row | {control.row: control.scores for control in held})
        except ValueError as error:
            raise UserError(f"the runs on {split} cannot be compared: {error}") from error
        rank |= ranks(bootstrap, list(named))
        costs = {row: madds_by_seed(row, runs, scores) for row in {control.of for control in held}}
        controls += verdicts([_judged(named[c.of], c, by_row[c.of], costs[c.of], bootstrap) for c in held])
    return rank, pd.DataFrame(controls)


def scores_by_seed(row: Row, runs: Iterable[Run], scores: dict[str, ByPoint]) -> BySeed:
    """Per-image scores of a row by seed; `scores` holds those of every evaluated run by run_id."""
    return {seed: found.score for seed, found in _by_seed(row, runs, scores)}


def madds_by_seed(row: Row, runs: Iterable[Run], scores: dict[str, ByPoint]) -> BySeed:
    """Per-image MAdds likewise."""
    return {seed: found.madds for seed, found in _by_seed(row, runs, scores)}


def _by_seed(row: Row, runs: Iterable[Run], scores: dict[str, ByPoint]) -> list[tuple[int, PointScores]]:
    config_id, point = row
    found = [(run.spec.seed, scores.get(run.run_id, {})) for run in runs if run.config_id == config_id]
    return sorted(((seed, by_point[point]) for seed, by_point in found if point in by_point), key=itemgetter(0))


def _controls_of(row: dict[str, Any], runs: Sequence[Run], scores: dict[str, ByPoint]) -> Iterator[Control]:
    """The controls that were run on the checkpoints of a dynamic point."""
    if row["kind"] != "dynamic" or row["control"]:
        return
    gates = {run.spec.seed: scores[run.run_id] for run in runs if run.config_id == row["config_id"] and run.points}
    held: dict[str, Control] = {}
    for run in runs:
        seed, role = run.spec.seed, run.control.role if run.control else None
        if role is None or run.parent_config != row["config_id"] or seed not in gates:
            continue
        name = HULL if role == "fixed" else run.spec.method
        as_control = _on_the_hull if role == "fixed" else _same_point
        if found := as_control(row["point"], gates[seed], scores[run.run_id]):
            control = held.setdefault(name, Control((row["config_id"], row["point"]), name, role, {}, {}))
            control.scores[seed], control.madds[seed] = found
    yield from sorted(held.values(), key=lambda control: (control.role == "fixed", control.name))


def _same_point(point: str, gate: ByPoint, control: ByPoint) -> tuple[NDArray, float] | None:
    """The control's point of the same name."""
    return (control[point].score, float(control[point].madds.mean())) if point in control else None


def _on_the_hull(point: str, gate: ByPoint, control: ByPoint) -> tuple[NDArray, float] | None:
    """The best blind mixture of the fixed sub-networks at the gate's mean MAdds: each image's expected score.

    Which sub-networks lie on the hull is chosen on the images it is judged on, which favours the control.
    """
    costs = np.array([scores.madds.mean() for scores in control.values()])
    means = np.array([scores.score.mean(dtype=np.float64) for scores in control.values()])
    shares = hull_mixture(costs, means, float(gate[point].madds.mean()))
    if shares is None:
        return None
    table = np.stack([scores.score for scores in control.values()]).astype(np.float64)
    return shares @ table, float(shares @ costs)


def _judged(
    row: dict[str, Any], control: Control, scores: BySeed, costs: BySeed, bootstrap: PairedBootstrap
) -> dict[str, Any]:
    """One line of the controls table, on the seeds that both have; accuracies as fractions."""
    seeds = bootstrap.common_seeds(control.of, control.row)
    ours, theirs = common_means(scores, control.scores)
    pair = difference(bootstrap, control.of, control.row, ours - theirs)
    return {
        **{name: row[name] for name in NAMED},
        "metric": paired_metric(row["metric"]),
        "control": control.name,
        "role": control.role,
        "seeds": pair.seeds,
        "score_mean": ours,
        "madds_mean": float(np.mean([costs[seed].mean(dtype=np.float64) for seed in seeds])),
        "control_score": theirs,
        "control_madds": float(np.mean([control.madds[seed] for seed in seeds])),
        "difference": pair.difference,
        "low": pair.low,
        "high": pair.high,
        "p_value": pair.p_value,
    }


def common_means(first: BySeed, second: BySeed) -> tuple[float, float]:
    """Mean score, or MAdds, of each of two rows on the seeds that both have."""
    seeds = sorted(first.keys() & second.keys())
    ours, theirs = (np.mean([row[seed].mean(dtype=np.float64) for seed in seeds]) for row in (first, second))
    return float(ours), float(theirs)


def difference(bootstrap: PairedBootstrap, first: Row, second: Row, observed: float) -> Difference:
    """First less second; with fewer than two seeds what was observed, without an interval."""
    seeds = len(bootstrap.common_seeds(first, second))
    alone = Difference(observed, math.nan, math.nan, math.nan, seeds, bootstrap.images)
    return bootstrap.compare(first, second) or alone


def verdicts(judged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of one table with Holm's correction over all that have enough seeds, and what follows.

    Each line has seeds, difference and p_value, and gets p_holm and verdict.
    """
    tested = [line for line in judged if line["seeds"] >= MINIMUM_SEEDS]
    for line in judged:
        line |= {"p_holm": math.nan, "verdict": f"fewer than {MINIMUM_SEEDS} seeds"}
    for line, p in zip(tested, holm([line["p_value"] for line in tested]), strict=True):
        significant = "better" if line["difference"] > 0 else "worse"
        line |= {"p_holm": float(p), "verdict": significant if p <= 0.05 else "no difference shown"}
    return judged
