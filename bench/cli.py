"""The `slicebench` command: the only place that wires everything together."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.core.errors import UserError, unknown
from bench.core.spec import RunSpec

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


class Executor(StrEnum):
    ray = "ray"
    serial = "serial"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


DataDirectory = Annotated[
    Path | None, typer.Option(envvar="SLICEBENCH_DATA", help="directory of the datasets (digits needs none)")
]
Results = Annotated[Path, typer.Option(help="directory of runs, tables and figures")]
Plugins = Annotated[list[str] | None, typer.Option(help="a Python file that registers methods or datasets")]


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="a recipe's name, path/to/file.py:function, or a JSON file of specs")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, such as train.epochs=3")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="number of seeds, 0 to N-1 (recipes default to 3)")] = None,
    data: DataDirectory = None,
    results: Results = Path("results"),
    device: Device = Device.auto,
    executor: Executor = Executor.ray,
    address: Annotated[str | None, typer.Option(help="an existing Ray cluster to join")] = None,
    plugin: Plugins = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the runs and stop")] = False,
) -> None:
    """Train, evaluate and profile a recipe's runs, then write and print the leaderboard. Complete work is kept."""
    from bench.core.registry import load_plugin
    from bench.core.store import Store

    for file in plugin or []:
        load_plugin(file)
    specs = _specs(recipe, set_ or [], seeds, device)
    _check(specs, data)
    store = Store(results)
    if dry_run:
        _list_runs(specs, store)
        return
    summary = _execute(specs, executor, results, data, address, plugin or [])
    typer.echo(f"runs: {summary}")
    for job, why in {**summary.failed, **summary.skipped}.items():
        typer.echo(f"  {job}: {why}", err=True)
    _report(results, results, f"slicebench report --results {results.name}")
    if not summary.ok:
        raise typer.Exit(1)


def _specs(recipe: str, settings: list[str], seeds: int | None, device: Device) -> list[RunSpec]:
    """The recipe's specs as they will run: settings applied, device resolved, options checked."""
    from dataclasses import replace

    from bench import recipes
    from bench.methods import completed

    pairs = dict(_pair(text) for text in settings)
    specs = recipes.resolve(recipe, None if seeds is None else range(seeds))
    specs = recipes.with_overrides(specs, pairs)
    where = _device(device)
    return recipes.changed(specs, lambda spec: completed(replace(spec, device=where)))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set takes key=value, not {text!r}")
    return key, value


def _device(device: Device) -> str:
    import torch

    available = torch.cuda.is_available()
    if device is Device.cuda and not available:
        raise UserError("--device cuda was asked for, but torch sees no CUDA device here; use --device cpu")
    return "cuda" if available and device is not Device.cpu else "cpu"


def _check(specs: list[RunSpec], data: Path | None) -> None:
    """Find out before anything runs what would fail anyway: data that is not there, budgets that no network meets."""
    from bench.data import load
    from bench.methods import method_of
    from bench.models import MODELS

    datasets = {spec.data: load(spec.data, data) for spec in specs}
    networks: dict[tuple[str, Any], Any] = {}
    for spec in specs:
        images = datasets[spec.data]
        slot = spec.model, spec.data
        if slot not in networks:
            networks[slot] = MODELS.get(spec.model)(classes=len(images.classes), input_channels=images.channels)
        method_of(spec.method).check(spec, networks[slot], images.image_size)


def _list_runs(specs: list[RunSpec], store) -> None:
    from bench.core.store import PHASES

    for spec in specs:
        left = [phase for phase in PHASES if not store.has(spec.run_id, phase)]
        todo = "complete" if not left else "to do: " + ", ".join(left)
        data = f"{spec.data.name}/{spec.data.protocol}"
        typer.echo(f"{spec.run_id}  {spec.model}  {data}  seed {spec.seed}  {spec.train.epochs} epochs  {todo}")


def _execute(specs: list[RunSpec], executor: Executor, results: Path, data: Path | None, address, plugins: list[str]):
    with _progress() as tell:
        if executor is Executor.serial:
            from bench.executors.serial import run_all

            return run_all(specs, results, data, tell, plugins=plugins)
        from bench.executors.ray import run_all as run_on_ray

        return run_on_ray(specs, results, data, tell, address=address, plugins=plugins)


