"""How busy the machine is with other work: a latency taken beside another job measures the other job.

The load average lags by a minute and counts the measuring process itself. So the processor time that *others*
used while we measured is taken as well: all busy time of the cores we may run on, less that of our processes.
"""

import os
import time
from dataclasses import dataclass

import psutil

BUSY_CORES = 0.25
"""Other processes together using more than this many cores makes a measurement suspect."""
BUSY_FRACTION = 0.05
"""On large machines: more than this fraction of the cores (the background of 64 cores is more than 0.25)."""


@dataclass(frozen=True)
class Load:
    """What else ran while something was measured.

    `load_average` is the one-minute average at the start (None where the system has none); `other_cores` the
    mean number of cores used by other processes, time stolen by a hypervisor included; `cores` those we may
    run on.
    """

    load_average: float | None
    other_cores: float
    cores: int
    seconds: float

    @property
    def busy(self) -> bool:
        """Whether other work was heavy enough to make the measurement suspect."""
        return self.other_cores > max(BUSY_CORES, BUSY_FRACTION * self.cores)


class LoadWatch:
    """Measures the use of the machine by others from its making until `stop`.

    The system counts in ticks of 10 ms, so `stop` waits until at least `minimum_s` seconds were watched.
    """

    def __init__(self, minimum_s: float = 0.3):
        self.minimum_s = minimum_s
        self.load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self.start = _read()

    def stop(self) -> Load:
        """End the watch; returns the load of the whole interval."""
        remaining = self.minimum_s - (time.perf_counter() - self.start.clock)
        if remaining > 0:
            time.sleep(remaining)
        now = _read()
        seconds = max(now.clock - self.start.clock, 1e-9)
        others = (now.system - self.start.system) - (now.own - self.start.own)
        return Load(self.load_average, max(0.0, others) / seconds, len(_our_cores()), seconds)


@dataclass(frozen=True)
class _Reading:
    clock: float  # s
    system: float  # busy processor seconds of our cores, since boot
    own: float  # processor seconds of this process and its children, living or waited for


def _read() -> _Reading:
    return _Reading(time.perf_counter(), _system_seconds(), _own_seconds())


def _system_seconds() -> float:
    """All time of our cores but the idle; a guest's time is already part of `user` and `nice`."""
    per_core = psutil.cpu_times(percpu=True)
    cores = [per_core[index]._asdict() for index in _our_cores() if index < len(per_core)]
    idle = ("idle", "iowait", "guest", "guest_nice")
    return sum(value for times in cores for kind, value in times.items() if kind not in idle)


def _own_seconds() -> float:
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # a child that ended: its time is in the parent's once it was waited for
            continue
        total += times.user + times.system
        total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def _our_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(psutil.cpu_count() or 1))
