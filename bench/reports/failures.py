"""The list of runs that failed, and of runs that are not finished."""

from collections.abc import Sequence

import pandas as pd

from bench.reports.layout import Column, Page, Section, integer, name_column
from bench.reports.runs import Run

RUN = [name_column(name) for name in ("run_id", "method", "model", "dataset")] + [Column("seed", "seed", integer)]
FAILED = [*RUN, *map(name_column, ("phase", "error", "message"))]
UNFINISHED = [*RUN, name_column("missing", "phases missing")]


def failures_pages(runs: Sequence[Run]) -> list[Page]:
    """Runs that failed, and runs that are not finished; no page when all are complete."""
    failed = [_named(run) | _failure(run.error) for run in runs if run.error]
    unfinished = [_named(run) | {"missing": ", ".join(run.missing)} for run in runs if run.missing and not run.error]
    sections = [
        Section(heading, pd.DataFrame(rows), columns)
        for heading, rows, columns in (("Failed", failed, FAILED), ("Not finished", unfinished, UNFINISHED))
        if rows
    ]
    return [Page("failures", "Runs that are not complete", [], sections)] if sections else []


def _named(run: Run) -> dict:
    names = {"run_id": run.run_id, "method": run.spec.method, "model": run.spec.model}
    return names | {"dataset": run.spec.data.name, "seed": run.spec.seed}


def _failure(error: dict) -> dict:
    first_line = str(error.get("message", "")).strip().partition("\n")[0]
    return {"phase": error.get("phase", ""), "error": error.get("type", ""), "message": first_line}
