"""A phase runner that trains nothing: what the executors' tests run. `spec.options` say how it behaves.

sleep: seconds that each phase takes        fail: the phase that raises
kill: the phase whose process dies by kill -9; `times` says how often (default 1)
empty: the phase that ends without writing anything
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.core.store import Store


def fake_phase(spec: RunSpec, phase: str, store_root: Path, data_root: Path | None) -> None:
    """As `bench.runs.phases.run_phase`: under the run's lease, skipping what is complete, recording errors."""
    store = Store(store_root)
    with store.lease(spec.run_id):
        if store.has(spec.run_id, phase):
            return
        store.open_run(spec)
        try:
            _misbehave(spec, phase, store)
        except Exception as error:
            store.write_error(spec.run_id, phase, error)
            raise
        started = time.time()
        while time.time() < started + spec.options.get("sleep", 0):
            time.sleep(0.01)  # in small pieces, as training is: an interrupt gets in between
        if spec.options.get("empty") != phase:
            timing = {"started": started, "ended": time.time(), "pid": os.getpid()}
            timing["omp"] = os.environ.get("OMP_NUM_THREADS")
            results = {"seed": spec.seed, "data": str(data_root)}
            store.write(spec.run_id, phase, {"results": results, "timing": timing})
        store.clear_error(spec.run_id)


def _misbehave(spec: RunSpec, phase: str, store: Store) -> None:
    log = store.root / "attempts.jsonl"
    with log.open("a") as file:
        file.write(json.dumps([spec.run_id, phase, os.getpid()]) + "\n")
    if spec.options.get("fail") == phase:
        raise UserError(f"seed {spec.seed} cannot do {phase}")
    mine = [line for line in attempts(store.root) if line[:2] == [spec.run_id, phase]]
    if spec.options.get("kill") == phase and len(mine) <= spec.options.get("times", 1):
        os.kill(os.getpid(), signal.SIGKILL)


def attempts(root: Path) -> list[list[Any]]:
    """Every phase that was begun, in order: [run_id, phase, pid]."""
    log = root / "attempts.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def timing(root: Path, spec: RunSpec, phase: str) -> dict[str, Any]:
    """The timing of a complete phase."""
    return Store(root).read(spec.run_id, phase)["timing"]


def family() -> list[RunSpec]:
    """Two seeds of a method, and a control that starts from the second; the control is named first."""
    parents = [RunSpec("net", "micro", seed=seed) for seed in (0, 1)]
    return [RunSpec("control", "micro", init_from=parents[1].run_id), *parents]
