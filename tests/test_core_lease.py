"""Leases: one process at a time, a dead holder is replaced at once, a silent one when its time is up."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.core.lease import FILE, Busy, lease, process_started, this_host
from bench.core.store import Store

HOLDER = """
import sys, time
from bench.core.store import Store
with Store(sys.argv[1]).lease("run-1", ttl_s=float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(root: Path, ttl_s: float = 60.0) -> Iterator[subprocess.Popen]:
    """Another process that holds the lease of run-1; killed at the end."""
    command = [sys.executable, "-c", HOLDER, str(root), str(ttl_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_lease_is_a_file_while_held(tmp_path: Path):
    with Store(tmp_path).lease("run-1"):
        held = json.loads((tmp_path / "runs/run-1" / FILE).read_text())
        assert held["pid"] == os.getpid()
        assert held["host"] == this_host()
        assert held["expires"] > time.time()
    assert not (tmp_path / "runs/run-1" / FILE).exists()


def test_lease_ends_with_an_error_too(tmp_path: Path):
    with pytest.raises(RuntimeError, match="work"), lease(tmp_path):
        raise RuntimeError("work")
    assert not (tmp_path / FILE).exists()


def test_one_holder_at_a_time(tmp_path: Path):
    store = Store(tmp_path)
    with holder(tmp_path) as process:
        with pytest.raises(Busy, match=f"run-1 is being worked on by process {process.pid}"), store.lease("run-1"):
            pass
        assert (tmp_path / "runs/run-1" / FILE).exists()
        with store.lease("run-2"):
            pass


def test_the_same_process_is_another_holder_too(tmp_path: Path):
    with lease(tmp_path), pytest.raises(Busy), lease(tmp_path):
        pass


def test_dead_holder_is_replaced_at_once(tmp_path: Path):
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
        start = time.monotonic()
        with Store(tmp_path).lease("run-1"):
            assert time.monotonic() - start < 1


def test_zombie_holder_is_dead(tmp_path: Path):
    with holder(tmp_path) as process:
        process.kill()  # not waited for: its entry stays in the process table
        deadline = time.monotonic() + 5
        while process_started(process.pid) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        with Store(tmp_path).lease("run-1"):
            pass


def _plant(folder: Path, **change: object) -> None:
    """The lease of this live process, on this machine, valid for a minute, but for `change`."""
    pid = os.getpid()
    held = {"host": this_host(), "pid": pid, "started": process_started(pid), "token": "t", "expires": time.time() + 60}
    (folder / FILE).write_text(json.dumps(held | change))


def test_reused_pid_is_not_the_holder(tmp_path: Path):
    _plant(tmp_path)
    with pytest.raises(Busy), lease(tmp_path):
        pass
    _plant(tmp_path, started="12")
    with lease(tmp_path):
        pass


def test_expired_lease_is_taken_over(tmp_path: Path):
    _plant(tmp_path, expires=time.time() - 1)
    with lease(tmp_path):
        pass


def test_lease_of_another_machine_lasts_until_it_expires(tmp_path: Path):
    _plant(tmp_path, host="elsewhere", pid=2**22 + 1)
    with pytest.raises(Busy, match="another machine"), lease(tmp_path):
        pass
    _plant(tmp_path, host="elsewhere", expires=time.time() - 1)
    with lease(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 3}'])
def test_torn_lease_lasts_its_time(tmp_path: Path, text: str):
    file = tmp_path / FILE
    file.write_text(text)
    with pytest.raises(Busy), lease(tmp_path, ttl_s=5):
        pass
    os.utime(file, (time.time() - 6, time.time() - 6))
    with lease(tmp_path, ttl_s=5):
        pass


def test_heartbeat_renews(tmp_path: Path):
    with lease(tmp_path, ttl_s=0.4):
        time.sleep(0.8)
        with pytest.raises(Busy), lease(tmp_path, ttl_s=0.4):
            pass


def test_loser_does_not_disturb_the_new_holder(tmp_path: Path):
    """A process that slept past its expiry neither renews nor releases what is another's by then."""
    with lease(tmp_path, ttl_s=0.2):
        _plant(tmp_path, token="other")
        time.sleep(0.3)
        assert json.loads((tmp_path / FILE).read_text())["token"] == "other"
    assert json.loads((tmp_path / FILE).read_text())["token"] == "other"


def test_no_heartbeat_is_left_behind(tmp_path: Path):
    before = threading.active_count()
    with lease(tmp_path):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_busy_survives_a_trip_between_processes():
    busy = pickle.loads(pickle.dumps(Busy("run-1", "process 7")))
    assert str(busy) == "run-1 is being worked on by process 7"


def _contend(root: str, rounds: int, barrier, log: str) -> None:
    """Takes the lease again and again; inside, an exclusively created file proves that nobody else is."""
    store = Store(root)
    barrier.wait()
    taken = 0
    while taken < rounds:
        try:
            with store.lease("run-1"):
                witness = os.open(log, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                os.close(witness)
                taken += 1
                os.unlink(log)
        except Busy:
            time.sleep(0.0005)


def test_contenders_never_meet(tmp_path: Path):
    """The first of them all find the same dead lease, and only one of them may take it over."""
    context = multiprocessing.get_context("spawn")
    (tmp_path / "runs/run-1").mkdir(parents=True)
    _plant(tmp_path / "runs/run-1", started="12")
    barrier = context.Barrier(4)
    arguments = (str(tmp_path), 50, barrier, str(tmp_path / "witness"))
    contenders = [context.Process(target=_contend, args=arguments) for _ in range(4)]
    for process in contenders:
        process.start()
    for process in contenders:
        process.join(30)
    assert [process.exitcode for process in contenders] == [0] * 4
