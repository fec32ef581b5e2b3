"""Ray nodes that a test starts by itself, outside the shared session."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


def start_node(command: str, log: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    """`ray start ... --block` in a process group of its own, when its node is a part of the cluster."""
    with open(log, "wb") as file:
        how: dict[str, Any] = {"stdout": file, "stderr": subprocess.STDOUT, "start_new_session": True}
        process = subprocess.Popen(shlex.split(command), env=environment, **how)
    deadline = time.monotonic() + 90
    while "Ray runtime started." not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return process


def end(nodes: Sequence[subprocess.Popen]) -> None:
    """End nodes, the last one first: by SIGTERM to `ray start`, which ends its daemons, and by force what is left."""
    for process in reversed(nodes):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
