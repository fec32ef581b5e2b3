"""Whether a machine can do a driver's runs: it sees the driver's results directory and holds the same code."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core.lease import process_started, this_host
from bench.core.provenance import code_digest
from bench.core.spec import RunSpec
from bench.executors.attempt import FAILED, Outcome, attempt
from bench.executors.pace import note, note_file

PREFIX = ".driver."


@contextlib.contextmanager
def shared_token(root: Path) -> Iterator[str]:
    """The name of a file in the results by which a worker sees that its results directory is the driver's."""
    _sweep(root)
    token = f"{PREFIX}{secrets.token_hex(8)}.tmp"
    (root / token).write_text(f"{this_host()} {os.getpid()} {process_started(os.getpid())}")
    try:
        yield token
    finally:
        for file in root.glob(f"{token.removesuffix('.tmp')}*.tmp"):
            file.unlink(missing_ok=True)


def _sweep(root: Path) -> None:
    """Remove what drivers of this machine left when they were killed: their tokens, and the notes beside these."""
    for file in root.glob(f"{PREFIX}*.tmp"):
        with contextlib.suppress(OSError, ValueError):
            host, pid, started = file.read_text().split()
            if host == this_host() and process_started(int(pid)) != started:
                for each in root.glob(f"{file.stem}*.tmp"):
                    each.unlink(missing_ok=True)


def node_problem(root: Path, token: str, code: str) -> str:
    """What keeps the machine that this runs on from doing the driver's runs, in a few words; "" for nothing."""
    if not (root / token).exists():
        return f"it does not see the results directory {root} of the driver: put --results on storage that all share"
    if code_digest() != code:
        return "it holds another version of slicebench than the driver"
    return ""


def guarded_attempt(token: str, code: str, spec: RunSpec, phase: str, root: Path, *rest: Any) -> Outcome:
    """`attempt`, on machines that joined the cluster later too. It leaves a note of where it is for the driver."""
    if problem := node_problem(root, token, code):
        return Outcome(FAILED, f"a machine of the cluster cannot do it: {problem}")
    return attempt(spec, phase, root, *rest, say=note(note_file(root, token, spec.run_id, phase)))
