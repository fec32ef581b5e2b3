"""Kills at any moment: the same command again ends with the same tables, byte for byte, and the same checkpoints.

The runs are real: DS-Net, both controls and US-Net on handwritten digits, with a checkpoint after every step.
"""

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bench.core.lease import FILE, process_started
from bench.core.store import Store

pytestmark = pytest.mark.slow

RECIPE = """
import functools

from bench.runs import phases as run
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec

run.open_run = functools.partial(run.open_run, checkpoint_s=0.0)  # a checkpoint after every step


def table(seeds=(0,)):
    train, profile = TrainSpec(epochs=2, batch_size=60, lr=0.15), ProfileSpec((1,), rounds=1, warmup=0)
    common = {"data": DataSpec(train_images=240), "train": train, "profile": profile}
    specs = []
    for seed in seeds:
        dynamic = RunSpec("ds_net", "ds_mobilenet_micro8", options={"gate_epochs": 1}, seed=seed, **common)
        specs += [
            dynamic,
            RunSpec("random_gate", dynamic.model, init_from=dynamic.run_id, seed=seed, **common),
            RunSpec("fixed_choice", dynamic.model, init_from=dynamic.run_id, seed=seed, **common),
            RunSpec("us_net", "us_mobilenet_micro8", options={"widths": (0.25, 1.0)}, seed=seed, **common),
        ]
    return specs
"""
TIMEOUT_S = 300.0  # for anything; only a broken test waits so long


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("recipe") / "tiny.py"
    file.write_text(RECIPE)
    return f"{file}:table"


def words(recipe: str, results: Path, executor: str) -> list[str]:
    return ["run", recipe, "--device", "cpu", "--results", str(results), "--executor", executor]


# The serial executor: processes forked from one that has imported everything, so that a start costs nothing.


def heed_ctrl_c() -> None:
    """As in a terminal, also where the tests run in the background: what runs there ignores Ctrl-C, and hands it on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def command_line(arguments: list[str], log: Path) -> None:
    """What the `slicebench` command does, in a process of its own that writes to `log`."""
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from bench.cli import main

    heed_ctrl_c()
    main(arguments)


@pytest.fixture(scope="module")
def start(recipe: str) -> Callable[[Path], Any]:
    """Starts the command on a results directory with the serial executor."""
    context = multiprocessing.get_context("forkserver")
    rooms = (
        "runs.phases",
        "runs.prepare",
        "runs.check",
        "recipes.digits",
        "methods.ds_net",
        "reports.report",
        "executors.serial",
    )
    baselines = ("controls", "universally_slimmable")
    others = (
        "torch._dynamo",
        "sklearn.datasets",
        "fvcore.nn",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_svg",
    )
    context.set_forkserver_preload(
        [*others, *(f"bench.{room}" for room in rooms), *(f"baselines.{name}" for name in baselines)]
    )

    def begin(results: Path) -> Any:
        log = results.with_suffix(".log")
        process = context.Process(target=command_line, args=(words(recipe, results, "serial"), log), daemon=True)
        process.start()
        return process

    return begin


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A store that nobody interrupted, and how many seconds it took."""
    results = tmp_path_factory.mktemp("whole") / "results"
    began = time.monotonic()
    process = start(results)
    process.join(TIMEOUT_S)
    assert process.exitcode == 0, results.with_suffix(".log").read_text()
    return results, time.monotonic() - began


