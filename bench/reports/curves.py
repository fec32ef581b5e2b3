"""Each method's accuracy-MAdds curve in a few numbers, with intervals over seeds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from bench.core.metrics import METRICS
from bench.reports.layout import (
    NAMES,
    NONE,
    PERCENT,
    PERCENT_CSV,
    PLACE,
    Column,
    Page,
    Section,
    count,
    integer,
    interval,
    number,
)
from bench.reports.rows import groups_of, rows_of
from bench.statistics.intervals import SeedSummary
from bench.statistics.tradeoff import Curve, area_under_curve, common_range, hypervolume, over_seeds, score_at

BUDGETS = (0.25, 0.5, 0.75)
"""Fractions of the MAdds of the split's costliest point at which accuracies are read off the curves."""
REFERENCE = 1.1
"""The hypervolume's reference: this many times the MAdds of the split's costliest point, and no accuracy."""

COLUMNS = [
    *PLACE,
    *NAMES[:3],
    Column("points", None, plain=integer),
    Column("measure", None),
    Column("madds_low", None, plain=number),
    Column("madds_high", None, plain=number),
    *(Column(name, None, plain=PERCENT_CSV, header=f"{name}_percent") for name in ("mean", "std", "low", "high")),
    Column("n", None, plain=integer, header="seeds"),
    Column("config_id", None),
]
CURVE_NAMES = tuple(column.name for column in NAMES[:3])
NOTE = f"""
The points of a method as one curve, in percent with the 95 % t interval over seeds. Accuracy at a budget of MAdds is
read off the curve's front, interpolated in the logarithm of the MAdds; {NONE} where the curve does not get down to it.
The area is the mean accuracy over the logarithm of the MAdds on the range that all curves of several points cover; the
hypervolume is the dominated share of the box up to {REFERENCE} times the costliest point.
"""

CURVE = ["dataset", "split", "metric", "model", "method", "variant", "config_id"]


def curves_frame(observed: pd.DataFrame) -> pd.DataFrame:
    """Long form: one row for each curve (the points of one config) and measure.

    observed: as by `observations`. Columns: CURVE, points, measure, madds_low, madds_high (the range of an area; twice
    the budget of an accuracy; twice the reference of a hypervolume), and mean, std, n, low, high over the seeds, as
    fractions. An area is the mean accuracy over the logarithm of the MAdds between the two; a hypervolume the dominated
    share of the box from no MAdds to the reference and from no accuracy to 1. nan where a seed's curve does not get
    down to the budget.
    """
    rows = []
    for _, group in groups_of(observed, "split"):
        curves = {key: _by_seed(curve) for key, curve in groups_of(group, *CURVE)}
        several = [c for by_seed in curves.values() for c in by_seed if len(np.unique(np.asarray(c[0]))) > 1]
        span, costliest = common_range(several), max(float(madds) for madds in group["madds_mean"])
        for key, by_seed in curves.items():
            points = max(len(np.asarray(costs)) for costs, _ in by_seed)
            for measured in _measures(by_seed, costliest, span):
                rows.append(dict(zip(CURVE, key, strict=True)) | {"points": points} | measured)
    return pd.DataFrame(rows)


def _by_seed(curve: pd.DataFrame) -> list[Curve]:
    return [(seed["madds_mean"].to_numpy(), seed["score"].to_numpy()) for _, seed in groups_of(curve, "seed")]


def _measures(by_seed: list[Curve], costliest: float, span: tuple[float, float] | None) -> Iterator[dict[str, Any]]:
    """Every measure of one curve; the area only where there are several points and a range common to all curves."""
    for fraction in BUDGETS:
        budget = fraction * costliest
        found = over_seeds(by_seed, lambda costs, scores, at=budget: float(score_at(costs, scores, at)[0]))
        yield _row("accuracy", budget, budget, found)
    if span and all(len(np.asarray(costs)) > 1 for costs, _ in by_seed):
        found = over_seeds(by_seed, lambda costs, scores: area_under_curve(costs, scores, *span))
        yield _row("area", *span, found)
    limit = REFERENCE * costliest
    yield _row("hypervolume", limit, limit, over_seeds(by_seed, lambda c, s: hypervolume(c, s, (limit, 0.0)) / limit))


def _row(measure: str, low: float, high: float, found: SeedSummary) -> dict[str, Any]:
    spread = {"mean": found.mean, "std": found.std, "n": found.n, "low": found.low, "high": found.high}
    return {"measure": measure, "madds_low": low, "madds_high": high, **spread}


def curves_pages(frame: pd.DataFrame) -> list[Page]:
    """A row for each curve; in CSV a row for each of its measures."""
    sections = []
    for (split,), group in groups_of(frame, "split"):
        wide = _wide(group)
        columns = [*NAMES[:3], Column("points", "points", integer)]
        columns += [Column(title, title) for title in wide.columns if title not in (*CURVE_NAMES, "points")]
        sections.append(Section(str(split), wide, columns))
    return [Page("curves", "Accuracy-MAdds curves", [NOTE], sections, (frame, COLUMNS))]


def _wide(group: pd.DataFrame) -> pd.DataFrame:
    """One row for each curve, one column for each measure."""
    rows: dict[str, dict] = {}
    costliest = max(row["madds_low"] for row in rows_of(group)) / REFERENCE
    for row in rows_of(group):
        line = rows.setdefault(row["config_id"], {name: row[name] for name in (*CURVE_NAMES, "points")})
        spread = "" if pd.isna(row["low"]) else f" {interval(row['low'], row['high'])}"
        line[_measure_title(row, costliest)] = NONE if pd.isna(row["mean"]) else PERCENT(row["mean"]) + spread
    return pd.DataFrame(list(rows.values()))


def _measure_title(row: dict, costliest: float) -> str:
    low, high = count(row["madds_low"]), count(row["madds_high"])
    if row["measure"] == "accuracy":
        return f"{METRICS[row['metric']].title} at {low} ({row['madds_low'] / costliest:.0%})"
    return f"area from {low} to {high}" if row["measure"] == "area" else row["measure"]
