"""`slicebench export`: a network of a run as files that run elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.shared import DataDirectory, Plugins, Results, load_plugins, progress


def export(
    run_id: Annotated[str, typer.Argument(help="a trained run: the name of its folder in the results")],
    out: Annotated[Path, typer.Option(help="the file to write")],
    choice: Annotated[
        str | None, typer.Option(help="a sub-network: an index of the ladder, largest, or spelled out")
    ] = None,
    point: Annotated[str | None, typer.Option(help="a point's name; a dynamic one routes inside its onnx file")] = None,
    form: Annotated[str, typer.Option("--format", help="onnx, pt2 or safetensors")] = "onnx",
    results: Results = Path("results"),
    data: DataDirectory = None,
    plugin: Plugins = None,
) -> None:
    """Write a sub-network or a point of a run to one file that runs elsewhere, after a comparison of both."""
    from bench.export import export_run

    load_plugins(plugin)
    with progress() as tell:
        done = export_run(run_id, choice, form, out, results, data, tell, point)
    typer.echo(done.summary)
