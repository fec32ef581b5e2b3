"""What a task is judged by, and how that is called in tables and figures.

Columns named `top1` in frames hold the headline metric of their split, whichever it is; what is written carries the
metric's own name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd

from bench.reports.layout import Column
from bench.reports.rows import rows_of


class Headline(NamedTuple):
    """A metric as columns and axes call it, and the score of an image that its paired tests compare."""

    title: str
    axis: str
    paired: str
    paired_title: str


HEADLINES = {
    "top1": Headline("top-1 %", "top-1 accuracy (%)", "top1", "top-1 %"),
    "map50_voc": Headline("mAP@0.5 %", "mAP at IoU 0.5, all points (%)", "f1_image", "F1 %"),
}


class Judged(NamedTuple):
    """The headline of one point: the metric, its value (a fraction), the sum of the images' scores, their number."""

    metric: str
    value: float
    score: float
    images: int


def judged(point: Mapping[str, Any]) -> Judged:
    """The headline in the summary of an evaluated point. Raises KeyError or TypeError where there is none."""
    if "headline" in point:
        said = point["headline"]
        return Judged(said["metric"], said["value"], said["score"], said["n"])
    correct, n = point["top1"]["correct"], point["top1"]["n"]
    return Judged("top1", correct / n, correct, n)


def metric_of(group: pd.DataFrame) -> str:
    """The headline metric of the rows of one split."""
    return rows_of(group)[0]["metric"]


def renamed(columns: Sequence[Column], metric: str, paired: bool = False) -> list[Column]:
    """The columns with the title of the metric (or of its paired score) in the place of top-1's."""
    title = HEADLINES[metric].paired_title if paired else HEADLINES[metric].title
    return [replace(c, title=title) if c.title == HEADLINES["top1"].title else c for c in columns]


def apart(frame: pd.DataFrame, columns: Sequence[Column], paired: bool = False) -> tuple[pd.DataFrame, list[Column]]:
    """Frame and columns for CSV, where each metric has columns of its own, empty in the rows of the others."""
    metrics = [HEADLINES[metric].paired if paired else metric for metric in frame["metric"]]
    spread, kept = frame.copy(), []
    for column in columns:
        header = column.header or column.name
        if "top1" not in header:
            kept.append(column)
            continue
        for metric in sorted(set(metrics), key=metrics.index):
            name = column.name if metric == "top1" else f"{metric}/{column.name}"
            values = zip(frame[column.name], metrics, strict=True)
            spread[name] = pd.Series([v if m == metric else None for v, m in values], frame.index, dtype=object)
            kept.append(replace(column, name=name, header=header.replace("top1", metric)))
    return spread, kept
