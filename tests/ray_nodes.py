"""Ray nodes that a test starts by itself, outside the shared session."""

import os
import signal
import subprocess
from collections.abc import Sequence


def end(nodes: Sequence[subprocess.Popen]) -> None:
    """End the process groups of nodes, the last one first: by SIGTERM, and by force where that does not help."""
    for process in reversed(nodes):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
