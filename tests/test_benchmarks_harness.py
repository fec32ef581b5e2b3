"""The benchmark harness: verdicts, stopping, candidates in other processes, printed and written results."""

import json
import random
import re

import pytest
import torch

from bench.profilers.meter import Conditions, in_rounds
from bench.statistics.paired import Ratio
from tests.speed import __main__ as everything
from tests.speed import script as scripting
from tests.speed.harness import Comparison, Isolated, all_decided, at_most, compare, faster, wall_time
from tests.speed.worker import Worker

NOISE = 0.02


class VirtualMachine:
    """A clock that only the steps move; each takes its seconds times lognormal noise."""

    def __init__(self, seed: int = 0):
        self.now = 0.0
        self.random = random.Random(seed)
        self.calls: list[str] = []

    def clock(self) -> float:
        return self.now

    def step(self, name: str, seconds: float):
        def run() -> None:
            self.calls.append(name)
            self.now += seconds * self.random.lognormvariate(0, NOISE)

        return run

    def compare(self, goal, *, seconds: float = 0.5, time_limit_s: float = 1e9, **settings) -> Comparison:
        steps = {"static": self.step("static", 1.0), "view": self.step("view", seconds)}
        return compare("test", steps, "static", {"view": goal}, time_limit_s, clock=self.clock, **settings)


def verdict(comparison: Comparison) -> str:
    return {row.name: row.verdict for row in comparison.rows}["view"]


@pytest.mark.parametrize(
    ("goal", "expected"),
    [(at_most(0.6), "met"), (at_most(0.4), "missed"), (faster(1.8), "met"), (faster(2.5), "missed")],
)
def test_a_clear_difference_is_decided_at_the_first_look(goal, expected):
    comparison = VirtualMachine().compare(goal)
    assert (verdict(comparison), comparison.rounds) == (expected, 10)
    ratio = comparison.rows[1].ratio
    assert ratio
    assert ratio.low < 0.5 < ratio.high
    assert ratio.median == pytest.approx(0.5, rel=0.03)


def test_a_narrow_difference_takes_more_rounds():
    comparison = VirtualMachine().compare(at_most(0.505))
    assert verdict(comparison) == "met"
    assert 10 < comparison.rounds < 1000


def test_a_goal_may_be_against_another_candidate_of_the_run():
    """1.9 times the reference, and half of the one that the goal names."""
    machine = VirtualMachine()
    steps = {name: machine.step(name, seconds) for name, seconds in (("static", 1.0), ("view", 1.9), ("masked", 3.8))}
    goals = {"view": at_most(0.6, "masked")}
    comparison = compare("test", steps, "static", goals, 1e9, clock=machine.clock)
    _, view, masked = comparison.rows
    assert view.ratio
    assert masked.ratio
    assert (view.verdict, masked.verdict) == ("met", "no goal")
    assert view.ratio.median == pytest.approx(0.5, rel=0.03)
    assert masked.ratio.median == pytest.approx(3.8, rel=0.03)
    assert "<= 0.6 of masked" in comparison.table()
    assert faster(2, "masked").text == "<= 0.5 (2x faster) of masked"


def test_what_cannot_be_decided_in_time_is_undecided():
    machine = VirtualMachine()
    comparison = machine.compare(at_most(0.5), time_limit_s=45.0)
    assert verdict(comparison) == "undecided"
    assert 45.0 < comparison.seconds < 47.0


def test_one_round_alone_decides_nothing_and_has_no_interval():
    comparison = VirtualMachine().compare(at_most(0.9), time_limit_s=0.1)
    assert (verdict(comparison), comparison.rounds) == ("undecided", 1)
    json.dumps(comparison.to_json(), allow_nan=False)
    assert comparison.to_json()["rows"][1]["ratio"]["high"] is None


def test_early_stopping_rarely_decides_wrongly():
    """The truth is exactly the goal, so every decision is wrong: at most about 1 % a look, with few looks."""
    early = 0
    for seed in range(200):
        machine = VirtualMachine(seed)
        meter, wait = wall_time(machine.clock), lambda: None
        samplers = {"static": meter.sampler(machine.step("static", 1.0), wait)}
        samplers["view"] = meter.sampler(machine.step("view", 0.5), wait)
        enough = lambda ms: all_decided(ms, "static", {"view": at_most(0.5)})
        conditions = Conditions(rounds=10_000, limit_s=150.0, seed=seed)
        ms = in_rounds(samplers, conditions, enough, lambda done, total: None, machine.clock)
        early += len(ms["static"]) < 95  # 1.5 s a round: the time alone allows a hundred
    assert early <= 200 * 0.08


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.9, 1.0, "met"), (1.01, 1.2, "missed"), (0.99, 1.01, "undecided")]
)
def test_the_verdict_goes_by_the_interval(low, high, expected):
    assert at_most(1.0).verdict(Ratio((low + high) / 2, low, high, 20)) == expected


def test_candidates_without_a_goal_stand_beside_the_others():
    machine = VirtualMachine()
    steps = {name: machine.step(name, 1.0) for name in ("a", "b", "c")}
    comparison = compare("test", steps, "a", {}, 1e9, clock=machine.clock, warmup=1)
    assert [row.verdict for row in comparison.rows] == ["reference", "no goal", "no goal"]
    assert sorted(machine.calls) == sorted(["a", "b", "c"] * 11)
    assert sorted(machine.calls[3:6]) == ["a", "b", "c"]  # interleaved from the first round


