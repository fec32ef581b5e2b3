"""What is left to do and in which order: bookkeeping that all executors share. It runs nothing itself.

Every run trains, then is evaluated. A run with `init_from` waits until the run it names is trained and
evaluated. When all of that is settled, the profile phases follow, one at a time: latency needs a quiet
machine.
"""

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
        self._state = {job: COMPLETE if self._stored(job) else WAITING for job in self._jobs}
        self._why: dict[Job, str] = {}
        self._not_before: dict[Job, float] = {}

    def next(self, now: float) -> Job | None:
        """A job to start now, marked as running; None when all that is left must wait.

        `now` is a monotonic time in seconds, compared with what `postpone` was told.
        """
        for job in self._jobs:
            if self._state[job] != WAITING or self._not_before.get(job, now) > now or not self._may_start(job):
                continue
            if self._stored(job):  # completed meanwhile by another process
                self._state[job] = COMPLETE
                continue
            self._state[job] = RUNNING
            return job
        return None

    def ran(self, job: Job) -> None:
        """The job is done."""
        self._state[job] = RAN

    def failed(self, job: Job, why: str) -> None:
        """The job failed: so all that needs it is skipped."""
        self._settle(job, FAILED, why)
        blocked = {job}
        for other in self._jobs:  # parents come before children, so one pass sees every dependent
            if self._state[other] == WAITING and (cause := blocked & self._needs(other)):
                blocked.add(other)
                self._settle(other, SKIPPED, f"needs {min(cause)}, which was not completed")

    def postpone(self, job: Job, until: float) -> None:
        """Another process holds the run: look again at the monotonic time `until`."""
        self._state[job] = WAITING
        self._not_before[job] = until

    @property
    def finished(self) -> bool:
        """Whether nothing waits or runs."""
        return self.done == len(self._jobs)

    @property
    def done(self) -> int:
        """How many phases are settled, one way or another."""
        return sum(state not in (WAITING, RUNNING) for state in self._state.values())

    @property
    def total(self) -> int:
        """How many phases there are."""
        return len(self._jobs)

    def summary(self) -> Summary:
        """What became of every phase so far."""
        by_state = {state: [j for j in self._jobs if self._state[j] == state] for state in set(self._state.values())}
        return Summary(
            ran=tuple(map(str, by_state.get(RAN, []))),
            complete=tuple(map(str, by_state.get(COMPLETE, []))),
            failed={str(job): self._why[job] for job in by_state.get(FAILED, [])},
            skipped={str(job): self._why[job] for job in by_state.get(SKIPPED, [])},
        )

    def _settle(self, job: Job, state: str, why: str) -> None:
        self._state[job] = state
        self._why[job] = why

    def _stored(self, job: Job) -> bool:
        return self.store.has(*job)

    def _needs(self, job: Job) -> set[Job]:
        """The jobs of this plan that must succeed before `job`."""
        if job.phase != PHASES[0]:
            return {Job(job.run_id, PHASES[PHASES.index(job.phase) - 1])}
        parent = self.specs[job.run_id].init_from
        return {Job(parent, phase) for phase in PHASES[:2]} if parent in self.specs else set()

    def _may_start(self, job: Job) -> bool:
        if any(self._state[need] not in (COMPLETE, RAN) for need in self._needs(job)):
            return False
        if job.phase != PHASES[2]:
            return True
        others = (state for other, state in self._state.items() if other.phase != PHASES[2])
        quiet = all(state not in (WAITING, RUNNING) for state in others)
        return quiet and RUNNING not in self._state.values()

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
