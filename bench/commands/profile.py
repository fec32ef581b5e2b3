"""`slicebench profile`: what each sub-network of a model costs, as a table for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.commands.shared import progress


def profile(
    model: Annotated[str, typer.Argument(help="a preset (`slicebench list models`) or timm:NAME")],
    image_size: Annotated[
        int | None, typer.Option(min=1, help="height and width of the images (default: what the model was made for)")
    ] = None,
    choices: Annotated[str, typer.Option(help="all (that have a name), routable, spread:N, or 0,13,largest")] = "all",
    batch: Annotated[str, typer.Option(help="batch sizes to time, separated by commas; none: no latency")] = "",
    time: Annotated[str, typer.Option(help="which to time, if not all of --choices: spread:8, or as there")] = "",
    form: Annotated[str, typer.Option(help="forms to time: view, extracted, onnx")] = "view,extracted",
    time_limit: Annotated[float, typer.Option(min=0, help="seconds of rounds for each batch size")] = 240.0,
    gate_options: Annotated[int, typer.Option(min=1, help="outputs of each gate counted as stored")] = 4,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write everything to this file")] = None,
) -> None:
    """What each sub-network of a model costs: multiply-adds in both conventions, parameters, latency if asked for.

    With --json a profile that was broken off goes on at the batch size where it was, by the same command.
    """
    from bench.commands.costs import Request, measured

    with progress() as tell:
        request = Request(model, image_size, choices, time, batch, form, gate_options, time_limit)
        costs = measured(request, json_file, tell)
    typer.echo(profile_table(costs))


def profile_table(costs: dict[str, Any]) -> str:
    """What `costs.measured` returns as a table for people: a row for each sub-network, then what is stored."""
    from tabulate import tabulate

    rows = [_profile_row(subnet) for subnet in costs["subnetworks"]]
    columns = {column for row in rows for column in row}  # not every sub-network is timed
    aligned = ["left"] + ["right"] * (len(columns) - 1)
    lines = [
        f"{costs['model']} at {costs['image_size']} x {costs['image_size']}",
        tabulate(rows, headers="keys", colalign=aligned, disable_numparse=True),
    ]
    if stored := costs.get("params_stored"):
        options = stored["gate_options"]
        gates = f" with {'gates' if stored['gates'] > 1 else 'a gate'} of {options} options" if stored["gate"] else ""
        lines.append(f"parameters stored{gates}: {stored['total']:,} (batch-norm statistics excluded)")
    lines += _how_timed([timed for subnet in costs["subnetworks"] for timed in subnet["latency"]])
    return "\n".join(lines)


def _how_timed(latency: Sequence[dict[str, Any]]) -> list[str]:
    """One line: how many calls the medians are of, and beside what they were taken."""
    if not latency:
        return []
    calls = ", ".join(f"{n} at batch {batch}" for batch, n in {timed["batch"]: timed["n"] for timed in latency}.items())
    busy = "; the machine was busy" if any(timed["busy"] for timed in latency) else ""
    return [f"latency: median of calls ({calls}), {latency[0]['threads']} threads{busy}"]


def _profile_row(subnet: dict[str, Any]) -> dict[str, str]:
    row = {"sub-network": subnet["name"], "MAdds": f"{subnet['madds']:,}"}
    if "madds_pool" in subnet:
        row["MAdds + pool"] = f"{subnet['madds_pool']:,}"
    row["params active"] = f"{subnet['params_active']:,}"
    return row | {f"ms {timed['form']} b{timed['batch']}": f"{timed['median_ms']:.2f}" for timed in subnet["latency"]}