@pytest.mark.parametrize(
    "names",
    [
        {"reference": "statik", "goals": {}},
        {"reference": "static", "goals": {"veiw": at_most(1)}},
        {"reference": "static", "goals": {"static": at_most(1, "veiw")}},
    ],
)
def test_a_name_that_is_no_candidate_is_refused(names):
    with pytest.raises(ValueError, match=r"no candidate is named (statik|veiw)"):
        compare("test", {"static": lambda: None}, **names)


def test_the_table_shows_ratio_interval_goal_and_verdict():
    table = VirtualMachine().compare(faster(1.8)).table()
    title, header, reference, view = table.splitlines()
    assert title.startswith("test: 10 rounds")
    for column in ("candidate", "median ms", "IQR ms", "ratio", "95 % interval", "goal", "verdict"):
        assert column in header
    assert reference.split()[0] == "static"
    assert reference.endswith("reference")
    assert "<= 0.556 (1.8x faster)" in view
    assert view.endswith("met")


STEPS = """
import ctypes, time
import torch
from bench.profilers import allocator

def sleeper(seconds):
    print("a step may print")
    return lambda: (print("so may a call"), time.sleep(seconds))

def stater(pinned, threads):
    def step():
        assert allocator.pinned() is pinned, "pinned"
        assert torch.get_num_threads() == threads, "threads"
    return step

def failing():
    def step():
        raise ValueError("this step is broken")
    return step

def dying():
    import os
    return lambda: os._exit(7)
"""


@pytest.fixture
def steps_module(tmp_path, monkeypatch) -> str:
    """The name of a module that worker processes can import."""
    (tmp_path / "harness_steps.py").write_text(STEPS)
    monkeypatch.syspath_prepend(tmp_path)
    return "harness_steps"


def test_isolated_candidates_are_interleaved_with_those_here(steps_module):
    here = lambda: torch.ones(2).sum()
    there = Isolated(f"{steps_module}:sleeper", {"seconds": 0.02}, pin=False)
    comparison = compare("test", {"here": here, "there": there}, "here", {"there": at_most(1)}, warmup=1)
    assert verdict_of(comparison, "there") == "missed"
    assert 20 <= comparison.rows[1].median_ms < 500


def verdict_of(comparison: Comparison, name: str) -> str:
    return {row.name: row.verdict for row in comparison.rows}[name]


def test_a_worker_has_its_own_allocator_and_threads(steps_module):
    with Worker(f"{steps_module}:stater", {"pinned": False, "threads": 2}, threads=2, pin=False) as worker:
        assert worker() >= 0
    assert worker._process.exitcode == 0


def test_a_failing_step_is_reported_with_its_trace(steps_module):
    with (
        Worker(f"{steps_module}:failing", {}, threads=1, pin=False) as worker,
        pytest.raises(RuntimeError, match="this step is broken"),
    ):
        worker()
    assert worker._process.exitcode is not None


def test_a_dying_worker_is_reported_with_its_exit_code(steps_module):
    with (
        Worker(f"{steps_module}:dying", {}, threads=1, pin=False) as worker,
        pytest.raises(RuntimeError, match="exit code 7"),
    ):
        worker()


def test_a_target_that_does_not_exist_is_an_answer_not_a_hang():
    with pytest.raises(RuntimeError, match="nothing"):
        Worker("tests.speed.worker:nothing", {}, threads=1, pin=False)


def test_a_script_prints_its_conditions_and_writes_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SLICEBENCH_DATA", str(tmp_path / "images"))
    seen = []

    def run(options):
        seen.append(options)
        yield VirtualMachine().compare(at_most(0.6))

    threads = torch.get_num_threads()
    scripting.script("slicing", run)(["--json", str(tmp_path / "out.json"), "--time-limit", "5", "--threads", "2"])
    torch.set_num_threads(threads)
    assert seen == [scripting.Options(5.0, 2, tmp_path / "images")]
    printed = capsys.readouterr().out
    body = json.loads((tmp_path / "out.json").read_text())
    assert body["conditions"]["threads"] == 2
    for key in ("threads: 2", "allocator_pinned: ", "view", "met"):
        assert key in printed
    assert set(body) == {"script", "conditions", "comparisons"}
    assert body["comparisons"][0]["rows"][1]["verdict"] == "met"


def test_the_summary_names_every_goal_and_every_failure():
    comparisons = [VirtualMachine().compare(goal).to_json() for goal in (at_most(0.6), at_most(0.4))]
    lines = everything.summary([{"script": "slicing", "comparisons": comparisons}], ["data"]).splitlines()
    assert [line.split()[0] for line in lines] == ["met", "missed", "1", "failed:"]
    assert re.search(r"slicing: test: view 0\.(4[789]|5[012])", lines[0])
    assert lines[2] == "1 met, 1 missed, 0 undecided"


def test_a_script_that_fails_has_no_result(capfd):
    given = scripting.parser("nothing").parse_args([])
    assert everything.run_script("nothing", given) is None
    assert "nothing" in capfd.readouterr().err


def test_an_unknown_script_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tests.speed", "slcing"])
    with pytest.raises(SystemExit) as left:
        everything.main()
    assert left.value.code == 2
    assert "slcing" in capsys.readouterr().err
