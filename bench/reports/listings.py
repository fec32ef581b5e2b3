"""Tables of things rather than of measurements: reported rows, and runs that are not complete."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.reports.layout import Column, Stamp, count, integer, markdown_table, name_column, used, write_markdown
from bench.reports.reported import ReportedRow
from bench.reports.rows import groups_of
from bench.reports.runs import Run

REPORTED = [
    name_column("method"),
    name_column("model"),
    name_column("point"),
    Column("top1", "top-1 % (reported)", repr),
    Column("top5", "top-5 % (reported)", repr),
    Column("madds_printed", "MAdds (reported)"),
    Column("madds_exact", "MAdds (our count)", count),
    name_column("source"),
    name_column("table"),
    name_column("convention"),
    name_column("note"),
]
REPORTED_NOTE = """
Quoted, not measured here: what the named source prints, after its own training and counting. These numbers are never
ranked against, or put into a column with, those of the leaderboard.
"""


def write_reported(folder: Path, stamp: Stamp, rows: Sequence[ReportedRow]) -> list[Path]:
    """reported.md: numbers quoted from others, with where they stand and how they were counted."""
    if not rows:
        return []
    frame = pd.DataFrame([vars(row) for row in rows]).astype(object)
    frame = frame.where(frame.notna(), None)
    parts = ["# Reported by others", REPORTED_NOTE]
    for (dataset,), group in groups_of(frame, "dataset"):
        parts += [f"## {dataset}", markdown_table(group, used(group, REPORTED))]
    return [write_markdown(folder / "reported.md", stamp, *parts)]


def write_failures(folder: Path, stamp: Stamp, runs: Sequence[Run]) -> list[Path]:
    """failures.md: runs that failed, and runs that are not finished; nothing when all are complete."""
    names = [name_column(name) for name in ("run_id", "method", "model", "dataset")] + [Column("seed", "seed", integer)]
    failed = pd.DataFrame([_named(run) | _failure(run) for run in runs if run.error])
    unfinished = pd.DataFrame(
        [_named(run) | {"missing": ", ".join(run.missing)} for run in runs if run.missing and not run.error]
    )
    parts = ["# Runs that are not complete"]
    if not failed.empty:
        what = [name_column("phase"), name_column("error"), name_column("message")]
        parts += ["## Failed", markdown_table(failed, [*names, *what])]
    if not unfinished.empty:
        parts += ["## Not finished", markdown_table(unfinished, [*names, name_column("missing", "phases missing")])]
    return [write_markdown(folder / "failures.md", stamp, *parts)] if len(parts) > 1 else []


def _named(run: Run) -> dict:
    spec = run.spec
    return {
        "run_id": run.run_id,
        "method": spec.method,
        "model": spec.model,
        "dataset": spec.data.name,
        "seed": spec.seed,
    }


def _failure(run: Run) -> dict:
    error = run.error or {}
    first_line = str(error.get("message", "")).strip().partition("\n")[0]
    return {"phase": error.get("phase", ""), "error": error.get("type", ""), "message": first_line}
