"""The table of gates: where they send images, whether rightly, and what that is worth, from per-image scores."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.core.metrics import paired_metric
from bench.reports.controls import fixed_points
from bench.reports.differences import read_scores
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
    Section,
    by,
    count,
    fixed,
    interval,
    name_column,
    number,
    signed,
)
from bench.reports.rows import rows_of
from bench.reports.runs import EvaluatedPoint, Run
from bench.statistics.intervals import summarise
from bench.statistics.routing import entropy_bits, is_wide, oracle, sent_on, separation


def _share(value: Mapping[str, float]) -> str:
    return ", ".join(f"{route}: {share:.0%}" for route, share in value.items())


def _against(short: str, title: str) -> list[Column]:
    return [
        Column(f"{short}_difference", f"over {title}", signed(2, 100), PERCENT_CSV, f"{short}_difference_percent"),
        Column(f"{short}_interval", "95 % interval", plain=None),
        Column(f"{short}_low", None, plain=PERCENT_CSV, header=f"{short}_difference_percent_low"),
        Column(f"{short}_high", None, plain=PERCENT_CSV, header=f"{short}_difference_percent_high"),
        name_column(f"{short}_verdict", "verdict"),
    ]


AGAINST = [*_against("random", "random"), *_against("hull", "hull")]
DOING = [
    Column("routing", "routing", _share, _share, right=False),
    Column("entropy", "entropy (bits)", fixed(2), fixed(4)),
    Column("wide_if_wrong", "sent on if wrong %", fixed(1, 100), PERCENT_CSV, "sent_on_if_wrong_percent"),
    Column("wide_if_right", "if right %", fixed(1, 100), PERCENT_CSV, "sent_on_if_right_percent"),
    Column("separation", "separation", fixed(3), fixed(6)),
    Column("separation_interval", "95 % interval", plain=None),
    Column("separation_low", None, plain=fixed(6)),
    Column("separation_high", None, plain=fixed(6)),
]
WORTH = [
    Column("metric", None),
    Column("score_mean", f"{SCORE} %", PERCENT, PERCENT_CSV, "score_percent"),
    Column("madds_mean", "MAdds/image", count, number),
    Column("front_madds", "of a shared front", count, number, "front_madds"),
    Column("oracle_score", "oracle % (derived)", PERCENT, PERCENT_CSV, "oracle_score_percent_derived"),
    Column("oracle_madds", "oracle MAdds (derived)", count, number, "oracle_madds_derived"),
    Column("regret", "regret", PERCENT, PERCENT_CSV, "regret_percent"),
    Column("excess", "MAdds over oracle %", signed(1, 100), PERCENT_CSV, "madds_over_oracle_percent"),
    *AGAINST,
]
ROW = ("split", "config_id", "point")
COLUMNS = [*PLACE, *NAMES, SEEDS, *DOING, *WORTH, Column("config_id", None)]
NOTE = """
What the gates of each dynamic point do with the images, means over seeds. Entropy: of the share of images on each
route. Sent on: how many images go past the narrowest network, of those that it gets wrong and of those that it gets
right when it runs alone. Separation: the probability that an image which it gets wrong is given more MAdds than one
that it gets right, ties counted half; 0.5 is routing that knows nothing of difficulty (t interval over seeds).
"""
WORTH_NOTE = """
What the routing is worth. The front of a cascade is what the networks that it runs share, paid for once; 0: they share
no layer, and each that ran is paid for whole. The oracle is derived from the scores of the fixed choices, never run,
and pays for no gate: the cheapest choice of the routing space that solves an image, else the cheapest. Regret: its
score less the gate's, in percentage points. The advantages over random routing in the same proportions and over the
hull of the fixed choices at equal MAdds, with their intervals, are those of the table of controls. n/a: that control
was not run, or several gates, whose fixed choices are a few of the routes that an oracle could take. Collapsed: in
every seed all images go one way.
"""


def gates_frame(points: pd.DataFrame, runs: Sequence[Run], controls: pd.DataFrame) -> pd.DataFrame:
    """One row for each dynamic point that has controls on its checkpoint.

    points: as by `points_frame`; controls: as by `controls_frame`. Columns: what names the point, metric (of the
    images' mean score), madds_mean, routing; the means over seeds of `_told`; separation_low and _high (t interval);
    and of each control, random and hull, the difference, its interval, and the verdict. nan or None where a control was
    not run.
    """
    if controls.empty:
        return pd.DataFrame()
    against: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for line in rows_of(controls):
        against.setdefault(tuple(line[name] for name in ROW), {}).setdefault(line["role"], line)
    fixed = {run.control.of: run for run in runs if run.control and run.control.role == "fixed"}
    told: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for run in runs:
        for point in run.points.values():
            key = (point.score.split, run.config_id, point.name)
            if key in against:
                told.setdefault(key, []).append(_told(run, point, fixed.get(run.run_id)))
    rows = []
    for row in sorted(rows_of(points), key=_order):
        key = tuple(row[name] for name in ROW)
        if key not in told:
            continue
        names = ("dataset", "split", "model", "method", "variant", "config_id", "point", "seeds")
        line = {name: row[name] for name in (*names, "madds_mean", "routing")}
        line |= {name: float(np.mean([one[name] for one in told[key]])) for name in told[key][0]}
        spread = summarise([one["separation"] for one in told[key]])
        line |= {"metric": paired_metric(row["metric"]), "separation_low": spread.low, "separation_high": spread.high}
        for short, role in (("random", "random"), ("hull", "fixed")):
            control = against[key].get(role, {})
            line |= {f"{short}_{part}": control.get(part, math.nan) for part in ("difference", "low", "high")}
            line[f"{short}_verdict"] = control.get("verdict")
        rows.append(line)
    return pd.DataFrame(rows)


def _order(row: dict[str, Any]) -> list[tuple]:
    return [natural(row[name]) for name in ("split", "model", "method", "variant", "point", "config_id")]


def _told(run: Run, point: EvaluatedPoint, fixed: Run | None) -> dict[str, float]:
    """What one run's gates did at one point; `fixed` holds the fixed sub-networks on its checkpoint."""
    mine = read_scores(run)[point.name]
    names = ("wide_if_wrong", "wide_if_right", "separation", "oracle_score", "oracle_madds", "regret", "excess")
    told = {"entropy": entropy_bits(mine.route), **dict.fromkeys(names, math.nan)}
    told["front_madds"] = math.nan if point.front_madds is None else float(point.front_madds)
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


def gates_pages(frame: pd.DataFrame) -> list[Page]:
    """What gates do, and what it is worth; no page without controls."""
    if frame.empty:
        return []
    for short, scale in (("random", 100.0), ("hull", 100.0), ("separation", 1.0)):
        pairs = zip(frame[f"{short}_low"], frame[f"{short}_high"], strict=True)
        frame = frame.assign(**{f"{short}_interval": [interval(low, high, scale=scale) for low, high in pairs]})
    sections = [
        section
        for doing in by("split", frame, [*NAMES, SEEDS, *DOING])
        for section in (doing, Section("", doing.frame, [*NAMES, *WORTH]))
    ]
    return [Page("gates", "Gates", [NOTE, WORTH_NOTE], sections, (frame, COLUMNS))]
