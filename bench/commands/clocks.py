"""`slicebench profile RUN_ID`: what is asked for, and the table of what the points of a run take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.commands.costs import positive
from bench.commands.shared import check_writable
from bench.core.errors import UserError
from bench.core.files import write_json
from bench.core.provenance import environment
from bench.core.store import Store
from bench.export.clocks import FULL, Asked, clocked
from bench.runs.run import open_run
from bench.training.run import Progress


class Typed(NamedTuple):
    """What is asked of a run, as it was typed: forms, batch sizes and clocks separated by commas."""

    points: Sequence[str]
    form: str
    batch: str
    clock: str
    scenario: str | None
    rounds: int


def timed_run(
    store: Store, run_id: str, data: Path | None, typed: Typed, file: Path | None, tell: Progress
) -> list[dict[str, Any]]:
    """The rows of `bench.export.clocks.clocked`; with the environment, they are also written to `file`.

    `typed`: without a batch, 1 and 64; its scenario is of LoadGen, by MLPerf's names.

    Raises:
        UserError: what is asked for cannot be, or the file cannot be written.
    """
    batches = [positive(part, "--batch") for part in typed.batch.split(",") if part] or [1, 64]
    clocks = [part.strip() for part in typed.clock.split(",")]
    if typed.scenario is not None:
        single = typed.scenario == "singlestream"
        if "loadgen" not in clocks:
            raise UserError("--scenario is of LoadGen; add --clock loadgen")
        if not (kept := [size for size in batches if (size == 1) == single]):
            raise UserError(f"--scenario {typed.scenario} asks for {'one image' if single else 'batches'}")
        batches = kept
    asked = Asked(typed.points, [part.strip() for part in typed.form.split(",")], batches, clocks, typed.rounds)
    asked.check()
    if file is not None:
        check_writable(file)
    run = open_run(store, run_id, data)
    rows = clocked(run, asked, tell)
    if file is not None:
        write_json(file, {"run_id": run_id, "environment": environment(run.spec.threads), "rows": rows})
    return rows


def clocks_table(run_id: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for people: for each clock, batch size and point the time in each form, and of the full network's."""
    from tabulate import tabulate

    forms = list(dict.fromkeys(row["form"] for row in rows))
    lines: dict[tuple[str, int, str], dict[str, str]] = {}
    for row in rows:
        line = lines.setdefault((row["clock"], row["batch"], row["point"]), {})
        line |= {"clock": row["clock"], "batch": str(row["batch"]), "point": row["point"]}
        line |= {"MAdds ratio": f"{row['madds_ratio']:.3f}", f"{row['form']} ms": f"{row['median_ms']:.3f}"}
        if row["point"] != FULL:
            line[f"{row['form']} ratio"] = _ratio(row)
    columns = ["clock", "batch", "point", "MAdds ratio", *(f"{form} {of}" for form in forms for of in ("ms", "ratio"))]
    cells = [[line.get(column, "") for column in columns] for line in lines.values()]
    aligned = ["left", "right", "left", *["right"] * (len(columns) - 3)]
    text = tabulate(cells, headers=columns, colalign=aligned, disable_numparse=True)
    busy = "; the machine was busy" if any(row["busy"] for row in rows) else ""
    count, threads = rows[0]["n"], rows[0]["threads"]
    note = (
        f"median of {count} rounds, {threads} thread{'s' * (threads != 1)}{busy}; ratios to the {FULL} in the same form"
    )
    return f"{run_id}\n{text}\n{note}, 95 % intervals"


def _ratio(row: Mapping[str, Any]) -> str:
    interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['ratio']:.3f}{interval}"
