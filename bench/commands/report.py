"""`slicebench report`: tables, figures and the site of what is in the results directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.shared import DataDirectory, Plugins, Results, load_plugins, working
from bench.core.errors import UserError

if TYPE_CHECKING:  # it takes time to import, and the command line imports this file
    from bench.reports.layout import Chosen


def report(
    results: Results = Path("results"),
    out: Annotated[Path | None, typer.Option(help="where tables, figures and site go (default: the results)")] = None,
    no_ranks: Annotated[bool, typer.Option("--no-ranks", help="do not compare the rows of the leaderboard")] = False,
    rows: Annotated[
        list[str] | None, typer.Option(help="rows to show, such as method=ds_net,us_net; again for another column")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="columns of the tables to show, such as method,label,score_percent,madds_mean")
    ] = None,
    data: DataDirectory = None,
    plugin: Plugins = None,
) -> None:
    """Write the tables, the figures and the site of all runs in the results directory."""
    load_plugins(plugin)
    write_and_print(results, out or results, data, not no_ranks, rows or [], columns or "")


def write_and_print(
    results: Path, out: Path, data: Path | None = None, ranks: bool = True, rows: Sequence[str] = (), columns: str = ""
) -> None:
    """Write everything, print the leaderboard and the paths of all."""
    from bench.commands.facts import facts_at_hand
    from bench.reports import generate

    # The command names no path: equal records give equal bytes anywhere.
    options = ([] if ranks else ["--no-ranks"]) + [f"--rows {one}" for one in rows]
    options += [f"--columns {columns}"] if columns else []
    command = " ".join(["slicebench report", *options])
    with working("writing tables, figures and the site"):
        chosen = chosen_of(rows, columns)
        written = generate(results, out, command, ranks=ranks, chosen=chosen, facts=facts_at_hand(data))
    leaderboard = next((path for path in written if path.name == "leaderboard.md"), None)
    if leaderboard is not None:
        _stamp, _, table = leaderboard.read_text(encoding="utf-8").partition("\n")
        typer.echo(table)
    typer.echo("written:")
    for path in written:
        typer.echo(f"  {path}")
    typer.echo(f"open {(out / 'site' / 'index.html').resolve().as_uri()} in a browser")


def chosen_of(rows: Sequence[str], columns: str) -> Chosen:
    """What --rows and --columns say. Raises UserError for a row that is no column=value."""
    from bench.reports.layout import Chosen

    wanted = {}
    for text in rows:
        name, equals, values = text.partition("=")
        if not equals or not name or not values:
            raise UserError(f"--rows takes column=value or column=value,value, not {text!r}")
        wanted[name.strip()] = [value.strip() for value in values.split(",")]
    return Chosen(wanted, [name.strip() for name in columns.split(",") if name.strip()])
