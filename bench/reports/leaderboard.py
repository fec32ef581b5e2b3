"""The leaderboard: every row of a split with its interval, the ranks that the data leave open, and its costs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import psutil

from bench.core.errors import UserError
from bench.core.metrics import METRICS
from bench.reports.differences import BySeed, Row, only_scores
from bench.reports.layout import (
    PERCENT,
    PERCENT_CSV,
    PLACE,
    SCORE,
    SEEDS,
    Column,
    Page,
    Section,
    count,
    fixed,
    integer,
    interval,
    name_column,
    number,
    yes,
)
from bench.reports.rows import groups_of, known, rows_of
from bench.reports.runs import Run
from bench.statistics.crossed import row_interval
from bench.statistics.intervals import t_quantile
from bench.statistics.ranks import Ranking, compare_all, memory_needed, ranking, within

BUDGETS = (0.25, 0.5, 0.75)
"""Fractions of the MAdds of the split's costliest row: the rows of at most so many are ranked among themselves too."""

COLUMNS = [
    *PLACE,
    name_column("rank"),
    Column("tied", None, plain=integer, header="tied_with"),
    Column("rank_pooled", None),
    Column("budget", None, plain=integer, header="budget_madds"),
    Column("rank_in_budget", None),
    name_column("method"),
    name_column("model"),
    name_column("variant"),
    name_column("label", "point"),
    Column("point", None),
    Column("kind", None),
    Column("metric", None),
    Column("score_mean", f"{SCORE} %", PERCENT, PERCENT_CSV, "score_percent"),
    Column("score_std", None, PERCENT, PERCENT_CSV, "score_percent_std"),
    Column("interval", "95 % interval", plain=None),
    Column("score_low", None, plain=PERCENT_CSV, header="score_percent_low"),
    Column("score_high", None, plain=PERCENT_CSV, header="score_percent_high"),
    Column("smallest", None, PERCENT, PERCENT_CSV, "smallest_difference_percent"),
    SEEDS,
    Column("images", None, plain=integer),
    Column("madds_mean", "MAdds/image", count, number),
    Column("madds_std", None, plain=number),
    Column("madds_min", None, plain=integer),
    Column("madds_max", None, plain=integer),
    Column("madds_relative", None, plain=fixed(6)),
    Column("madds_theoretical", "theoretical MAdds", count, number),
    Column("unbeaten", None, header="not_worse_at_its_madds", right=False),
    Column("params_stored", "params stored", count, number),
    Column("params_active", None, plain=number),
    Column("on_front", "front", yes, yes, right=False),
    Column("config_id", None),
]
NOTE = """
Cheapest first. The score is the mean over the seeds. The 95 % interval says where the mean score would lie with other
seeds and other images of the same kind; with one seed it covers other images alone. MAdds are multiply-adds of
convolutions and matrix products, mean over the images, gates included; a point is named by what decides and by its
share of those of the costliest row of its model. Front: no other row is cheaper and as good, or as cheap and better.
Rows with * are controls, which look at no image. The CSV has every point's own name, the standard deviation over seeds,
and more.
"""
RANKS_NOTE = """
A rank is the range of places that the data leave open: from one plus the number of rows that are surely better, to the
number of rows less those that are surely worse. Surely means that the paired difference over seeds and images is
significant at 5 % after Holm's correction over all pairs of rows of the section: all its ranges hold at once, but in
one table of twenty. Fewer than three seeds get none. In the CSV: how many rows it is tied with (neither surely better
nor surely worse); the same range pooled, with each row's variance over seeds moved half way to the mean of the section,
where that has six independent trainings; the least difference in percentage points that so many seeds could show, in a
single comparison with a row that varies as much; whether no row of at most the same MAdds is surely better; and the
range among the rows of at most 25, 50 or 75 % of the largest MAdds.
"""
THEORETICAL_NOTE = """
Theoretical MAdds: without products that the method makes zero but executes all the same. Never a saving, and not what
rows are compared by.
"""


def leaderboard_frame(
    points: pd.DataFrame, runs: Sequence[Run], scores: Mapping[Row, BySeed], *, ranks: bool = True
) -> pd.DataFrame:
    """The rows of `points_frame` with what their images say, as columns of their own.

    score_low and score_high; and with `ranks`, None where a row has fewer than three seeds: rank, rank_pooled and
    rank_in_budget ("1 to 4"), tied (number of rows), worse (places, in the split, of the rows surely worse), budget
    (MAdds), smallest (difference), unbeaten ("yes", "no").
    Raises UserError when the rows of a split were scored on different numbers of images.
    """
    parents = {run.config_id: run.parent_config for run in runs}
    told: dict[Any, dict[str, Any]] = {}
    for (split,), group in groups_of(points, "split"):
        rows = rows_of(group)
        of_rows = [scores[split, row["config_id"], row["point"]] for row in rows]
        lines = [_interval(row, one) for row, one in zip(rows, of_rows, strict=True)]
        if ranks:
            clusters = [_root(row["config_id"], parents) for row in rows]
            ranked = _ranks(of_rows, clusters, group["madds_mean"].to_numpy(), split)
            lines = [line | rank for line, rank in zip(lines, ranked, strict=True)]
        told |= dict(zip(group.index, lines, strict=True))
    columns = ("rank", "tied", "rank_pooled", "budget", "rank_in_budget", "smallest", "unbeaten", "worse")
    lines = [dict.fromkeys(columns) | told[index] for index in points.index]
    return points.assign(
        **{name: pd.Series([line[name] for line in lines], points.index, dtype=object) for name in lines[0]}
    )


