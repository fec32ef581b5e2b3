"""`slicebench run`: a recipe's runs from what was typed to the leaderboard."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.commands.report import write_and_print
from bench.commands.shared import DataDirectory, Plugins, Results, load_plugins, progress, working
from bench.core.ablation import Group, groups_of, write_ablation
from bench.core.errors import UserError
from bench.core.settings import pair
from bench.core.spec import RunSpec

Executor = StrEnum("Executor", "ray serial")


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def run(
    recipe: Annotated[str, typer.Argument(help="a recipe's name, path/to/file.py:function, or a JSON file of specs")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, such as train.epochs=3")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="number of seeds, 0 to N-1 (default: the recipe's)")] = None,
    data: DataDirectory = None,
    results: Results = Path("results"),
    device: Device = Device.auto,
    executor: Executor = Executor.ray,
    weights: Annotated[str | None, typer.Option(help="to start from: timm:NAME, FILE, official:FORMAT=FILE")] = None,
    address: Annotated[str | None, typer.Option(help="an existing Ray cluster to join")] = None,
    memory: Annotated[float | None, typer.Option(min=0.1, help="GB that each run may take (default: 2)")] = None,
    plugin: Plugins = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the runs, time a few steps, stop")] = False,
) -> None:
    """Train, evaluate and profile a recipe's runs, then write and print the leaderboard. Complete work is kept."""
    from bench.core.store import Store
    from bench.recipes.registry import file_of
    from bench.runs import check

    _refuse_conflicts(executor, address, memory)
    load_plugins(plugin)
    with working("reading the data, checking the specs"):
        states = check.given_weights(weights)
        settings = [*(set_ or []), *(f"weights={name}" for name in states)]
        specs, groups = specs_to_run(recipe, settings, seeds, device, address)
        states |= check.own_weights(specs)
        summaries = check.check(specs, data, results, states)
    for summary in summaries:
        print(f"slicebench: {summary}", file=sys.stderr)
    if dry_run:
        from bench.commands.dry_run import runs_table

        typer.echo(runs_table(specs, results, data))
        return
    plugins = [*(plugin or []), *filter(None, [file_of(recipe)])]  # what its file registers, workers must know

    def prepare() -> None:
        check.keep_weights(states, Store(results))  # that it can be written is known before anything runs
        write_ablation(results, recipe, groups)

    summary = execute(specs, executor, results, data, address, plugins, prepare, memory)
    if summary is None:
        return
    typer.echo(f"phases: {summary}")
    try:
        write_and_print(results, results, data)
    finally:
        _print_failures(summary, results)  # last, where it is seen
    if not summary.ok:
        raise typer.Exit(1)


def _refuse_conflicts(executor: Executor, address: str | None, memory: float | None) -> None:
    for option, value in (("--address names a Ray cluster", address), ("--memory is what Ray places runs by", memory)):
        if executor is Executor.serial and value is not None:
            raise UserError(f"{option}; leave it out, or use --executor ray")
    if executor is Executor.ray and "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError("torchrun starts the processes of a run, as Ray would: use --executor serial with it")


def specs_to_run(
    recipe: str, settings: list[str], seeds: int | None, device: Device, address: str | None
) -> tuple[list[RunSpec], list[Group]]:
    """The recipe's specs as they will run: settings applied, device resolved, options checked; and what it compares."""
    from bench.recipes.registry import resolve
    from bench.runs.prepare import placed, with_overrides

    pairs = dict(pair(text) for text in settings)
    fixed = None if device is Device.auto and "device" in pairs else device.value  # --set holds where it says nothing

    def finish(some: Sequence[RunSpec]) -> list[RunSpec]:
        return placed(with_overrides(some, pairs), fixed, local=address is None)

    specs = resolve(recipe, None if seeds is None else range(seeds), pairs)
    return finish(specs), groups_of(specs, finish)


def execute(
    specs: list[RunSpec],
    executor: Executor,
    results: Path,
    data: Path | None,
    address: str | None,
    plugins: list[str],
    prepare: Callable[[], None],
    memory: float | None = None,
) -> Any:
    """All phases of all runs, on an executor, once `prepare` was called; what became of them. None in a process that
    follows another (torchrun)."""
    if executor is Executor.serial:
        from bench.executors.serial import run_all
        from bench.runs.together import check_workers, follow, joined, leading

        with joined(specs[0].device if specs else "cpu") as group:
            check_workers(specs, group)
            if group.rank:
                return follow(group)
            prepare()
            with progress() as tell, leading(group) as run:
                return run_all(specs, results, data, tell, plugins=plugins, run=run)
    from bench.executors.ray import MEMORY_BYTES
    from bench.executors.ray import run_all as run_on_ray

    prepare()
    with progress() as tell:
        memory_bytes = MEMORY_BYTES if memory is None else int(memory * 1e9)
        return run_on_ray(specs, results, data, tell, address=address, plugins=plugins, memory_bytes=memory_bytes)


def _print_failures(summary: Any, results: Path) -> None:
    for job, why in {**summary.failed, **summary.skipped}.items():
        print(f"slicebench: {job} {'failed' if job in summary.failed else 'was skipped'}: {why}", file=sys.stderr)
    if summary.failed:
        print(f"slicebench: tracebacks are in {results}/runs/*/error.json", file=sys.stderr)