class _progress:
    """A progress bar for people, nothing for machines."""

    def __enter__(self) -> Callable[[str, int, int], None]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task = self.bar.add_task("", total=None)
        self.bar.start()

        def tell(message: str, done: int, total: int) -> None:
            self.bar.update(self.task, description=message[:80], completed=done, total=total)

        return tell

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


@app.command()
def report(
    results: Results = Path("results"),
    out: Annotated[Path | None, typer.Option(help="where tables/ and figures/ go (default: the results)")] = None,
) -> None:
    """Write the tables and figures of all runs in the results directory."""
    _report(results, out or results, f"slicebench report --results {results.name}")


def _report(results: Path, out: Path, command: str) -> None:
    from bench.reports import generate

    written = generate(results, out, command)
    leaderboard = next((path for path in written if path.name == "leaderboard.md"), None)
    if leaderboard is not None:
        typer.echo("\n" + leaderboard.read_text(encoding="utf-8"))
    typer.echo("written:")
    for path in written:
        typer.echo(f"  {path}")


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="a preset (`slicebench list models`) or timm:NAME")],
    image_size: Annotated[int, typer.Option(min=1)] = 224,
    choices: Annotated[str, typer.Option(help="all, or indices and 'largest' separated by commas")] = "all",
    batch: Annotated[str, typer.Option(help="batch sizes to time, separated by commas; none: no latency")] = "",
    form: Annotated[str, typer.Option(help="forms to time, separated by commas: view, extracted")] = "view,extracted",
    gate_options: Annotated[int, typer.Option(min=1, help="outputs of each gate counted as stored")] = 4,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write everything to this file")] = None,
) -> None:
    """What each sub-network of a model costs: multiply-adds in both conventions, parameters, latency if asked for."""
    from bench.profilers.model import FORMS, profile_supernet, profile_timm

    forms = form.split(",")
    for name in forms:
        if name not in FORMS:
            raise unknown("form", name, FORMS)
    sizes = [_positive(part, "--batch") for part in batch.split(",") if part]
    if model.startswith("timm:"):
        found = profile_timm(model.removeprefix("timm:"), image_size, sizes)
    else:
        found = profile_supernet(model, image_size, choices, sizes, forms, gate_options)
    if json_file is not None:
        _write(json_file, json.dumps(found, indent=2) + "\n")
    _print_profile(found)


def _positive(text: str, option: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise UserError(f"{option} takes whole numbers from 1 separated by commas, not {text!r}")
    return int(text)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error


def _print_profile(found: dict[str, Any]) -> None:
    from tabulate import tabulate

    rows = []
    for subnet in found["subnetworks"]:
        row = {
            "sub-network": subnet["name"],
            "MAdds": f"{subnet['madds']:,}",
            "MAdds + pool": f"{subnet['madds_pool']:,}" if "madds_pool" in subnet else "",
            "params active": f"{subnet['params_active']:,}",
        }
        for timed in subnet["latency"]:
            row[f"ms {timed['form']} b{timed['batch']}"] = f"{timed['median_ms']:.2f}"
        rows.append(row)
    typer.echo(f"{found['model']} at {found['image_size']} x {found['image_size']}")
    typer.echo(tabulate(rows, headers="keys", colalign=["left"] + ["right"] * (len(rows[0]) - 1), disable_numparse=True))
    if "params_stored" in found:
        stored = found["params_stored"]
        gate = f" with a gate of {stored['gate_options']} options" if stored["gate"] else ""
        typer.echo(f"parameters stored{gate}: {stored['total']:,} (batch-norm statistics excluded)")


class Listed(StrEnum):
    methods = "methods"
    models = "models"
    datasets = "datasets"
    recipes = "recipes"
    metrics = "metrics"
    reported = "reported"


@app.command("list")
def list_(what: Listed, plugin: Plugins = None) -> None:
    """List what the suite knows."""
    from bench.core.registry import load_plugin
    from bench.listing import listing

    for file in plugin or []:
        load_plugin(file)
    typer.echo(listing(what.value))


def main() -> None:
    """Run the command; a user's mistake is one sentence and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"slicebench: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of a listing went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        print("\nslicebench: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
