"""What a meter is, and the one way in which candidates are measured by it: in interleaved, shuffled rounds.

A machine's speed drifts by more than the differences we look for, so each round measures every candidate once, in an
order shuffled by a fixed seed, and two candidates are compared by the ratio of what they took within a round
(`bench.statistics.paired`). Another meter is a file with a `Meter` and its line in `bench.profilers.METERS`; the
profile phase uses it for the runs whose `profile.meters` name it.
"""

import gc
import itertools
import math
import random
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.profilers import allocator
from bench.profilers.load import Load, LoadWatch
from bench.statistics.paired import quantile

Step = Callable[[], object]
Sample = Callable[[], float]
"""Runs a step and returns what it took, in the meter's unit."""
Synchronise = Callable[[], None]
Samples = Mapping[Any, Sequence[float]]
"""What every candidate took, round by round."""
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Meter:
    """A quantity that a call takes.

    Attributes:
        sampler: from a step, and a function that waits for the device, to a function that runs the step and returns
            what one call took. Most are a `growth`.
        derived: further metrics, each a unit and a function of the median and the batch size.
    """

    name: str
    unit: str
    sampler: Callable[[Step, Synchronise], Sample]
    derived: Mapping[str, tuple[str, Callable[[float, int], float]]] = field(default_factory=dict)

    def metrics(self, median: float, batch: int) -> dict[str, tuple[float, str]]:
        """Value and unit of each metric, for the median of the calls on one batch of images."""
        derived = {name: (value(median, batch), unit) for name, (unit, value) in self.derived.items()}
        return {f"{self.name}_{self.unit}": (median, f"{self.unit}/batch")} | derived


def growth(read: Callable[[], float]) -> Callable[[Step, Synchronise], Sample]:
    """The sampler of a quantity that only grows (a clock, the joules used so far): its growth during a call.

    It is read when the device is idle, so that a call is charged with all the work that it queued and no other.
    """

    def sampler(step: Step, wait: Synchronise) -> Sample:
        def sample() -> float:
            wait()
            start = read()
            step()
            wait()
            return read() - start

        return sample

    return sampler


@dataclass(frozen=True)
class Served:
    """A network and the batches (B, C, H, W) that it gets in turn: so a dynamic one meets a mixture of images."""

    network: nn.Module
    batches: Sequence[Tensor]

    def step(self) -> Step:
        """A step that runs the network on the next batch."""
        following = itertools.cycle(self.batches)
        return lambda: self.network(next(following))


@dataclass(frozen=True)
class Conditions:
    """Under what candidates are measured.

    Attributes:
        device: where they run.
        batch: images of a call, where it is of images.
        threads: None for those that torch has.
        precision: the float type of autocast (a name in torch); "float32" for none.
        warmup: calls of each candidate that are not measured.
        rounds: how many at most, each calling every candidate once.
        limit_s: no round begins after so many seconds of rounds, once there are `rounds_at_least`. Fewer than five
            give no quartiles worth the name.
        seed: of the order within the rounds.
    """

    device: str = "cpu"
    batch: int | None = None
    threads: int | None = None
    precision: str = "float32"
    warmup: int = 2
    rounds: int = 11
    limit_s: float = math.inf
    rounds_at_least: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, not {self.rounds}")


@dataclass(frozen=True)
class Measurement:
    """What one candidate took: `samples[r]` is its call in round r, in the meter's unit."""

    meter: Meter
    samples: tuple[float, ...]
    conditions: Conditions
    load: Load
    allocator_pinned: bool

    @property
    def n(self) -> int:
        """Number of measured calls."""
        return len(self.samples)

    @property
    def median(self) -> float:
        return self.quantile(0.5)

    @property
    def iqr(self) -> float:
        """Distance between the quartiles."""
        return self.quantile(0.75) - self.quantile(0.25)

    def quantile(self, q: float) -> float:
        """Quantile q of the calls, interpolated between them: that of 0.99 is nearly the maximum where n < 100."""
        return quantile(self.samples, q)

    def metrics(self) -> dict[str, tuple[float, str]]:
        """Value and unit of each metric of the meter."""
        return self.meter.metrics(self.median, self.conditions.batch or 1)

    def details(self) -> dict[str, Any]:
        """All about this measurement but its samples, as JSON values; the unit is part of the statistics' names."""
        unit, conditions = self.meter.unit, self.conditions
        return {
            "meter": self.meter.name,
            f"median_{unit}": self.median,
            f"iqr_{unit}": self.iqr,
            f"p90_{unit}": self.quantile(0.90),
            f"p99_{unit}": self.quantile(0.99),
            "n": self.n,
            "batch": conditions.batch,
            "warmup": conditions.warmup,
            "device": conditions.device,
            "threads": conditions.threads,
            "precision": conditions.precision,
            "allocator_pinned": self.allocator_pinned,
            "busy": self.load.busy,
            "other_cores": round(self.load.other_cores, 3),
            "load_average": self.load.load_average,
        }


