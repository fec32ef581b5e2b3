"""The `slicebench` command: the front hall, which sends each subcommand to its file in `bench/commands/`."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from bench.commands.compare import compare
from bench.commands.draw import draw
from bench.commands.export import export
from bench.commands.list import list_
from bench.commands.profile import profile
from bench.commands.report import report
from bench.commands.run import run
from bench.commands.shared import USAGE_ERROR, usage_sentence
from bench.commands.verify import verify
from bench.core.errors import UserError, one_line

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Train, measure and compare neural networks whose compute can be cut.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (run, report, compare, verify, profile, export, draw):
    app.command()(command)
app.command("list")(list_)

INTERRUPTED, TERMINATED = 130, 143  # what a shell expects of a process that Ctrl-C or SIGTERM ended
PACKAGE = Path(__file__).parent
LONGEST = 800
"""Characters of a sentence that are printed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the process's own arguments where none are given, and exit.

    A user's mistake is one sentence and exit code 2; a failed run is exit code 1, a traceback a bug.
    """
    sys.exit(exit_code(arguments))


def exit_code(arguments: Sequence[str] | None) -> int:
    """Run the command and say how it ended."""
    warnings.formatwarning = formatted
    terminated: list[int] = []
    try:
        with _sigterm_as_ctrl_c(terminated):
            code = app(arguments, prog_name="slicebench", standalone_mode=False) or 0
    except UserError as error:
        return _complain(str(error))
    except USAGE_ERROR as error:
        sentence = usage_sentence(error)
        return _complain(sentence) if sentence else 2  # no arguments at all: the help was printed
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("\nslicebench: interrupted; run the same command again to go on", file=sys.stderr)
    return TERMINATED if terminated else code


@contextmanager
def _sigterm_as_ctrl_c(terminated: list[int]) -> Iterator[None]:
    """Let SIGTERM (a batch system's cancel, a container's stop) end the command as Ctrl-C does: what it holds is put
    back. The signals that came are appended to `terminated`."""

    def interrupt(number: int, frame: object) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_default_format = warnings.formatwarning


def formatted(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning of this package to its user (a box without an area) as a sentence, others as Python shows them."""
    if category is UserWarning and Path(filename).is_relative_to(PACKAGE):
        return f"slicebench: warning: {message}\n"
    return _default_format(message, category, filename, lineno, line)


def _complain(sentence: str) -> int:
    """Print one line, however long what it quotes is, and whatever is in it."""
    line = one_line(" ".join(sentence.split()))
    shown = line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    print(f"slicebench: {shown}", file=sys.stderr)
    return 2
