"""The harness of `make bench`: ratios to a reference in interleaved rounds, until the verdict is decided.

A goal bounds the ratio of a candidate's time to the reference's. The verdict goes by the 95 % interval of the
median paired ratio. Looking every few rounds and stopping at the first decision would make that interval too
optimistic, so rounds stop early only when a 99 % interval decides; the time limit stops them otherwise.
"""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from bench.profilers.latency import Clock, Step, collector_off, sampler, synchroniser, time_round
from bench.profilers.load import Load, LoadWatch
from bench.statistics.paired import Ratio, paired_ratio, quantile
from tests.speed.worker import Worker

MINIMUM_ROUNDS = 10
"""Before the first look: the fewest with which order statistics reach 99 %, and a little."""
STOP_CONFIDENCE = 0.99
GROWTH = 1.3
"""The next look comes after this many times the rounds of the last."""


@dataclass(frozen=True)
class Goal:
    """An upper bound of the ratio candidate / reference; `text` is how the table shows it.

    `against`: another candidate of the run whose time takes the place of the reference's.
    """

    ratio: float
    text: str
    against: str | None = None

    def verdict(self, ratio: Ratio) -> str:
        """`met`: the whole interval is within the bound; `missed`: all of it is beyond; else `undecided`."""
        if ratio.high <= self.ratio:
            return "met"
        return "missed" if ratio.low > self.ratio else "undecided"


def at_most(ratio: float, against: str | None = None) -> Goal:
    """The candidate takes at most `ratio` of the reference's time, or of the candidate's that is named."""
    return Goal(ratio, f"<= {ratio:g}" + _of(against), against)


def faster(times: float, against: str | None = None) -> Goal:
    """The candidate is at least `times` as fast as the reference, or as the candidate that is named."""
    return Goal(1 / times, f"<= {1 / times:.3g} ({times:g}x faster)" + _of(against), against)


def _of(against: str | None) -> str:
    return f" of {against}" if against else ""


@dataclass(frozen=True)
class Prepared:
    """A candidate with its own set-up: `setup` runs once, untimed, and returns the step."""

    setup: Callable[[], Step]


@dataclass(frozen=True)
class Isolated:
    """A candidate in a process of its own: `target` ("package.module:function") is its set-up there.

    It is called with `arguments` (JSON values) and returns the step. `threads` and `pin` are that process's.
    """

    target: str
    arguments: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    pin: bool = True


Candidate = Step | Prepared | Isolated


@dataclass(frozen=True)
class Row:
    """One candidate's result; times in milliseconds.

    `ratio` is to the reference, whose own row has none, or to the candidate that its goal is against.
    """

    name: str
    median_ms: float
    iqr_ms: float
    ratio: Ratio | None
    goal: Goal | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """JSON values; an interval that too few rounds left open has null ends."""
        body = asdict(self)
        if self.ratio and math.isinf(self.ratio.high):
            body["ratio"] |= {"low": None, "high": None}
        return body


@dataclass(frozen=True)
class Comparison:
    """All candidates of one `compare`, with the rounds and seconds it took and the load beside it."""

    name: str
    reference: str
    rows: tuple[Row, ...]
    rounds: int
    seconds: float
    load: Load

    def table(self) -> str:
        """The comparison as aligned text."""
        busy = f", machine busy: others used {self.load.other_cores:.2f} cores" if self.load.busy else ""
        title = f"{self.name}: {self.rounds} rounds, {self.seconds:.0f} s{busy}"
        header = ("candidate", "median ms", "IQR ms", "ratio", "95 % interval", "goal", "verdict")
        return title + "\n" + _aligned([header, *map(_cells, self.rows)])

    def to_json(self) -> dict[str, Any]:
        """JSON values, see `Row.to_json`."""
        load = asdict(self.load) | {"busy": self.load.busy}
        return asdict(self) | {"rows": [row.to_json() for row in self.rows], "load": load}


