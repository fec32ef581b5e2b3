"""The serial executor: order, failures, resuming, and waiting for a run that another process holds."""

import threading
import time
from pathlib import Path

import pytest
from fake_runs import attempts, fake_phase, family

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.core.store import PHASES, Store
from bench.executors.serial import run_all


def test_everything_runs_in_order_once(tmp_path: Path):
    control, first, second = specs = family()
    said: list[tuple[str, int, int]] = []
    summary = run_all(specs, tmp_path, "/data", lambda *words: said.append(words), run=fake_phase)
    order = [(s.run_id, p) for s in (second, control, first) for p in ("train", "eval")]
    order += [(s.run_id, "profile") for s in (second, control, first)]
    assert [tuple(line[:2]) for line in attempts(tmp_path)] == order
    assert summary.ok
    assert summary.ran == tuple("/".join(job) for job in order)
    assert said[0] == (f"{second.run_id}/train", 0, 9)
    assert said[-1] == ("9 ran", 9, 9)
    assert Store(tmp_path).read(first.run_id, "eval")["results"]["data"] == "/data"
    again = run_all(specs, tmp_path, "/data", run=fake_phase)
    assert len(again.complete) == len(attempts(tmp_path)) == 9


def test_a_failure_is_recorded_and_the_others_go_on(tmp_path: Path):
    bad = RunSpec("net", "micro", options={"fail": "eval"})
    child = RunSpec("control", "micro", init_from=bad.run_id)
    good = RunSpec("net", "micro", seed=1)
    summary = run_all([bad, child, good], tmp_path, None, run=fake_phase)
    assert summary.failed == {f"{bad.run_id}/eval": "seed 0 cannot do eval"}
    assert set(summary.skipped) == {f"{bad.run_id}/profile", *(f"{child.run_id}/{phase}" for phase in PHASES)}
    assert summary.ran == (f"{bad.run_id}/train", *(f"{good.run_id}/{phase}" for phase in PHASES))
    error = Store(tmp_path).read_error(bad.run_id)
    assert error is not None
    assert error["message"] == "seed 0 cannot do eval"


def test_a_failed_run_is_tried_again_from_where_it_failed(tmp_path: Path):
    spec = RunSpec("net", "micro")

    def broken(spec: RunSpec, phase: str, root: Path, data: Path | None) -> None:
        if phase == "eval":
            raise RuntimeError("a bug,\nin two lines")
        fake_phase(spec, phase, root, data)

    store = Store(tmp_path)
    assert run_all([spec], tmp_path, None, run=broken).failed == {
        f"{spec.run_id}/eval": "RuntimeError: a bug, in two lines"
    }
    error = store.read_error(spec.run_id)
    assert error is not None  # written by the executor, since this runner died before it could
    assert error["type"] == "RuntimeError"
    summary = run_all([spec], tmp_path, None, run=fake_phase)
    assert summary.ok
    assert summary.complete == (f"{spec.run_id}/train",)
    assert store.read_error(spec.run_id) is None


def test_a_phase_that_writes_nothing_has_failed(tmp_path: Path):
    spec = RunSpec("net", "micro", options={"empty": "train"})
    summary = run_all([spec], tmp_path, None, run=fake_phase)
    assert "without writing its results" in summary.failed[f"{spec.run_id}/train"]


def test_nothing_starts_when_a_parent_is_missing(tmp_path: Path):
    control, first, _ = family()
    with pytest.raises(UserError, match="which is not among the runs"):
        run_all([first, control], tmp_path, None, run=fake_phase)
    assert attempts(tmp_path) == []


def test_nothing_starts_when_the_store_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run_all(family(), tmp_path / "file", None, run=fake_phase)


def test_a_run_that_is_held_is_waited_for_while_others_go_on(tmp_path: Path):
    held, free = RunSpec("net", "micro"), RunSpec("net", "micro", seed=1)
    said: list[str] = []
    lease = Store(tmp_path).lease(held.run_id)
    lease.__enter__()
    release = threading.Timer(0.5, lambda: lease.__exit__(None, None, None))
    release.start()
    started = time.monotonic()
    summary = run_all([held, free], tmp_path, None, lambda text, *_: said.append(text), run=fake_phase, poll_s=0.1)
    release.join()
    assert summary.ok
    assert time.monotonic() - started >= 0.5
    assert attempts(tmp_path)[0][:2] == [free.run_id, "train"]
    assert any("is being worked on by process" in text and "waiting" in text for text in said)


def test_ctrl_c_passes_through_and_the_rest_can_be_resumed(tmp_path: Path):
    specs = [RunSpec("net", "micro", seed=seed) for seed in (0, 1)]

    def interrupted(spec: RunSpec, phase: str, root: Path, data: Path | None) -> None:
        with Store(root).lease(spec.run_id):
            if spec.seed == 1:
                raise KeyboardInterrupt
        fake_phase(spec, phase, root, data)

    with pytest.raises(KeyboardInterrupt):
        run_all(specs, tmp_path, None, run=interrupted)
    assert Store(tmp_path).read_error(specs[1].run_id) is None
    summary = run_all(specs, tmp_path, None, run=fake_phase)
    assert len(summary.complete) == 2
    assert len(summary.ran) == 4


def test_a_plugin_that_fails_stops_everything_before_it_starts(tmp_path: Path):
    plugin = tmp_path / "mine.py"
    plugin.write_text("raise ValueError('no')")
    with pytest.raises(UserError, match="failed: ValueError: no"):
        run_all(family(), tmp_path, None, run=fake_phase, plugins=[str(plugin)])
    assert attempts(tmp_path) == []
