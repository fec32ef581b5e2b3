"""`slicebench report`: tables and figures of what is in the results directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.shared import Results, working


def report(
    results: Results = Path("results"),
    out: Annotated[Path | None, typer.Option(help="where tables/ and figures/ go (default: the results)")] = None,
    no_ranks: Annotated[bool, typer.Option("--no-ranks", help="do not compare the rows of the leaderboard")] = False,
) -> None:
    """Write the tables and figures of all runs in the results directory."""
    write_and_print(results, out or results, not no_ranks)


def write_and_print(results: Path, out: Path, ranks: bool = True) -> None:
    """Write tables and figures, print the leaderboard and the paths of all."""
    from bench.reports import generate

    with working("writing tables and figures"):
        # The command names no path: equal records give equal bytes anywhere.
        written = generate(results, out, f"slicebench report{'' if ranks else ' --no-ranks'}", ranks=ranks)
    leaderboard = next((path for path in written if path.name == "leaderboard.md"), None)
    if leaderboard is not None:
        _stamp, _, table = leaderboard.read_text(encoding="utf-8").partition("\n")
        typer.echo(table)
    typer.echo("written:")
    for path in written:
        typer.echo(f"  {path}")