def compare(
    name: str,
    candidates: Mapping[str, Candidate],
    reference: str,
    goals: Mapping[str, Goal],
    time_limit_s: float = 60.0,
    *,
    device: torch.device | str = "cpu",
    warmup: int = 2,
    minimum_rounds: int = MINIMUM_ROUNDS,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> Comparison:
    """Time all candidates in interleaved, shuffled rounds until every goal is decided or the time is out.

    The time limit holds for the rounds, not for set-up and warm-up; at least one round is always run.
    Candidates without a goal stand beside the others; without any goal `minimum_rounds` are run. Raises ValueError when
    the reference or a goal names no candidate.
    """
    others = {goal.against for goal in goals.values() if goal.against}
    unknown = {reference, *goals, *others} - set(candidates)
    if unknown:
        raise ValueError(f"{name}: no candidate is named {', '.join(sorted(unknown))}")
    with _samplers(candidates, device, clock) as samplers, collector_off():
        for sample in samplers.values():
            for _ in range(warmup):
                sample()
        watch, start = LoadWatch(), clock()
        seconds = _rounds(samplers, reference, goals, lambda: clock() - start > time_limit_s, minimum_rounds, seed)
        taken = clock() - start
    rows = tuple(_row(each, seconds, reference, goals.get(each)) for each in candidates)
    return Comparison(name, reference, rows, len(seconds[reference]), taken, watch.stop())


def _rounds(
    samplers: Mapping[str, Clock],
    reference: str,
    goals: Mapping[str, Goal],
    out_of_time: Callable[[], bool],
    minimum_rounds: int,
    seed: int,
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    shuffle = random.Random(seed)
    next_look = minimum_rounds
    for done in itertools.count(1):
        time_round(samplers, seconds, shuffle)
        if out_of_time():
            break
        if done >= next_look:
            if all(_decided(seconds[name], seconds[goal.against or reference], goal) for name, goal in goals.items()):
                break
            next_look = math.ceil(done * GROWTH)
    return seconds


def _decided(times: list[float], reference: list[float], goal: Goal) -> bool:
    return goal.verdict(paired_ratio(times, reference, STOP_CONFIDENCE)) != "undecided"


def _row(name: str, seconds: dict[str, list[float]], reference: str, goal: Goal | None) -> Row:
    times = seconds[name]
    median, iqr = quantile(times, 0.5), quantile(times, 0.75) - quantile(times, 0.25)
    if name == reference:
        return Row(name, 1e3 * median, 1e3 * iqr, None, None, "reference")
    ratio = paired_ratio(times, seconds[(goal and goal.against) or reference])
    return Row(name, 1e3 * median, 1e3 * iqr, ratio, goal, goal.verdict(ratio) if goal else "no goal")


@contextmanager
def _samplers(
    candidates: Mapping[str, Candidate], device: torch.device | str, clock: Clock
) -> Iterator[dict[str, Clock]]:
    """Every candidate, set up, as a function that returns the seconds of one call; workers end with it."""
    wait = synchroniser(device)
    with ExitStack() as stack:
        samplers: dict[str, Clock] = {}
        for name, candidate in candidates.items():
            if isinstance(candidate, Isolated):
                worker = Worker(candidate.target, candidate.arguments, threads=candidate.threads, pin=candidate.pin)
                samplers[name] = stack.enter_context(worker).time
            else:
                step = candidate.setup() if isinstance(candidate, Prepared) else candidate
                samplers[name] = sampler(step, clock, wait)
        yield samplers


def _cells(row: Row) -> tuple[str, ...]:
    times = (row.name, f"{row.median_ms:.3f}", f"{row.iqr_ms:.3f}")
    goal = row.goal.text if row.goal else "-"
    if row.ratio is None:
        return (*times, "1", "-", goal, row.verdict)
    interval = "-" if math.isinf(row.ratio.high) else f"{row.ratio.low:.3f} .. {row.ratio.high:.3f}"
    return (*times, f"{row.ratio.median:.3f}", interval, goal, row.verdict)


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
