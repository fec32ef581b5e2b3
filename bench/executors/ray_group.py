"""A phase of a run with `train.workers` above 1: one Ray Train group, on one machine or several.

Ray Train places the processes and starts all of them again when one dies; the run then goes on from its last
checkpoint. What became of it stands in the store.
"""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.lease import TTL_S
from bench.core.registry import load_plugin
from bench.core.spec import RunSpec
from bench.core.store import Busy, Store
from bench.executors.attempt import BUSY, FAILED, PATIENCE_S, RAN, Outcome, phase_runner, record_failure, sentence
from bench.executors.pace import note, note_file
from bench.executors.plan import PhaseRunner
from bench.executors.sharing import node_problem

START_AGAIN = 3
"""How often a group that has lost a process is started again. Failures of our own are never tried again."""


def check_cores(specs: Iterable[RunSpec], cores: float, largest: Mapping[str, float]) -> None:
    """Raise `UserError` for a run whose processes would wait for ever: there are so many cores in all, and so many on
    the largest machine that has the run's device."""
    for spec in specs:
        needed = spec.train.workers * spec.threads
        if spec.train.workers > 1 and (needed > cores or spec.threads > largest[spec.device]):
            raise UserError(
                f"{spec.run_id} asks for {spec.train.workers} processes of {spec.threads} cores, and Ray knows of "
                f"{cores:g} cores"
            )


def group_attempt(
    token: str,
    code: str,
    spec: RunSpec,
    phase: str,
    root: Path,
    data_root: Path | None,
    plugins: Sequence[str],
    run: PhaseRunner | None,
) -> Outcome:
    """Do a phase by the processes that `spec` asks for, and wait for them. It is itself a task without a core."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    folder = root / f".group.{spec.run_id}.tmp"  # Ray Train's own notes, which every machine must see
    gpu, say = spec.device == "cuda", note(note_file(root, token, spec.run_id, phase))
    run = run or phase_runner(spec, phase, say)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"problem": (root, token, code), "plugins": plugins, "run": run,
                           "phase": (spec, phase, root, data_root)},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=spec.processes(phase), use_gpu=gpu,
            resources_per_worker={"CPU": spec.threads} | ({"GPU": 1} if gpu else {}),
        ),
        run_config=RunConfig(
            name=phase, storage_path=str(folder), failure_config=FailureConfig(max_failures=START_AGAIN)
        ),
    )  # fmt: skip
    try:
        trainer.fit()
    except Exception as error:  # Ray Train's own: `_work` lets none of ours through
        record_failure(root, spec.run_id, phase, error)
        return Outcome(FAILED, sentence(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    store = Store(root)
    if store.has(spec.run_id, phase):
        return Outcome(RAN)
    if failure := store.read_error(spec.run_id):
        named = "" if failure["type"] == UserError.__name__ else f"{failure['type']}: "
        return Outcome(FAILED, named + failure["message"])
    return Outcome(BUSY, f"{spec.run_id} is being worked on")


def _work(about: dict[str, Any]) -> None:
    """One process of the group. It fails only where another one was lost, which starts the group again."""
    spec, phase, root, data_root = about["phase"]
    if problem := node_problem(*about["problem"]):
        raise UserError(f"a machine of the cluster cannot do it: {problem}")
    for plugin in about["plugins"]:
        load_plugin(plugin)
    deadline = time.monotonic() + TTL_S + PATIENCE_S
    while True:
        try:
            about["run"](spec, phase, root, data_root)
        except Busy:  # the lease of a rank 0 that died on another machine lasts until it expires
            if time.monotonic() < deadline:
                time.sleep(0.2)
                continue
        except Exception:
            if Store(root).read_error(spec.run_id) is None:
                raise
        return
