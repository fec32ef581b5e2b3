"""The table of controls: each dynamic point against what its checkpoint reaches without looking at the image."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from bench.core.metrics import paired_metric
from bench.reports.differences import DIFFERENCE, DIFFERENCE_NOTE, BySeed, Row, Scored, compared, verdicts
from bench.reports.frame import natural
from bench.reports.layout import (
    NAMES,
    PERCENT,
    PERCENT_CSV,
    PLACE,
    SCORE,
    SEEDS,
    Column,
    Page,
    by,
    count,
    name_column,
    number,
)
from bench.reports.rows import groups_of, rows_of
from bench.reports.runs import EvaluatedPoint, Run
from bench.statistics.routing import level_routes
from bench.statistics.tradeoff import hull_mixture

HULL = "fixed_choice hull"

COLUMNS = [
    *PLACE,
    *NAMES,
    name_column("control"),
    name_column("members", "mixture of"),
    SEEDS,
    Column("metric", None),
    Column("score_mean", f"{SCORE} %", PERCENT, PERCENT_CSV, "score_percent"),
    Column("other_score", "control %", PERCENT, PERCENT_CSV, "control_score_percent"),
    Column("madds_mean", "MAdds/image", count, number),
    Column("other_madds", "control MAdds", count, number, "control_madds"),
    *DIFFERENCE,
    Column("config_id", None),
]
NOTE = f"""
Each dynamic point against what the same checkpoint reaches without looking at the image: `random_gate` sends images to
the same choices at random, in the gate's own proportions; `{HULL}` is the best blind mixture of the fixed
sub-networks that the gate may choose from (with several gates: those with all gates at one place), at mean MAdds of at
most the gate's. Its members are named: two for each seed, or one. They are chosen on the images that they are judged
on, which favours the control: "worse" than the hull says less than "better". Collapsed: in every seed the gate sends
all images one way, so that there is nothing to compare.
"""


@dataclass
class Control:
    """What a dynamic point is held against, by seed; members: of the hull, the sub-networks with a share."""

    name: str
    role: str
    by_seed: dict[int, Scored] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)


def controls_frame(points: pd.DataFrame, runs: Sequence[Run], scores: Mapping[Row, BySeed]) -> pd.DataFrame:
    """One row for each dynamic point and control of it; empty where no control was run on a dynamic point.

    points: as by `points_frame`; rows are compared within their split only. Columns: what names the point, metric (of
    the images' mean score), control, role, members, collapsed, and those of `compared` and `verdicts`. Raises UserError
    when a point and its control were scored on different numbers of images.
    """
    controls: dict[str, list[Run]] = {}
    configs: dict[str, list[Run]] = {}
    for run in runs:
        configs.setdefault(run.config_id, []).append(run)
        if run.control and run.control.role:
            controls.setdefault(run.parent_config or "", []).append(run)
    lines = []
    for (split,), group in groups_of(points, "split"):
        found = []
        for row in rows_of(group):
            if row["kind"] != "dynamic" or row["control"] or row["config_id"] not in controls:
                continue
            name = row["point"]
            here = [run for run in configs[row["config_id"]] if name in run.points]
            gates = {run.spec.seed: run.points[name] for run in here if run.points[name].score.split == split}
            own = scores[split, row["config_id"], name]
            is_collapsed = all(sum(n > 0 for n in gate.routing.values()) == 1 for gate in gates.values())
            for control in _controls_of(own, gates, controls[row["config_id"]], scores):
                if pair := compared(own, control.by_seed):
                    names = {key: row[key] for key in ("dataset", "split", "model", "method", "variant", "config_id")}
                    names |= {"point": name, "metric": paired_metric(row["metric"]), "control": control.name}
                    members = ", ".join(sorted(control.members, key=natural))
                    found.append(names | {"role": control.role, "members": members, "collapsed": is_collapsed} | pair)
        lines += verdicts(found)
    return pd.DataFrame(lines)


def _controls_of(
    own: BySeed, gates: Mapping[int, EvaluatedPoint], runs: Iterable[Run], scores: Mapping[Row, BySeed]
) -> Iterator[Control]:
    """The controls that were run on the checkpoints of a dynamic point; `gates` says by seed what the point is."""
    controls: dict[str, Control] = {}
    for run in runs:
        seed, role = run.spec.seed, run.control.role if run.control else None
        if role is None or seed not in gates or seed not in own:
            continue
        of_points = {
            point.name: scores[point.score.split, run.config_id, point.name][seed]
            for point in run.points.values()
            if point.score.split == gates[seed].score.split
        }
        if role == "fixed":
            space = fixed_points(gates[seed], run.points.values()) if gates[seed].routing_space else of_points
            mixture = on_the_hull(own[seed].madds, {name: of_points[name] for name in space if name in of_points})
        else:
            same = of_points.get(gates[seed].name)
            mixture = (same, []) if same else None
        if mixture:
            name = HULL if role == "fixed" else run.spec.method
            control = controls.setdefault(name, Control(name, role))
            control.by_seed[seed] = mixture[0]
            control.members.update(mixture[1])
    yield from sorted(controls.values(), key=lambda control: (control.role == "fixed", control.name))


def fixed_points(point: EvaluatedPoint, fixed: Iterable[EvaluatedPoint]) -> list[str]:
    """Those of the fixed sub-networks on whose routes all gates of a dynamic point stand at one place; none where one
    of these was not run, or the point has no list of options."""
    levels = level_routes(point.routing_space) if point.routing_space else []
    by_route = {each.route: each.name for each in fixed}
    return [by_route[route] for route in levels] if levels and by_route.keys() >= set(levels) else []


def on_the_hull(budget: float, fixed: Mapping[str, Scored]) -> tuple[Scored, list[str]] | None:
    """The best blind mixture of fixed sub-networks at mean MAdds of at most `budget`: each image's expected score, and
    the names of those that have a share. None where there are none, or all cost more.

    Which sub-networks lie on the hull is chosen on the images it is judged on, which favours the control.
    """
    if not fixed:
        return None
    costs = np.array([scored.madds for scored in fixed.values()])
    table = np.stack([scored.score for scored in fixed.values()]).astype(np.float64)  # (K, images)
    shares = hull_mixture(costs, table.mean(axis=1), budget)
    if shares is None:
        return None
    return Scored(shares @ table, float(shares @ costs)), [
        name for name, share in zip(fixed, shares, strict=True) if share
    ]


def controls_pages(frame: pd.DataFrame) -> list[Page]:
    """The page of controls; none when no control was run on a dynamic point."""
    if frame.empty:
        return []
    title, notes = "Dynamic points against their controls", [NOTE, DIFFERENCE_NOTE]
    return [Page("controls", title, notes, by("split", frame, COLUMNS), (frame, COLUMNS))]
