"""authors.md: points with their authors' weights, evaluated here, beside what the authors report of them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.reports.layout import Column, Page, Section, count, fixed, name_column, signed
from bench.reports.reported import ReportedRow
from bench.reports.runs import Run

AS_REPORTED = 0.1
"""In points of top-1: what resizing by another library moves on the same images."""

COLUMNS = [
    name_column("run_id", "run"),
    name_column("model"),
    name_column("point"),
    Column("images", "images", count),
    Column("top1", "top-1 % (evaluated here)", fixed(2)),
    Column("quoted", "top-1 % (reported)", repr),
    Column("difference", "difference", signed(2)),
    name_column("verdict"),
    name_column("key", "reported row"),
]
NOTE = f"""
Weights that their authors trained and published, evaluated here, and what is reported of them: no result of a training
here. The verdict is "as reported" within {AS_REPORTED:g} points, else "differs"; on other images than those of the
report, such as a part of the classes, there is none.
"""


def authors_pages(runs: Sequence[Run], quoted: Sequence[ReportedRow]) -> list[Page]:
    """The page of authors' weights; none where no point says of which reported row it is."""
    by_key, rows = {row.key: row for row in quoted}, []
    for run in runs:
        for point in run.points.values():
            row = by_key.get(point.reported or "")
            if row is not None:
                same = (run.spec.data.name, run.spec.data.protocol) == (row.dataset, "official")
                rows.append(_compared(run, point.name, point.score.value * 100, point.score.n, row, same))
    if not rows:
        return []
    frame = pd.DataFrame(rows)
    return [Page("authors", "Authors' weights", [NOTE], [Section("Evaluated here", frame, COLUMNS)], (frame, COLUMNS))]


def _compared(run: Run, point: str, top1: float, images: int, row: ReportedRow, same: bool) -> dict:
    difference = top1 - row.top1
    verdict = "as reported" if abs(difference) <= AS_REPORTED + 1e-9 else "differs"
    return {
        "run_id": run.run_id,
        "model": run.spec.model,
        "point": point,
        "images": images,
        "top1": top1,
        "quoted": row.top1,
        "difference": difference if same else None,
        "verdict": verdict if same else "other images",
        "key": row.key,
    }
