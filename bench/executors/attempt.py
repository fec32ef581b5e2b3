"""One phase of one run, tried once, with its outcome as a value. It runs in any process."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.core.errors import UserError
from bench.core.registry import load_plugin
from bench.core.spec import RunSpec
from bench.core.store import PHASES, Busy, Store
from bench.executors.pace import Pace
from bench.executors.plan import Job, PhaseRunner, Plan, Progress

RAN, BUSY, FAILED = "ran", "busy", "failed"
PATIENCE_S = 5.0  # a killed worker is reported dead a moment before its process is


class Outcome(NamedTuple):
    """How an attempt ended ("ran", "busy" or "failed"), and for the last two why."""

    status: str
    why: str = ""


def attempt(
    spec: RunSpec,
    phase: str,
    store_root: Path,
    data_root: Path | None,
    plugins: Sequence[str] = (),
    run: PhaseRunner | None = None,
    say: Callable[[str], None] | None = None,
) -> Outcome:
    """Does one phase by `run`, by default `bench.runs.phases.run_phase`, which then tells `say` where it is. Only an
    interrupt or exit gets through."""
    try:
        for plugin in plugins:
            load_plugin(plugin)
        (run or phase_runner(spec, phase, say))(spec, phase, store_root, data_root)
        if not Store(store_root).has(spec.run_id, phase):
            raise RuntimeError("the phase ended without writing its results")
    except Busy as busy:
        return Outcome(BUSY, str(busy))
    except Exception as error:
        record_failure(store_root, spec.run_id, phase, error, replace=False)
        return Outcome(FAILED, sentence(error))
    return Outcome(RAN)


def settle(plan: Plan, job: Job, outcome: Outcome, tell: Progress, poll_s: float) -> None:
    """Enter an outcome into the plan, which believes the store alone; a busy run is tried after `poll_s` seconds."""
    if outcome.status == BUSY:
        tell(f"{outcome.why}; waiting for it", plan.done, plan.total)
        plan.postpone(job, time.monotonic() + poll_s)
    elif outcome.status == RAN and plan.store.has(*job):
        plan.ran(job)
    else:
        why = outcome.why or f"a worker says that it is done, but {plan.store.root} here does not hold it"
        plan.failed(job, why)
        tell(f"{job} failed: {why}", plan.done, plan.total)


def phase_runner(spec: RunSpec, phase: str, say: Callable[[str], None] | None = None) -> PhaseRunner:
    """`run_phase`, which tells `say` where it is."""
    from bench.runs.phases import run_phase  # imports torch: only where work is done

    if say is None:
        return run_phase
    return partial(run_phase, progress=Pace(say, spec.train.batch_size if phase == PHASES[0] else 0))


def record_failure(store_root: Path, run_id: str, phase: str, error: BaseException, replace: bool = True) -> None:
    """Sees to it that error.json tells of this failure, unless another process has taken the run over."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            store = Store(store_root)
            with store.lease(run_id):
                if replace or store.read_error(run_id) is None:
                    store.write_error(run_id, phase, error)
            return
        except Busy:
            if time.monotonic() > deadline:
                return
            time.sleep(0.1)
        except UserError:  # the store itself fails; the summary still tells of the failure
            return


def sentence(error: BaseException) -> str:
    """An error in one line: a UserError speaks for itself, others are named."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
