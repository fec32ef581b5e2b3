"""Latency: one call at a time, candidates in interleaved shuffled rounds, compared within a round.

A machine's speed drifts by more than the differences we look for, so each round times every candidate once,
in an order shuffled by a fixed seed, and two candidates are compared by the ratio of their times within a
round (`bench.statistics.paired`).
"""

import gc
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.profilers import allocator
from bench.profilers.load import Load, LoadWatch
from bench.statistics.paired import quantile

Step = Callable[[], object]
Clock = Callable[[], float]
Synchronise = Callable[[], None]
Tell = Callable[[int, int], object]

ROUNDS_AT_LEAST = 5
"""How many rounds a time limit leaves: fewer give no quartiles worth the name."""


@dataclass(frozen=True)
class Conditions:
    """Under what a latency was measured; the same for all candidates of one `measure`."""

    device: str
    threads: int
    warmup: int
    allocator_pinned: bool
    load: Load


@dataclass(frozen=True)
class Latency:
    """Times of one candidate, in milliseconds, `samples_ms[r]` being its call in round r."""

    samples_ms: tuple[float, ...]
    conditions: Conditions

    @property
    def n(self) -> int:
        """Number of timed calls."""
        return len(self.samples_ms)

    @property
    def median_ms(self) -> float:
        """Median of the calls."""
        return quantile(self.samples_ms, 0.5)

    @property
    def iqr_ms(self) -> float:
        """Distance between the quartiles."""
        return quantile(self.samples_ms, 0.75) - quantile(self.samples_ms, 0.25)

    @property
    def p90_ms(self) -> float:
        """90th percentile, interpolated between calls."""
        return quantile(self.samples_ms, 0.90)

    @property
    def p99_ms(self) -> float:
        """99th percentile, interpolated between calls: close to the maximum when n is below 100."""
        return quantile(self.samples_ms, 0.99)

    def details(self) -> dict[str, object]:
        """Everything about this latency but its samples, ready for a record's details (JSON values)."""
        conditions = self.conditions
        return {
            "median_ms": self.median_ms,
            "iqr_ms": self.iqr_ms,
            "p90_ms": self.p90_ms,
            "p99_ms": self.p99_ms,
            "n": self.n,
            "warmup": conditions.warmup,
            "device": conditions.device,
            "threads": conditions.threads,
            "allocator_pinned": conditions.allocator_pinned,
            "busy": conditions.load.busy,
            "other_cores": round(conditions.load.other_cores, 3),
            "load_average": conditions.load.load_average,
        }


def measure(
    candidates: Mapping[str, Step],
    rounds: int,
    warmup: int,
    device: torch.device | str = "cpu",
    *,
    seed: int = 0,
    pin: bool = True,
    clock: Clock = time.perf_counter,
    synchronise: Synchronise | None = None,
    limit_s: float = math.inf,
    tell: Tell = lambda done, total: None,
) -> dict[str, Latency]:
    """Time every candidate once a round for `rounds` rounds, after `warmup` untimed calls each.

    The allocator is pinned first unless `pin` is false. Work queued on `device` is waited for before the
    clock is read, by `synchronise` where one is given. The steps run as they are: put networks under
    `as_served`, or use `measure_networks`. Raises ValueError when `rounds` is below 1.

    Args:
        limit_s: once the rounds have taken so many seconds no new one begins; `ROUNDS_AT_LEAST` are run in any case.
        tell: called between rounds with the number that is done and `rounds`.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    is_pinned = allocator.pin() if pin else allocator.pinned()
    wait = synchronise or synchroniser(device)
    samplers = {name: sampler(step, clock, wait) for name, step in candidates.items()}
    watch = LoadWatch()
    for sample in samplers.values():
        for _ in range(warmup):
            sample()
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    shuffle = random.Random(seed)
    with collector_off():
        start = clock()
        for done in range(rounds):
            if done >= ROUNDS_AT_LEAST and clock() - start > limit_s:
                break
            tell(done, rounds)
            time_round(samplers, seconds, shuffle)
    conditions = Conditions(str(device), torch.get_num_threads(), warmup, is_pinned, watch.stop())
    return {name: Latency(tuple(1e3 * s for s in seconds[name]), conditions) for name in candidates}


def measure_networks(
    networks: Mapping[str, nn.Module],
    images: Tensor | Mapping[str, Tensor],
    rounds: int,
    warmup: int,
    *,
    threads: int | None = None,
    **settings: Any,
) -> dict[str, Latency]:
    """Time the forward pass of each network on `images` (B, C, H, W), as it would be served.

    Networks and images must be on the same device; `images` may be given by network, to each in a layout of its own.
    `settings` are those of `measure`. Training flags and the number of threads are put back.
    """
    inputs = dict.fromkeys(networks, images) if isinstance(images, Tensor) else images
    candidates = {name: _forward(network, inputs[name]) for name, network in networks.items()}
    device = next((x.device for x in inputs.values()), torch.device("cpu"))
    with as_served(networks.values(), threads):
        return measure(candidates, rounds, warmup, device, **settings)


@contextmanager
def as_served(networks: Iterable[nn.Module], threads: int | None = None) -> Iterator[None]:
    """Evaluation mode without gradients, with `threads` threads; afterwards everything is as it was before.

    The training flag is put back module by module, because a network may be partly frozen.
    """
    flags = [(module, module.training) for network in networks for module in network.modules()]
    threads_before = torch.get_num_threads()
    try:
        for module, _ in flags:
            module.training = False
        if threads is not None:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            yield
    finally:
        for module, training in flags:
            module.training = training
        torch.set_num_threads(threads_before)


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep Python's cycle collector from running inside a timed call (as timeit does)."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def sampler(step: Step, clock: Clock = time.perf_counter, wait: Synchronise = lambda: None) -> Clock:
    """A function that runs `step` once and returns its seconds, all work it queued on the device included."""

    def sample() -> float:
        wait()
        start = clock()
        step()
        wait()
        return clock() - start

    return sample


def time_round(samplers: Mapping[str, Clock], seconds: dict[str, list[float]], shuffle: random.Random) -> None:
    """One round: each sampler once, in an order drawn by `shuffle`; its seconds are added to its list."""
    order = list(samplers)
    shuffle.shuffle(order)
    for name in order:
        seconds[name].append(samplers[name]())


def synchroniser(device: torch.device | str) -> Synchronise:
    """The function that waits for all work queued on `device`: without it a latency is the launch time."""
    where = torch.device(device)
    if where.type == "cpu":
        return lambda: None
    if where.type == "cuda":
        return lambda: torch.cuda.synchronize(where)
    return lambda: torch.accelerator.synchronize(where)


def _forward(network: nn.Module, images: Tensor) -> Step:
    return lambda: network(images)
