"""All runs in this process, one after the other. The plainest executor, and the one to debug with."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.core.registry import load_plugin
from bench.core.spec import RunSpec
from bench.core.store import Store
from bench.executors.attempt import attempt, settle
from bench.executors.plan import PhaseRunner, Plan, Progress, Summary

POLL_S = 2.0  # how often to look whether a run that another process holds is free


def run_all(
    specs: Iterable[RunSpec],
    store_root: str | Path,
    data_root: str | Path | None,
    progress: Progress | None = None,
    *,
    plugins: Sequence[str] = (),
    run: PhaseRunner | None = None,
    poll_s: float = POLL_S,
) -> Summary:
    """Does every phase of `specs` that the store lacks; a failed run is recorded and the others go on.

    `progress(message, done, total)` counts phases. `plugins` are files for `load_plugin`. `run` stands in
    for `bench.runs.phases.run_phase`. Raises UserError, before anything starts, when a plugin fails, the store cannot
    be written or a spec starts from a run that is not there. A KeyboardInterrupt passes through and leaves a
    resumable store.
    """
    root, data = Path(store_root).absolute(), Path(data_root).absolute() if data_root else None
    for plugin in plugins:
        load_plugin(plugin)
    plan = Plan(specs, Store(root))
    tell = progress or (lambda message, done, total: None)
    while not plan.finished:
        job = plan.next(time.monotonic())
        if job is None:
            if not plan.finished:
                time.sleep(poll_s)
            continue
        tell(str(job), plan.done, plan.total)
        say = lambda text, job=job: tell(f"{job}: {text}", plan.done, plan.total)
        outcome = attempt(plan.specs[job.run_id], job.phase, root, data, run=run, say=say)
        settle(plan, job, outcome, tell, poll_s)
    tell(str(plan.summary()), plan.done, plan.total)
    return plan.summary()
