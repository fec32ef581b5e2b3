"""`slicebench compare`: two methods, runs or result directories, in one sentence and a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.shared import Results

NOTE = """Paired over the same seeds and images, in percentage points; MAdds saved over seeds alone, in percent. Between
its points a side is its best blind mixture of two of them. One interval in twenty misses; nothing is corrected for the
number of rows."""


def compare(
    first: Annotated[str, typer.Argument(help="a method, run_id, config_id or results directory")],
    second: Annotated[str, typer.Argument(help="what it is held against")],
    results: Results = Path("results"),
) -> None:
    """Compare two methods, runs or result directories at equal cost and at equal accuracy."""
    from tabulate import tabulate

    from bench.reports import plain_strings
    from bench.reports.compare import at, comparison, side, span

    with plain_strings():
        sentence, rows = comparison(side(first, results), side(second, results))
    table = [
        {
            "at": row["what"],
            "": f"{100 * row['at']:.2f} %" if row["first"] is None else at(row),
            first: "" if row["first"] is None else f"{100 * row['first']:.2f} %",
            second: "" if row["second"] is None else f"{100 * row['second']:.2f} %",
            "difference": f"{100 * row['difference']:+.2f}{' %' if row['first'] is None else ''}",
            "95 % interval": span(row),
            "seeds": row["seeds"],
        }
        for row in rows
    ]
    typer.echo(sentence)
    typer.echo()
    typer.echo(tabulate(table, headers="keys", tablefmt="github", disable_numparse=True))
    typer.echo(f"\n{NOTE}")
