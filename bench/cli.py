"""The `slicebench` command: the only place that wires everything together."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.core.ablation import groups_of, write_ablation
from bench.core.errors import UserError
from bench.core.spec import RunSpec

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Train, measure and compare neural networks whose compute can be cut.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # click's own, or that of the click which typer brings along
INTERRUPTED = 130  # what a shell expects of a process that Ctrl-C ended


Executor = StrEnum("Executor", "ray serial")


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
    seeds: Annotated[int | None, typer.Option(min=1, help="number of seeds, 0 to N-1 (default: the recipe's)")] = None,
    data: DataDirectory = None,
    results: Results = Path("results"),
    device: Device = Device.auto,
    executor: Executor = Executor.ray,
    weights: Annotated[str | None, typer.Option(help="start from pretrained weights: a file or timm:NAME")] = None,
    address: Annotated[str | None, typer.Option(help="an existing Ray cluster to join")] = None,
    plugin: Plugins = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the runs, time a few steps, stop")] = False,
) -> None:
    """Train, evaluate and profile a recipe's runs, then write and print the leaderboard. Complete work is kept."""
    from bench.commands.listing import runs_table
    from bench.core.store import Store
    from bench.recipes import registry as recipes
    from bench.runs import check as recipes_check

    if executor is Executor.serial and address is not None:
        raise UserError("--address names a Ray cluster; leave it out, or use --executor ray")
    _load(plugin)
    with _working("reading the data, checking the specs"):
        given = recipes_check.given_weights(weights)
        settings = [*(set_ or []), *(f"weights={name}" for name in given)]
        specs, groups = _specs(recipe, settings, seeds, device, address)
        summaries = recipes_check.check(specs, data, results, given)
    for summary in summaries:
        print(f"slicebench: {summary}", file=sys.stderr)
    if dry_run:
        typer.echo(runs_table(specs, results, data))
        return
    recipes_check.keep_weights(given, Store(results))  # that it can be written is known before anything runs
    write_ablation(results, recipe, groups)
    plugins = [*(plugin or []), *filter(None, [recipes.file_of(recipe)])]  # what its file registers, workers must know
    summary = _execute(specs, executor, results, data, address, plugins)
    typer.echo(f"phases: {summary}")
    try:
        _report(results, results)
    finally:
        _tell_failures(summary, results)  # last, where it is seen
    if not summary.ok:
        raise typer.Exit(1)


def _tell_failures(summary: Any, results: Path) -> None:
    for job, why in {**summary.failed, **summary.skipped}.items():
        print(f"slicebench: {job} {'failed' if job in summary.failed else 'was skipped'}: {why}", file=sys.stderr)
    if summary.failed:
        print(f"slicebench: tracebacks are in {results}/runs/*/error.json", file=sys.stderr)


def _load(plugins: list[str] | None) -> None:
    from bench.core.registry import load_plugin

    for file in plugins or []:
        load_plugin(file)


def _specs(recipe: str, settings: list[str], seeds: int | None, device: Device, address: str | None):
    """The recipe's specs as they will run: settings applied, device resolved, options checked; and what it compares."""
    from bench.recipes import registry as recipes

    pairs = dict(_pair(text) for text in settings)
    fixed = None if device is Device.auto and "device" in pairs else device.value  # --set holds where it says nothing

    def finish(some: Sequence[RunSpec]) -> list[RunSpec]:
        return recipes.placed(recipes.with_overrides(some, pairs), fixed, local=address is None)

    specs = recipes.resolve(recipe, None if seeds is None else range(seeds))
    return finish(specs), groups_of(specs, finish)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set takes key=value, not {text!r}")
    return key, value


def _execute(specs: list[RunSpec], executor: Executor, results: Path, data: Path | None, address, plugins: list[str]):
    with _progress() as tell:
        if executor is Executor.serial:
            from bench.executors.serial import run_all

            return run_all(specs, results, data, tell, plugins=plugins)
        from bench.executors.ray import run_all as run_on_ray

        return run_on_ray(specs, results, data, tell, address=address, plugins=plugins)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for people, nothing for machines."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    console = Console(stderr=True)
    rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)  # only the text gives way in a narrow window
    text = TextColumn("{task.description}", markup=False, table_column=rest)
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(), text)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda message, done, total: bar.update(task, description=message, completed=done, total=total)


@contextmanager
def _working(what: str) -> Iterator[None]:
    """Tell people that something takes a moment, and machines nothing."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


@app.command()
def report(
    results: Results = Path("results"),
    out: Annotated[Path | None, typer.Option(help="where tables/ and figures/ go (default: the results)")] = None,
) -> None:
    """Write the tables and figures of all runs in the results directory."""
    _report(results, out or results)


def _report(results: Path, out: Path) -> None:
    from bench.reports import generate

    with _working("writing tables and figures"):
        written = generate(results, out, "slicebench report")  # no path: equal records give equal bytes anywhere
    leaderboard = next((path for path in written if path.name == "leaderboard.md"), None)
    if leaderboard is not None:
        _stamp, _, table = leaderboard.read_text(encoding="utf-8").partition("\n")
        typer.echo(table)
    typer.echo("written:")
    for path in written:
        typer.echo(f"  {path}")


@app.command()
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
    from bench.commands.listing import profile_table
    from bench.commands.profile import Request
    from bench.commands.profile import profile as profiled

    with _progress() as tell:
        request = Request(model, image_size, choices, time, batch, form, gate_options, time_limit)
        found = profiled(request, json_file, tell)
    typer.echo(profile_table(found))


@app.command()
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

    _load(plugin)
    with _progress() as tell:
        done = export_run(run_id, choice, form, out, results, data, tell)
    typer.echo(done.summary)


Listed = StrEnum("Listed", "methods models datasets recipes metrics reported")


@app.command("list")
def list_(what: Listed, plugin: Plugins = None) -> None:
    """List what the suite knows."""
    from bench.commands.listing import listing

    _load(plugin)
    typer.echo(listing(str(what)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the process's own arguments where none are given, and exit.

    A user's mistake is one sentence and exit code 2; a failed run is exit code 1, a traceback a bug.
    """
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: Sequence[str] | None) -> int:
    warnings.formatwarning = _formatted
    try:
        code = app(arguments, prog_name="slicebench", standalone_mode=False) or 0
    except UserError as error:
        return _complain(str(error))
    except USAGE_ERROR as error:
        sentence = _usage_sentence(error)
        return _complain(sentence) if sentence else 2  # no arguments at all: the help was printed
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("\nslicebench: interrupted; run the same command again to go on", file=sys.stderr)
    return code


_default_format = warnings.formatwarning
PACKAGE = Path(__file__).parent


def _formatted(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning of this package to its user (a box without an area) as a sentence, others as Python shows them."""
    if category is UserWarning and Path(filename).is_relative_to(PACKAGE):
        return f"slicebench: warning: {message}\n"
    return _default_format(message, category, filename, lineno, line)


def _usage_sentence(error: Any) -> str:
    """What click says about a command line, in one sentence that ends in where to look."""
    text = " ".join(error.format_message().split()).rstrip(".")
    text = re.sub(r"\. ([A-Z])", lambda start: f"; {start[1].lower()}", text)
    command = error.ctx.command_path if error.ctx else "slicebench"
    return f"{text[:1].lower()}{text[1:]}; see {command} --help" if text else ""


def _complain(sentence: str) -> int:
    print(f"slicebench: {sentence}", file=sys.stderr)
    return 2
