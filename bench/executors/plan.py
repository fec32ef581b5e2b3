"""What is left to do and in which order: bookkeeping that all executors share. It runs nothing itself.

Every run trains, then is evaluated. A run with `init_from` waits until the run it names is trained and
evaluated. When all of that is settled, the profile phases follow. Latency needs a quiet machine, so an executor gives
each of them a machine of its own.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.core.store import PHASES, Store

Progress = Callable[[str, int, int], None]  # (what is happening, phases settled, phases in all)
PhaseRunner = Callable[[RunSpec, str, Path, Path | None], object]  # (spec, phase, store_root, data_root)

WAITING, RUNNING, COMPLETE, RAN, FAILED, SKIPPED = (
    "waiting",
    "running",
    "complete",
    "ran",
    "failed",
    "skipped",
)


class Job(NamedTuple):
    """One phase of one run."""

    run_id: str
    phase: str

    def __str__(self) -> str:
        return f"{self.run_id}/{self.phase}"


@dataclass(frozen=True)
class Summary:
    """What became of every phase ("run_id/phase"): ran now, complete before, failed or skipped and why."""

    ran: tuple[str, ...] = ()
    complete: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every phase is complete now."""
        return not self.failed and not self.skipped

    def __str__(self) -> str:
        counts = {
            "ran": self.ran,
            "complete already": self.complete,
            "failed": self.failed,
            "skipped": self.skipped,
        }
        return ", ".join(f"{len(jobs)} {what}" for what, jobs in counts.items() if jobs) or "nothing to do"


