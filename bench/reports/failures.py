"""The list of runs that failed, of runs that are not finished, and of runs that contradict themselves."""

from collections.abc import Sequence

import pandas as pd

from bench.reports.inspection import Problem, shortened
from bench.reports.layout import Column, Page, Section, integer, name_column
from bench.reports.runs import Run

RUN = [name_column(name) for name in ("run_id", "method", "model", "dataset")] + [Column("seed", "seed", integer)]
FAILED = [*RUN, *map(name_column, ("phase", "error", "message"))]
UNFINISHED = [*RUN, name_column("missing", "phases missing")]
APART = [name_column(name) for name in ("file", "field", "says", "expected")]
APART_NOTE = """
Set apart: what is wrong with runs that stand in no other table and no figure, because a file of theirs is damaged or
contradicts another. `slicebench verify` looks further, at weights, proofs and versions too.
"""


def failures_pages(runs: Sequence[Run], problems: Sequence[Problem]) -> list[Page]:
    """Runs that failed, runs that are not finished and what is wrong with others; no page where all are complete and
    sound."""
    failed = [_named(run) | _failure(run.error) for run in runs if run.error]
    unfinished = [_named(run) | {"missing": ", ".join(run.missing)} for run in runs if run.missing and not run.error]
    apart = [
        {"file": each.file, "field": each.field, "says": shortened(each.said), "expected": shortened(each.expected)}
        for each in problems
    ]
    kinds = (("Failed", failed, FAILED), ("Not finished", unfinished, UNFINISHED), ("Set apart", apart, APART))
    sections = [Section(heading, pd.DataFrame(rows), columns) for heading, rows, columns in kinds if rows]
    notes = [APART_NOTE] if apart else []
    return [Page("failures", "Runs that are not complete", notes, sections)] if sections else []


def _named(run: Run) -> dict:
    names = {"run_id": run.run_id, "method": run.spec.method, "model": run.spec.model}
    return names | {"dataset": run.spec.data.name, "seed": run.spec.seed}


def _failure(error: dict) -> dict:
    first_line = str(error.get("message", "")).strip().partition("\n")[0]
    return {"phase": error.get("phase", ""), "error": error.get("type", ""), "message": first_line}
