"""Ranks, and dynamic points against their controls, from the per-image scores of all runs."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.core.errors import UserError
from bench.evaluation.significance import Difference, PairedBootstrap, ranks
from bench.evaluation.statistics import MINIMUM_SEEDS, holm
from bench.evaluation.tradeoff import hull_mixture
from bench.reports.runs import Run
from bench.reports.scores import PointScores, read_scores

Row = tuple[str, str]
"""(config_id, point)"""
BySeed = dict[int, NDArray]

HULL = "fixed_choice hull"


@dataclass(frozen=True)
class Control:
    """What a dynamic point is held against: its scores and mean MAdds by seed."""

    of: Row
    name: str
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
    for split, group in points.groupby("split", sort=True):
        rows = [(row.config_id, row.point) for row in group.itertuples()]
        by_row = {row: _by_seed(row, runs, scores) for row in rows}
        held = [control for row in group.itertuples() for control in _controls_of(row, runs, scores)]
        try:
            bootstrap = PairedBootstrap(by_row | {control.row: control.scores for control in held})
        except ValueError as error:
            raise UserError(f"the runs on {split} cannot be compared: {error}") from error
        rank |= ranks(bootstrap, rows)
        named = group.set_index(["config_id", "point"], drop=False)
        controls += _verdicts([_judged(named.loc[c.of], c, by_row[c.of], bootstrap) for c in held])
    return rank, pd.DataFrame(controls)


def _by_seed(row: Row, runs: Iterable[Run], scores: dict[str, dict[str, PointScores]]) -> BySeed:
    config_id, point = row
    found = ((run.spec.seed, scores.get(run.run_id, {})) for run in runs if run.config_id == config_id)
    return {seed: by_point[point].score for seed, by_point in sorted(found) if point in by_point}


def _controls_of(row: Any, runs: Sequence[Run], scores: dict[str, dict[str, PointScores]]) -> Iterator[Control]:
    """The controls that were run on the checkpoints of a dynamic point."""
    if row.kind != "dynamic" or row.control:
        return
    gates = {run.spec.seed: scores[run.run_id] for run in runs if run.config_id == row.config_id and run.run_id in scores}
    for method, mixed in (("random_gate", _same_point), ("fixed_choice", _on_the_hull)):
        by_seed: BySeed = {}
        madds: dict[int, float] = {}
        for run in runs:
            seed = run.spec.seed
            if run.spec.method != method or run.parent_config != row.config_id or run.run_id not in scores:
                continue
            if seed in gates and (found := mixed(row.point, gates[seed], scores[run.run_id])):
                by_seed[seed], madds[seed] = found
        if by_seed:
            yield Control((row.config_id, row.point), HULL if method == "fixed_choice" else method, by_seed, madds)


def _same_point(point: str, gate: dict[str, PointScores], control: dict[str, PointScores]) -> tuple[NDArray, float] | None:
    """The control's point of the same name."""
    return (control[point].score, float(control[point].madds.mean())) if point in control else None


def _on_the_hull(point: str, gate: dict[str, PointScores], control: dict[str, PointScores]) -> tuple[NDArray, float] | None:
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


def _judged(row: pd.Series, control: Control, scores: BySeed, bootstrap: PairedBootstrap) -> dict[str, Any]:
    """One line of the controls table, on the seeds that both have; accuracies as fractions."""
    seeds = bootstrap.common_seeds(control.of, control.row)
    ours = float(np.mean([scores[seed].mean(dtype=np.float64) for seed in seeds]))
    theirs = float(np.mean([control.scores[seed].mean(dtype=np.float64) for seed in seeds]))
    pair = bootstrap.compare(control.of, control.row)
    pair = pair or Difference(ours - theirs, math.nan, math.nan, math.nan, len(seeds), bootstrap.images)
    return {
        **{name: row[name] for name in ("dataset", "split", "model", "method", "variant", "config_id", "point")},
        "control": control.name,
        "seeds": pair.seeds,
        "top1_mean": ours,
        "madds_mean": row["madds_mean"],
        "control_top1": theirs,
        "control_madds": float(np.mean([control.madds[seed] for seed in seeds])),
        "difference": pair.difference,
        "low": pair.low,
        "high": pair.high,
        "p_value": pair.p_value,
    }


def _verdicts(judged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of one split with Holm's correction over all that have enough seeds, and what follows."""
    tested = [line for line in judged if line["seeds"] >= MINIMUM_SEEDS]
    for line in judged:
        line |= {"p_holm": math.nan, "verdict": f"fewer than {MINIMUM_SEEDS} seeds"}
    for line, p in zip(tested, holm([line["p_value"] for line in tested]), strict=True):
        significant = "better" if line["difference"] > 0 else "worse"
        line |= {"p_holm": float(p), "verdict": significant if p <= 0.05 else "no difference shown"}
    return judged