def measure(
    meter: Meter,
    candidates: Mapping[K, Step | Served],
    conditions: Conditions | None = None,
    *,
    enough: Callable[[Samples], bool] = lambda samples: False,
    tell: Callable[[int, int], object] = lambda done, total: None,
    clock: Callable[[], float] = time.perf_counter,
    synchronise: Synchronise | None = None,
) -> dict[K, Measurement]:
    """Measure every candidate once a round, after its warm-up.

    The allocator is pinned, Python's cycle collector is off and the load is watched meanwhile. Networks run in
    evaluation mode, everything without gradients; all is as it was before when this ends. Networks and their batches
    must be on the device.

    Args:
        enough: called after each round with the samples so far; when it says so, no further round begins.
        tell: called before each round with the number that is done and the number of all.
        clock: seconds, by which the time limit goes.
        synchronise: waits for all work queued on the device; by default the one for `conditions.device`.

    >>> from bench.profilers.latency import LATENCY
    >>> network, x = nn.Linear(4, 4), torch.randn(8, 4)
    >>> timed = measure(LATENCY, {"linear": Served(network, [x])}, Conditions(batch=len(x), rounds=3))
    >>> timed["linear"].n, timed["linear"].median > 0
    (3, True)
    """
    conditions = conditions or Conditions()
    is_pinned = allocator.pin()
    wait = synchronise or synchroniser(conditions.device)
    networks = [each.network for each in candidates.values() if isinstance(each, Served)]
    with as_served(networks, conditions), _collector_off():
        steps = {name: each.step() if isinstance(each, Served) else each for name, each in candidates.items()}
        samplers = {name: meter.sampler(step, wait) for name, step in steps.items()}
        watch = LoadWatch()
        for sample in samplers.values():
            for _ in range(conditions.warmup):
                sample()
        samples = in_rounds(samplers, conditions, enough, tell, clock)
        about = replace(conditions, threads=torch.get_num_threads()), watch.stop(), is_pinned
    return {name: Measurement(meter, tuple(samples[name]), *about) for name in candidates}


def in_rounds(
    samplers: Mapping[K, Sample],
    conditions: Conditions,
    enough: Callable[[Samples], bool],
    tell: Callable[[int, int], object],
    clock: Callable[[], float],
) -> dict[K, list[float]]:
    """Rounds of all samplers until there are as many as `conditions` allow, or `enough` (see `measure`)."""
    samples: dict[K, list[float]] = {name: [] for name in samplers}
    shuffle, start, done = random.Random(conditions.seed), clock(), 0
    while done < conditions.rounds:
        if done >= conditions.rounds_at_least and clock() - start > conditions.limit_s:
            break
        tell(done, conditions.rounds)
        order = list(samplers)
        shuffle.shuffle(order)
        for name in order:
            samples[name].append(samplers[name]())
        done += 1
        if enough(samples):
            break
    return samples


@contextmanager
def as_served(networks: Iterable[nn.Module], conditions: Conditions) -> Iterator[None]:
    """Evaluation mode without gradients, with the conditions' threads and precision; afterwards all is as it was.

    The training flag is put back module by module, because a network may be partly frozen.
    """
    flags = [(module, module.training) for network in networks for module in network.modules()]
    threads_before = torch.get_num_threads()
    try:
        for module, _ in flags:
            module.training = False
        if conditions.threads is not None:
            torch.set_num_threads(conditions.threads)
        device, number = torch.device(conditions.device), getattr(torch, conditions.precision)
        with torch.inference_mode(), torch.autocast(device.type, number, enabled=number != torch.float32):
            yield
    finally:
        for module, training in flags:
            module.training = training
        torch.set_num_threads(threads_before)


@contextmanager
def _collector_off() -> Iterator[None]:
    """Keep Python's cycle collector from running inside a measured call (as timeit does)."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def synchroniser(device: torch.device | str) -> Synchronise:
    """The function that waits for all work queued on `device`: without it a latency is the launch time."""
    where = torch.device(device)
    if where.type == "cpu":
        return lambda: None
    if where.type == "cuda":
        return lambda: torch.cuda.synchronize(where)
    return lambda: torch.accelerator.synchronize(where)
