"""`slicebench profile`: what each sub-network of a model costs, as a table for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands.shared import DataDirectory, Plugins, Results, check_writable, load_plugins, progress
from bench.core.errors import UserError

if TYPE_CHECKING:
    from bench.core.store import Store

Scenario = StrEnum("Scenario", "singlestream offline")


def profile(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="a preset (`slicebench list models`), timm:NAME, or a trained run")],
    image_size: Annotated[
        int | None, typer.Option(min=1, help="height and width of the images (default: what the model was made for)")
    ] = None,
    choices: Annotated[str, typer.Option(help="all (that have a name), routable, spread:N, or 0,13,largest")] = "all",
    batch: Annotated[str, typer.Option(help="batch sizes to time, separated by commas; none: no latency")] = "",
    time: Annotated[str, typer.Option(help="which to time, if not all of --choices: spread:8, or as there")] = "",
    form: Annotated[str, typer.Option(help="forms to time: view, extracted, onnx, openvino")] = "view,extracted",
    time_limit: Annotated[float, typer.Option(min=0, help="seconds of rounds for each batch size")] = 240.0,
    gate_options: Annotated[int, typer.Option(min=1, help="outputs of each gate counted as stored")] = 4,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write everything to this file")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="of a preset: where its time goes, beside what the machine could do")
    ] = False,
    figure: Annotated[Path | None, typer.Option(help="with --explain: also draw it into this file")] = None,
    point: Annotated[list[str] | None, typer.Option(help="of a run: a point to time (default: all)")] = None,
    clock: Annotated[str, typer.Option(help="of a run: own, or loadgen, MLPerf's load generator")] = "own",
    scenario: Annotated[
        Scenario | None, typer.Option(help="of loadgen: singlestream is batch 1, offline any other (default: both)")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="of a run: rounds of all points; six give an interval")] = 15,
    results: Results = Path("results"),
    data: DataDirectory = None,
    plugin: Plugins = None,
) -> None:
    """What each sub-network of a model costs: multiply-adds in both conventions, parameters, latency if asked for.

    With --json a profile that was broken off goes on at the batch size where it was, by the same command.
    Of a trained run: how long its points take on images of the test split, in each form and by each clock, beside the
    full network in the same form.
    """
    from bench.core.store import Store

    store = Store(results, writable=False) if results.is_dir() else None
    of_run = store is not None and model in store.runs()
    _refuse_others(context, RUN if of_run else EXPLAIN if explain else MODEL)
    if store is not None and of_run:
        load_plugins(plugin)
        typed = {name: context.params[name] for name in ("form", "batch", "clock", "scenario", "rounds")}
        _of_run(store, model, data, {"points": point or (), **typed}, json_file)
    elif explain:
        _explained(model, image_size, choices, batch, json_file, figure)
    else:
        names = ("image_size", "choices", "time", "batch", "form", "gate_options", "time_limit")
        _of_model(model, {name: context.params[name] for name in names}, json_file)


COMMON = {"model", "batch", "json_file"}
MODEL = COMMON | {"image_size", "choices", "time", "form", "time_limit", "gate_options"}
EXPLAIN = COMMON | {"image_size", "choices", "explain", "figure"}
RUN = COMMON | {"form", "point", "clock", "scenario", "rounds", "results", "data", "plugin"}
"""The options of each of the three things that can be measured."""
FROM_ELSEWHERE = {"data", "results", "plugin"}  # may be set for all commands alike


def _refuse_others(context: typer.Context, own: set[str]) -> None:
    """Raise `UserError` for an option that says nothing about what is measured."""
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if source is None or source.name != "COMMANDLINE" or option.name in own | FROM_ELSEWHERE:
            continue
        if option.name in RUN - MODEL:
            model, results = context.params["model"], context.params["results"]
            raise UserError(f"{option.opts[0]} is of a trained run, and there is no run {model} in {results}")
        if option.name == "figure" and own is MODEL:
            raise UserError("--figure is drawn of what --explain measures; add it")
        what = "a run" if own is RUN else "what --explain measures"
        raise UserError(f"{option.opts[0]} says nothing about {what}; leave it out")


def _of_model(model: str, typed: dict[str, Any], file: Path | None) -> None:
    from bench.commands.costs import Request, measured

    with progress() as tell:
        costs = measured(Request(model, **typed), file, tell)
    typer.echo(profile_table(costs))


def _explained(
    model: str, image_size: int | None, choices: str, batch: str, file: Path | None, figure: Path | None
) -> None:
    from bench.commands.costs import positive
    from bench.commands.explain import explained, explained_table
    from bench.reports.explained import explained_figure

    batches = [positive(part, "--batch") for part in batch.split(",") if part] or [1, 64]
    for path in filter(None, (file, figure)):
        check_writable(path)
    with progress() as tell:
        values = explained(model, image_size, choices, batches, file, tell)
    if figure is not None:
        explained_figure(values, figure)
    typer.echo(explained_table(values))


def _of_run(store: Store, run_id: str, data: Path | None, typed: dict[str, Any], file: Path | None) -> None:
    from bench.commands.clocks import Typed, clocks_table, timed_run

    with progress() as tell:
        rows = timed_run(store, run_id, data, Typed(**typed), file, tell)
    typer.echo(clocks_table(run_id, rows))


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
