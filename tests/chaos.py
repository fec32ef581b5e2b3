"""Random kills of workers and drivers, seeded: every store ends with the tables of one that nobody disturbed.

`make chaos` runs it, for at most `--time-limit` seconds; `test_chaos.py` is its short form. A round is a store of its
own: drivers are started on it and killed, and their workers before them, until the last one may finish. Then all of the
store is compared, timings apart, and nothing may be left: no process, temporary file, lease, error or session folder.
"""

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.test_kill import RECIPE, heed_ctrl_c, leases, results_of, words

MARK = "SLICEBENCH_CHAOS"
WAIT_S = 300.0


class Chaos:
    """Drivers with one mark in their environment, by which whatever they leave behind is found.

    Attributes:
        kills: how many of each kind there were. struck: how many of them met a process in the middle of a phase.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.mark, self.temporary = secrets.token_hex(8), Path(f"/tmp/c{secrets.token_hex(3)}")
        self.recipe = folder / "tiny.py"
        self.recipe.write_text(RECIPE)
        self.temporary.mkdir(mode=0o700)
        self.kills: Counter[str] = Counter()
        self.struck = self.rounds = 0

    def start(self, results: Path) -> subprocess.Popen:
        """The command on a store, with a Ray of its own."""
        own = {"HOME": str(self.folder), "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1", MARK: self.mark}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        with open(results.with_suffix(".log"), "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "bench", *words(f"{self.recipe}:table", results, "ray")],
                env=kept | own,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=heed_ctrl_c,
            )

    def finish(self, results: Path) -> None:
        """Let the command end, and see that nothing is left of it and of those before."""
        process = self.start(results)
        assert process.wait(WAIT_S) == 0, results.with_suffix(".log").read_text()
        self.nothing_is_left(results)

    def nothing_is_left(self, results: Path) -> None:
        deadline = time.monotonic() + 60
        while (orphans := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not orphans, orphans
        left = [*results.rglob(".*.tmp"), *results.rglob(".driver.*"), *results.glob("runs/*/error.json")]
        left += [*leases(results), *self.temporary.glob("slicebench-*-*")]
        assert not left, left

    def processes(self) -> list[str]:
        """What runs with this mark."""
        marked = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    marked.append(f"{process.pid} {process.name()}")
        return marked

    def disturb(self, results: Path, kills: int, deadline: float) -> None:
        """Start drivers on a store and kill at random, so many times or until all is complete or the time is up."""
        while kills > 0 and time.monotonic() < deadline:
            process = self.start(results)
            while kills > 0 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(self.chance.uniform(0.0, 1.5))
                self._wait_for_work(process, results, deadline)
                kills -= self._kill(process, results)
            if process.poll() is None:
                kills -= self._kill_driver(process, results)
            if process.wait(WAIT_S) == 0:
                return

    def _wait_for_work(self, process: subprocess.Popen, results: Path, deadline: float) -> None:
        while not leases(results) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)

    def _kill(self, process: subprocess.Popen, results: Path) -> int:
        """One kill of a random process, a driver now and then; how many there were."""
        if self.chance.random() < 0.25:
            return self._kill_driver(process, results)
        holders = sorted(pid for lease in leases(results) if (pid := _holder(lease)))
        if not holders or process.poll() is not None:
            return 0
        with suppress(ProcessLookupError):
            os.kill(self.chance.choice(holders), signal.SIGKILL)
            self.kills["worker, SIGKILL"] += 1
            self.struck += 1
            return 1
        return 0

    def _kill_driver(self, process: subprocess.Popen, results: Path) -> int:
        number = self.chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        if process.poll() is not None:
            return 0
        self.struck += bool(leases(results))
        process.send_signal(number)
        process.wait(WAIT_S)
        self.kills[f"driver, {number.name}"] += 1
        deadline = time.monotonic() + 60
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not self.processes(), "processes outlive their driver"
        return 1


def _holder(lease: Path) -> int | None:
    with suppress(OSError, ValueError, KeyError):
        return json.loads(lease.read_text())["pid"]
    return None


@contextmanager
def chaos(folder: Path, seed: int) -> Iterator[Chaos]:
    made = Chaos(folder, seed)
    try:
        yield made
    finally:
        for line in made.processes():
            with suppress(psutil.Error):
                psutil.Process(int(line.partition(" ")[0])).kill()
        shutil.rmtree(made.temporary, ignore_errors=True)


def run(folder: Path, kills: int, seed: int, limit_s: float, a_round: int = 10) -> Chaos:
    """Rounds until so many kills were made or the time is up, each compared with a store that nobody disturbed."""
    deadline = time.monotonic() + limit_s
    with chaos(folder, seed) as made:
        whole = folder / "whole"
        made.finish(whole)
        expected = results_of(whole)
        while made.kills.total() < kills and time.monotonic() < deadline:
            results = folder / f"round{made.rounds}"
            made.disturb(results, min(a_round, kills - made.kills.total()), deadline)
            made.finish(results)
            said = results_of(results)
            assert said.keys() == expected.keys()
            assert [name for name in said if said[name] != expected[name]] == []
            made.rounds += 1
            print(f"round {made.rounds}: {dict(made.kills)}, tables equal", flush=True)
        return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time-limit", type=float, default=780.0, help="seconds after which no further round begins")
    asked = parser.parse_args()
    folder = Path(f"/tmp/chaos-{secrets.token_hex(4)}")
    folder.mkdir(mode=0o700)
    began = time.monotonic()
    try:
        made = run(folder, asked.kills, asked.seed, asked.time_limit)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    took, kinds = time.monotonic() - began, dict(made.kills)
    print(f"{made.kills.total()} kills in {made.rounds} rounds and {took:.0f} s: {kinds}")
    print(f"{made.struck} of them in the middle of a phase; tables equal byte for byte")
    print("no process, temporary file, lease, error or session folder left")


if __name__ == "__main__":
    main()
