"""`slicebench submit`: a run as one archive that `slicebench verify` accepts on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.shared import Results, working


def submit(
    run_id: Annotated[str, typer.Argument(help="an evaluated run: the name of its folder in the results")],
    out: Annotated[Path, typer.Option(help="the zip file to write")],
    weights: Annotated[
        bool, typer.Option("--weights", help="with the checkpoints, so that it can be executed")
    ] = False,
    hub_dataset: Annotated[
        str | None, typer.Option(help="the dataset's id on the Hugging Face hub, for .eval_results")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Write a run, its per-image scores and environment to one archive, to be verified elsewhere."""
    from bench.reports.submission import write_archive

    with working("packing"):
        names = write_archive(results, run_id, out, weights, hub_dataset)
    for name in names:
        typer.echo(f"  {name}")
    typer.echo(f"{out}: check it with: slicebench verify {run_id} --results {out}{' --execute' if weights else ''}")
