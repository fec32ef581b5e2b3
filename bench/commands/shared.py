"""What the subcommands share: the types of common options, progress for people, and usage errors in one sentence.

The command line is imported to answer `--help`, so a file of this folder imports what takes time when it is called.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.core.errors import UserError
from bench.core.registry import load_plugin

DataDirectory = Annotated[
    Path | None, typer.Option(envvar="SLICEBENCH_DATA", help="directory of the datasets (digits needs none)")
]
Results = Annotated[Path, typer.Option(help="directory of runs, tables and figures")]
Plugins = Annotated[list[str] | None, typer.Option(help="a Python file that registers methods or datasets")]

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # click's own, or that of the click which typer brings along


def usage_sentence(error: Any) -> str:
    """What click says about a command line, in one sentence that ends in where to look."""
    text = " ".join(error.format_message().split()).rstrip(".")
    text = re.sub(r"\. ([A-Z])", lambda start: f"; {start[1].lower()}", text)
    command = error.ctx.command_path if error.ctx else "slicebench"
    return f"{text[:1].lower()}{text[1:]}; see {command} --help" if text else ""


def check_writable(file: Path) -> None:
    """Raise `UserError` before the work is done for a file that could not be written after it."""
    if file.is_dir() or not file.absolute().parent.is_dir() or not os.access(file.absolute().parent, os.W_OK):
        raise UserError(f"{file} cannot be written: {'it is a directory' if file.is_dir() else 'no such directory'}")


def load_plugins(files: list[str] | None) -> None:
    """Run the files of `--plugin`, so that what they register can be named."""
    for file in files or []:
        load_plugin(file)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
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
def working(what: str) -> Iterator[None]:
    """Tell people that something takes a moment, and machines nothing."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield
