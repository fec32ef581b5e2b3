"""`slicebench export`: a network of a run as files that run elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.shared import DataDirectory, Plugins, Results, load_plugins, progress


def export(
    run_id: Annotated[str, typer.Argument(help="a trained run: the name of its folder in the results")],
    choice: Annotated[str, typer.Option(help="an index of the ladder, largest, a point's name, or dynamic (routed)")],
    out: Annotated[Path, typer.Option(help="the file to write; for a routed network a new directory")],
    form: Annotated[str, typer.Option("--format", help="onnx, pt2 or safetensors")] = "onnx",
    results: Results = Path("results"),
    data: DataDirectory = None,
    plugin: Plugins = None,
) -> None:
    """Write a sub-network or the routed network of a run to files that run elsewhere, after a comparison of both."""
    from bench.export import export_run

    load_plugins(plugin)
    with progress() as tell:
        done = export_run(run_id, choice, form, out, results, data, tell)
    typer.echo(done.summary)
