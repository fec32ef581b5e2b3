"""The claims of `make bench`: ratios to a reference, measured (`bench.profilers.meter`) until the verdict is decided.

A goal bounds the ratio of a candidate's time to the reference's. The verdict goes by the 95 % interval of the
median paired ratio. Looking every few rounds and stopping at the first decision would make that interval too
optimistic, so rounds stop early only when a 99 % interval decides; the time limit stops them otherwise.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from tabulate import tabulate

from bench.profilers.load import Load
from bench.profilers.meter import (
    Conditions,
    Measurement,
    Meter,
    Sample,
    Samples,
    Served,
    Step,
    Synchronise,
    growth,
    measure,
)
from bench.statistics.paired import Ratio, paired_ratio
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
class Isolated:
    """A candidate in a process of its own: `target` ("package.module:function") is its set-up there.

    It is called with `arguments` (JSON values), untimed, and returns the step. `threads` and `pin` are that process's.
    """

    target: str
    arguments: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    pin: bool = True


Candidate = Step | Served | Isolated


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
        return title + "\n" + tabulate(map(_cells, self.rows), header, "plain", disable_numparse=True)

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
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time all candidates in interleaved, shuffled rounds until every goal is decided or the time is out.

    The time limit holds for the rounds, not for set-up and warm-up; at least one round is always run. Candidates
    without a goal stand beside the others; without any goal `MINIMUM_ROUNDS` are run. All runs without gradients but
    what is `Isolated`. Raises ValueError when the reference or a goal names no candidate.
    """
    others = {goal.against for goal in goals.values() if goal.against}
    unknown = {reference, *goals, *others} - set(candidates)
    if unknown:
        raise ValueError(f"{name}: no candidate is named {', '.join(sorted(unknown))}")
    conditions = Conditions(warmup=warmup, rounds=sys.maxsize, limit_s=time_limit_s, rounds_at_least=1)
    with _started(candidates) as ready:
        timed = measure(
            wall_time(clock), ready, conditions, enough=lambda ms: all_decided(ms, reference, goals), clock=clock
        )
    rows = tuple(_row(each, timed, reference, goals.get(each)) for each in candidates)
    seconds = sum(sum(each.samples) for each in timed.values()) / 1e3
    return Comparison(name, reference, rows, timed[reference].n, seconds, timed[reference].load)


def wall_time(clock: Callable[[], float]) -> Meter:
    """Latency by a clock in seconds; that of a worker is measured over there."""
    here = growth(lambda: 1e3 * clock())

    def sampler(step: Step, wait: Synchronise) -> Sample:
        return step if isinstance(step, Worker) else here(step, wait)

    return Meter("latency", "ms", sampler)


def all_decided(ms: Samples, reference: str, goals: Mapping[str, Goal]) -> bool:
    """Whether this is a round after which we look, and the interval with which rounds stop decides every goal."""
    look, done = MINIMUM_ROUNDS, len(ms[reference])
    while look < done:
        look = math.ceil(look * GROWTH)
    return look == done and all(
        goal.verdict(paired_ratio(ms[name], ms[goal.against or reference], STOP_CONFIDENCE)) != "undecided"
        for name, goal in goals.items()
    )


def _row(name: str, timed: Mapping[str, Measurement], reference: str, goal: Goal | None) -> Row:
    median, iqr = timed[name].median, timed[name].iqr
    if name == reference:
        return Row(name, median, iqr, None, None, "reference")
    ratio = paired_ratio(timed[name].samples, timed[(goal and goal.against) or reference].samples)
    return Row(name, median, iqr, ratio, goal, goal.verdict(ratio) if goal else "no goal")


@contextmanager
def _started(candidates: Mapping[str, Candidate]) -> Iterator[dict[str, Step | Served]]:
    """The candidates with those in other processes started; they end with it."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Worker(each.target, each.arguments, threads=each.threads, pin=each.pin))
            if isinstance(each, Isolated)
            else each
            for name, each in candidates.items()
        }


def _cells(row: Row) -> tuple[str, ...]:
    times = (row.name, f"{row.median_ms:.3f}", f"{row.iqr_ms:.3f}")
    goal = row.goal.text if row.goal else "-"
    if row.ratio is None:
        return (*times, "1", "-", goal, row.verdict)
    interval = "-" if math.isinf(row.ratio.high) else f"{row.ratio.low:.3f} .. {row.ratio.high:.3f}"
    return (*times, f"{row.ratio.median:.3f}", interval, goal, row.verdict)
