"""Peak memory: of this process, of a tree of processes.

The kernel keeps the peak of one process. That of a tree (a Ray run: driver, daemons, workers) is sampled, so
a spike shorter than the interval can be missed, and pages shared between processes are counted in each, so a
sample is an upper bound of what was in use.

    python -m bench.profilers.memory COMMAND ...     run a command and say the peak of its tree
"""

import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import psutil

MB = 1e6  # bytes


def peak_rss_mb() -> float:
    """Largest resident set of this process since it started, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / MB


class TreePeak:
    """Samples the resident set of a process and all its descendants while a `with` block runs.

        with TreePeak() as peak:
            work()
        peak.mb

    `pid` defaults to this process. `mb` is the largest sum seen, in MB; it never falls.
    """

    def __init__(self, pid: int | None = None, interval_s: float = 0.05):
        self.mb = 0.0
        self._root = psutil.Process(pid)
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tree-peak", daemon=True)

    def __enter__(self) -> "TreePeak":
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        self.mb = max(self.mb, tree_rss_mb(self._root))


def tree_rss_mb(root: psutil.Process) -> float:
    """Resident sets of a process and its descendants now, summed, in MB; 0 when it has ended."""
    try:
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0
    for process in tree:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / MB


@dataclass(frozen=True)
class CommandPeak:
    """Exit status, peak of the process tree (MB) and seconds of a command."""

    status: int
    peak_mb: float
    seconds: float


def peak_of_command(command: Sequence[str]) -> CommandPeak:
    """Run a command to its end and watch its tree. Raises OSError when it cannot be started."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    with TreePeak(process.pid) as peak:
        status = process.wait()
    return CommandPeak(status, peak.mb, time.perf_counter() - start)


def main() -> int:
    """Watch the command given as arguments; returns its exit status, 2 where there is none to start."""
    try:
        result = peak_of_command(sys.argv[1:])
    except (IndexError, OSError) as error:
        why = error if isinstance(error, OSError) else "which command?"
        print(f"bench.profilers.memory: {why}", file=sys.stderr)
        return 2
    print(f"peak memory of the process tree: {result.peak_mb:.0f} MB in {result.seconds:.0f} s", file=sys.stderr)
    return result.status


if __name__ == "__main__":
    sys.exit(main())