def _root(config: str, parents: Mapping[str, str | None]) -> str:
    """The config that the training of another began with: the points of its descendants share its luck."""
    while parent := parents.get(config):
        config = parent
    return config


def _interval(row: Mapping[str, Any], scores: BySeed) -> dict[str, float]:
    """The interval of a row's score over seeds and images."""
    if not METRICS[row["metric"]].paired:
        found = row_interval(only_scores(scores))
        return {"score_low": found.low, "score_high": found.high}
    # A mean average precision is no mean over images: its own interval over images takes the place of their variance.
    seeds = row["seeds"]
    by_seeds = t_quantile(seeds) * row["score_std"] / math.sqrt(seeds) if seeds > 1 else 0.0
    half = math.hypot(by_seeds, row["half_over_images"])
    return {"score_low": max(row["score_mean"] - half, 0.0), "score_high": min(row["score_mean"] + half, 1.0)}


def _ranks(rows: Sequence[BySeed], clusters: Sequence[str], madds: np.ndarray, split: str) -> list[dict[str, Any]]:
    """What the comparison of all rows of a split says of each."""
    try:
        pairs = compare_all([only_scores(row) for row in rows], clusters)
    except ValueError as error:
        raise UserError(f"the runs on {split} cannot be compared: {error}") from error
    whole = ranking(pairs.sign, pairs.p_value, madds)
    surely_better = ~whole.tied & (pairs.sign > 0) & np.logical_and.outer(whole.low > 0, whole.low > 0)
    lines: list[dict[str, Any]] = [
        {"rank": _places(whole, k), "smallest": known(pairs.smallest[k])}
        | {"worse": np.flatnonzero(surely_better[k]).tolist()}
        | {"tied": int(whole.tied[k].sum()) if whole.low[k] else None}
        | {"unbeaten": ("yes" if whole.not_worse[k] else "no") if whole.low[k] else None}
        for k in range(len(rows))
    ]
    if pairs.p_pooled is not None:
        pooled = ranking(pairs.sign, pairs.p_pooled, madds)
        for k, line in enumerate(lines):
            line["rank_pooled"] = _places(pooled, k)
    for fraction in sorted(BUDGETS, reverse=True):  # the smallest that a row fits is said last
        budget = fraction * madds.max()
        chosen = madds <= budget
        among = ranking(within(pairs.sign, chosen), within(pairs.p_value, chosen), madds[chosen])
        for place, k in enumerate(np.flatnonzero(chosen)):
            lines[k] |= {"budget": budget, "rank_in_budget": _places(among, place)}
    return lines


def _places(ranks: Ranking, k: int) -> str | None:
    """ "3" or "1 to 4"; None for a row without a rank."""
    low, high = ranks.low[k], ranks.high[k]
    return None if not low else str(low) if low == high else f"{low} to {high}"


def refuse_too_many(points: pd.DataFrame) -> None:
    """Raise UserError where the rows of a split are too many to be ranked in the memory that is free."""
    free = psutil.virtual_memory().available
    for (split,), group in groups_of(points, "split"):
        needed = memory_needed(len(group), max(row["images"] for row in rows_of(group)))
        if needed > free:
            raise UserError(
                f"to rank the {len(group):,} rows of {split} takes {needed / 1e9:.1f} GB of memory, and "
                f"{free / 1e9:.1f} GB are free; for tables without ranks: slicebench report --no-ranks"
            )


def leaderboard_pages(frame: pd.DataFrame, left_out: int) -> list[Page]:
    """One row for each point over its seeds, cheapest first, a section for each split."""
    shown = frame.assign(
        kind=[f"{row['kind']} (control)" if row["control"] else row["kind"] for row in rows_of(frame)],
        label=[f"{row['label']} *" if row["control"] else row["label"] for row in rows_of(frame)],
        interval=[interval(row["score_low"], row["score_high"]) for row in rows_of(frame)],
        madds_theoretical=pd.Series([known(value) for value in frame["madds_theoretical"]], frame.index, dtype=object),
    )
    notes = [NOTE]
    notes += [RANKS_NOTE] if any(shown["rank"]) else []
    notes += [THEORETICAL_NOTE] if any(value is not None for value in shown["madds_theoretical"]) else []
    notes += [METRICS[name].note for name in sorted(set(shown["metric"]))]
    notes += [f"Not in this table, because not evaluated: {left_out} runs (see failures.md)."] if left_out else []
    sections = []
    for (split,), group in groups_of(shown, "split"):
        seeds, images = sorted(set(group["seeds"])), rows_of(group)[0]["images"]
        heading, columns = f"{split}, {images:,} images", COLUMNS
        if len(seeds) == 1:
            heading += f", {seeds[0]} seeds" if seeds[0] > 1 else ", 1 seed"
            columns = [column for column in columns if column is not SEEDS]
        sections.append(Section(heading, group, columns))
    return [Page("leaderboard", "Leaderboard", notes, sections, (shown, COLUMNS))]