def until(condition: Callable[[], Any], process: Any) -> Any:
    """What `condition` returns as soon as it is true; None when the process ends before."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        if not process.is_alive():
            return None
        time.sleep(0.002)
    raise AssertionError("nothing happens")


def in_training(results: Path, method: str = "*") -> int | None:
    """The process that is in the middle of a training, by its lease."""
    for lease in results.glob(f"runs/{method}-*/{FILE}"):
        with suppress(OSError, ValueError, KeyError):
            if any(lease.parent.glob("checkpoints/*.partial.safetensors")):
                return json.loads(lease.read_text())["pid"]
    return None


def leases(results: Path) -> list[Path]:
    return list(results.glob(f"runs/*/{FILE}"))


def results_of(root: Path) -> dict[str, Any]:
    """Everything that must not depend on time: all files but timings, phases by what they say."""
    said: dict[str, Any] = {}
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        if file.name == ".lease.lock" or ".partial." in file.name:
            continue  # a partial checkpoint may outlive a kill in the moment after the whole one was written
        name = str(file.relative_to(root))
        if "latency" in file.name:
            said[name] = "its numbers differ"
        elif file.parent == root / "site" and (data := DATA.search(file.read_text(encoding="utf-8"))):
            said[name] = untimed(json.loads(data[1]))
        elif file.name in ("train.json", "eval.json", "profile.json"):
            body = Store(root).read(file.parent.name, file.stem)
            said[name] = "timed" if file.stem == "profile" else (body["digest"], body["results"])
        else:
            said[name] = file.read_bytes()
    return said


DATA = re.compile('<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def untimed(page: dict[str, Any]) -> dict[str, Any]:
    """What a page of the site shows, without what was timed."""
    place = page["columns"].index("latency")
    rows = [[cell for column, cell in enumerate(row) if column != place] for row in page["rows"]]
    configs = {
        name: config | {"runs": [run | {"seconds": {}, "digests": run["digests"] | {"profile": ""}} for run in runs]}
        for name, config in page["configs"].items()
        if (runs := config["runs"])
    }
    return {key: page[key] for key in page.keys() - {"settings"}} | {"rows": rows, "configs": configs}


def assert_same(one: Path, other: Path) -> None:
    first, second = results_of(one), results_of(other)
    assert first.keys() == second.keys()  # nothing is left over: no temporary file, lease or error
    assert [name for name in first if first[name] != second[name]] == []


def test_the_uninterrupted_store_is_what_it_should_be(whole):
    said = results_of(whole[0])
    assert {"tables/leaderboard.md", "tables/leaderboard.csv", "tables/controls.md", "tables/latency.csv"} <= set(said)
    assert sum(name.endswith(".safetensors") and "checkpoints" in name for name in said) == 5
    assert sum(name.endswith("per_image.safetensors") for name in said) == 4
    assert not [name for name in said if name.endswith((".tmp", FILE, "error.json"))]
    assert not list(whole[0].rglob("*.partial.*"))


def test_kills_at_random_moments_a_ctrl_c_and_a_sigterm(start, whole, tmp_path):
    uninterrupted, seconds = whole
    results, log = tmp_path / "results", tmp_path / "results.log"
    _interrupt_a_training(start(results), results, log, signal.SIGINT, 130)
    _interrupt_a_training(start(results), results, log, signal.SIGTERM, 143)
    moments, struck = random.Random(0), 0
    for _ in range(4):
        process = start(results)
        until(lambda: leases(results), process)  # it has begun with a phase
        process.join(moments.uniform(0.0, 0.3) * seconds)
        process.kill()
        process.join()
        struck += bool(leases(results))
    assert struck, "every kill met a process between two phases"
    process = start(results)
    process.join(TIMEOUT_S)
    assert process.exitcode == 0, log.read_text()
    assert_same(uninterrupted, results)


def _interrupt_a_training(process: Any, results: Path, log: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C or SIGTERM: one sentence, the shell's exit code, and nothing left that stands in the way."""
    assert until(lambda: in_training(results), process)
    os.kill(process.pid, number)
    process.join(TIMEOUT_S)
    assert process.exitcode == code
    assert log.read_text().strip() == "slicebench: interrupted; run the same command again to go on"
    assert leases(results) == []
    assert list(results.glob("runs/*/error.json")) == []
    assert list(results.glob("runs/*/checkpoints/*.partial.safetensors"))  # where it goes on from


# Ray, as a user starts it.


class Driver:
    """The command in a session of its own, with a Ray of its own."""

    def __init__(self, recipe: str, results: Path) -> None:
        line = [sys.executable, "-m", "bench", *words(recipe, results, "ray")]
        environment = os.environ | {"HOME": str(results.parent), "OMP_NUM_THREADS": "1"}
        self.log = results.with_suffix(".log")
        with open(self.log, "wb") as file:
            self.process = subprocess.Popen(
                line,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=heed_ctrl_c,
            )

    def is_alive(self) -> bool:
        return self.process.poll() is None


@contextmanager
def driver(recipe: str, results: Path) -> Iterator[Driver]:
    started = Driver(recipe, results)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


@pytest.mark.ray
def test_a_killed_worker_and_then_a_killed_driver(recipe, whole, tmp_path):
    results = tmp_path / "results"
    with driver(recipe, results) as first:
        worker = until(lambda: in_training(results, "ds_net"), first)
        assert worker, first.log.read_text()
        os.kill(worker, signal.SIGKILL)
        folder = next(results.glob("runs/ds_net-*"))
        assert not (folder / "train.json").exists(), "the worker was killed too late to show anything"
        assert until(lambda: (folder / "train.json").exists() and leases(results), first), first.log.read_text()
        first.process.kill()
        first.process.wait()
    assert process_started(worker) is None
    assert len(list(results.glob("runs/*/*.json"))) < len(list(whole[0].glob("runs/*/*.json")))
    with driver(recipe, results) as second:
        assert second.process.wait(TIMEOUT_S) == 0, second.log.read_text()
    said = second.log.read_text()
    assert said.startswith("phases: ")
    assert "complete already" in said.splitlines()[0]
    assert_same(whole[0], results)


RACE_IN_RAY = "Tried to complete task that was not pending"
"""What Ray aborts a driver with, rarely, that cancels a task in the moment in which it ends (ray-project/ray#54798)."""


def _ended_on_ray(recipe: str, results: Path, number: signal.Signals) -> tuple[int, str]:
    """Exit code and words of a run on Ray that is sent a signal while it trains."""
    with driver(recipe, results) as started:
        assert until(lambda: in_training(results), started), started.log.read_text()
        if number is signal.SIGINT:
            os.killpg(started.process.pid, number)  # what a terminal does: daemons are in the group too
        else:
            started.process.send_signal(number)  # what a batch system does first
        return started.process.wait(TIMEOUT_S), started.log.read_text()


@pytest.mark.ray
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_on_ray(recipe, tmp_path, number, code):
    results = tmp_path / "results"
    ended, said = _ended_on_ray(recipe, results, number)
    if RACE_IN_RAY in said:  # Ray's own abort leaves nothing behind either; once more is enough to see ours
        results = tmp_path / "again"
        ended, said = _ended_on_ray(recipe, results, number)
    assert ended == code
    assert said.strip() == "slicebench: interrupted; run the same command again to go on"
    assert leases(results) == []
    assert list(results.glob("runs/*/error.json")) == []