class Plan:
    """The phases of `specs` (a run named twice counts once) against what `store` holds already.

    Raises UserError, before anything starts, when a run starts from one that is neither among the specs nor
    complete in the store, or from itself by a detour.
    """

    def __init__(self, specs: Iterable[RunSpec], store: Store):
        self.store = store
        self.specs = {spec.run_id: spec for spec in specs}
        self._check_parents()
        order = parents_first({run_id: spec.init_from for run_id, spec in self.specs.items()})
        phases = [[Job(run_id, phase) for phase in PHASES[:2]] for run_id in order]
        self._jobs = [job for pair in phases for job in pair] + [Job(run_id, PHASES[2]) for run_id in order]
        self._place = {job: place for place, job in enumerate(self._jobs)}
        self._dependents: dict[Job, list[Job]] = {job: [] for job in self._jobs}
        for job in self._jobs:
            for need in self._needs(job):
                self._dependents[need].append(job)
        self._state = {job: COMPLETE if self._stored(job) else WAITING for job in self._jobs}
        self._why: dict[Job, str] = {}
        # Indexed by state, so that a step takes no longer with more runs: the places of jobs that may start, profiles
        # apart, and those that another process holds, by the time to look again.
        self._ready: list[int] = []
        self._ready_profiles: list[int] = []
        self._postponed: list[tuple[float, int]] = []
        self._unsettled = {True: 0, False: 0}  # is it a profile -> how many wait or run
        for job in self._jobs:
            if self._state[job] == WAITING:
                self._unsettled[_is_profile(job)] += 1
                if self._needs_are_met(job):
                    self._make_ready(job)

    def next(self, now: float) -> Job | None:
        """A job to start now, marked as running; None when all that is left must wait.

        `now` is a monotonic time in seconds, compared with what `postpone` was told.
        """
        while self._postponed and self._postponed[0][0] <= now:
            self._make_ready(self._jobs[heapq.heappop(self._postponed)[1]])
        while True:
            queue = self._ready or ([] if self._unsettled[False] else self._ready_profiles)
            if not queue:
                return None
            job = self._jobs[heapq.heappop(queue)]
            if self._state[job] != WAITING:
                continue  # skipped since
            if self._stored(job):  # completed meanwhile by another process
                self._settle(job, COMPLETE)
                continue
            self._state[job] = RUNNING
            return job

    def ran(self, job: Job) -> None:
        """The job is done."""
        self._settle(job, RAN)

    def failed(self, job: Job, why: str) -> None:
        """The job failed: so all that needs it is skipped."""
        self._settle(job, FAILED, why)
        blocked, reached = {job}, [self._place[other] for other in self._dependents[job]]
        while reached:  # parents come before children, so in order of place every cause is known
            other = self._jobs[heapq.heappop(reached)]
            if self._state[other] == WAITING:
                cause = min(blocked & self._needs(other))
                blocked.add(other)
                self._settle(other, SKIPPED, f"needs {cause}, which was not completed")
                for further in self._dependents[other]:
                    heapq.heappush(reached, self._place[further])

    def postpone(self, job: Job, until: float) -> None:
        """Another process holds the run: look again at the monotonic time `until`."""
        self._state[job] = WAITING
        heapq.heappush(self._postponed, (until, self._place[job]))

    @property
    def finished(self) -> bool:
        """Whether nothing waits or runs."""
        return self.done == len(self._jobs)

    @property
    def done(self) -> int:
        """How many phases are settled, one way or another."""
        return len(self._jobs) - sum(self._unsettled.values())

    @property
    def total(self) -> int:
        """How many phases there are."""
        return len(self._jobs)

    def summary(self) -> Summary:
        """What became of every phase so far."""
        by_state: dict[str, list[Job]] = {}
        for job in self._jobs:
            by_state.setdefault(self._state[job], []).append(job)
        return Summary(
            ran=tuple(map(str, by_state.get(RAN, []))),
            complete=tuple(map(str, by_state.get(COMPLETE, []))),
            failed={str(job): self._why[job] for job in by_state.get(FAILED, [])},
            skipped={str(job): self._why[job] for job in by_state.get(SKIPPED, [])},
        )

    def _settle(self, job: Job, state: str, why: str = "") -> None:
        """Gives a job its final state, and lets those start that waited for it alone."""
        self._unsettled[_is_profile(job)] -= 1
        self._state[job], self._why[job] = state, why
        if state in (COMPLETE, RAN):
            for other in self._dependents[job]:
                if self._state[other] == WAITING and self._needs_are_met(other):
                    self._make_ready(other)

    def _make_ready(self, job: Job) -> None:
        heapq.heappush(self._ready_profiles if _is_profile(job) else self._ready, self._place[job])

    def _stored(self, job: Job) -> bool:
        return self.store.has(*job)

    def _needs(self, job: Job) -> set[Job]:
        """The jobs of this plan that must succeed before `job`."""
        if job.phase != PHASES[0]:
            return {Job(job.run_id, PHASES[PHASES.index(job.phase) - 1])}
        parent = self.specs[job.run_id].init_from
        return {Job(parent, phase) for phase in PHASES[:2]} if parent in self.specs else set()

    def _needs_are_met(self, job: Job) -> bool:
        return all(self._state[need] in (COMPLETE, RAN) for need in self._needs(job))

    def _check_parents(self) -> None:
        for run_id, spec in self.specs.items():
            parent = spec.init_from
            if parent is None or parent in self.specs:
                continue
            missing = [phase for phase in PHASES[:2] if not self.store.has(parent, phase)]
            if missing:
                raise UserError(
                    f"{run_id} starts from {parent}, which is not among the runs and has no complete "
                    f"{missing[0]} phase in {self.store.root}"
                )


def _is_profile(job: Job) -> bool:
    return job.phase == PHASES[2]


def parents_first(parents: Mapping[str, str | None]) -> list[str]:
    """The keys, each after its parent where that is a key too, otherwise in the order given.

    Raises UserError for a cycle.
    """
    order: dict[str, None] = {}
    for run_id in parents:
        chain: list[str] = []
        step: str | None = run_id
        while step is not None and step in parents and step not in order:
            if step in chain:
                raise UserError(f"these runs start from one another in a circle: {' -> '.join([*chain, step])}")
            chain.append(step)
            step = parents[step]
        order.update(dict.fromkeys(reversed(chain)))
    return list(order)
