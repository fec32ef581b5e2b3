"""`slicebench verify`: what of a results directory holds, and what cannot be said here."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.commands.shared import DataDirectory, Plugins, Results, check_writable, load_plugins, progress
from bench.core.errors import NotAtHand, UserError, one_line, unknown

CANNOT = (
    "Not shown by this: that training never saw the test split, and that no choice was made on it. Numbers that were "
    "changed with everything that they follow from pass the consistent level; the verified level executes them again."
)


def verify(
    runs: Annotated[list[str] | None, typer.Argument(help="run_ids (default: all of the results directory)")] = None,
    execute: Annotated[
        bool, typer.Option("--execute", help="also run every point from its checkpoint and data")
    ] = False,
    rerun: Annotated[int, typer.Option(min=0, help="train the first N runs again and compare")] = 0,
    results: Results = Path("results"),
    data: DataDirectory = None,
    plugin: Plugins = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write everything to this file")] = None,
) -> None:
    """Check a results directory: consistent (recomputed from what lies there), or verified (executed again)."""
    from bench.core.files import write_json
    from bench.reports.consistent import check_store

    load_plugins(plugin)
    if json_file is not None:
        check_writable(json_file)
    findings = check_store(results)
    for run_id in runs or []:
        if run_id not in findings:
            raise unknown("run", run_id, findings)
    chosen = {run_id: each for run_id, each in findings.items() if not runs or run_id in runs}
    said: dict[str, dict[str, Any]] = {}
    with progress() as tell:
        for number, (run_id, each) in enumerate(chosen.items()):
            problems, missing, tier = [str(problem) for problem in each.problems], list(each.missing), "consistent"
            if (execute or number < rerun) and not problems:
                more, notes, not_here = _executed(results, run_id, data, tell, number < rerun)
                problems += more
                missing += not_here
                each.notes += notes
                tier = "consistent" if not_here else "verified"
            said[run_id] = {
                "tier": "failed" if problems else tier,
                "problems": problems,
                "not verifiable here": missing,
                "notes": each.notes,
                "digest": each.digest,
            }
    for run_id, about in said.items():
        typer.echo(one_line(f"{run_id}: {about['tier']}"))
        for key in ("problems", "not verifiable here", "notes"):
            for line in about[key]:
                typer.echo(one_line(f"  {'not verifiable here: ' if key == 'not verifiable here' else ''}{line}"))
    failed = sum(about["tier"] == "failed" for about in said.values())
    typer.echo(f"{len(said) - failed} of {len(said)} runs hold. {CANNOT}")
    if json_file is not None:
        write_json(json_file, {"verify_version": 1, "date": date.today().isoformat(), "runs": said})
    if failed:
        raise typer.Exit(1)


def _executed(
    results: Path, run_id: str, data: Path | None, tell: Any, again: bool
) -> tuple[list[str], list[str], list[str]]:
    """Problems, notes and what is not verifiable here, of executing a run (and training it again)."""
    from bench.core.store import Store
    from bench.runs.verify import reexecute, rerun

    store = Store(results, writable=False)
    if not all(store.has(run_id, phase) for phase in ("train", "eval")):
        return [], [], ["it is not evaluated"]
    try:
        differences, notes = reexecute(store, run_id, data, tell)
        if again:
            differences += rerun(store, run_id, data, tell)
    except NotAtHand as error:
        return [], [], [str(error)]
    except UserError as error:
        return [str(error)], [], []
    return [f"{what}: the record says {was}, executed it is {now}" for what, was, now in differences], notes, []
