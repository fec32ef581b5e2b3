"""Meters: paired, interleaved, synchronised, and without a trace left on what was measured."""

import gc
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.benchmark import Timer

from bench.profilers import allocator, load
from bench.profilers.latency import LATENCY
from bench.profilers.meter import Conditions, Measurement, Meter, Served, growth, in_rounds, measure, synchroniser
from bench.statistics.paired import median_interval, paired_ratio, quantile

LAUNCH_S, WORK_S = 1e-5, 2e-3


class AsynchronousDevice:
    """A clock and a device that works in the background: launching is quick, `synchronise` waits."""

    def __init__(self):
        self.now = 0.0
        self.idle_at = 0.0

    def clock(self) -> float:
        return self.now

    def launch(self, work_s: float) -> None:
        self.now += LAUNCH_S
        self.idle_at = max(self.now, self.idle_at) + work_s

    def synchronise(self) -> None:
        self.now = max(self.now, self.idle_at)


class VirtualWork:
    """Steps that take an exact virtual time; `speed` is changed between rounds to play a drifting machine."""

    def __init__(self):
        self.now = 0.0
        self.speed = 1.0
        self.calls: list[str] = []

    def clock(self) -> float:
        return self.now

    def step(self, name: str, seconds: float):
        def run() -> None:
            self.calls.append(name)
            self.now += seconds / self.speed

        return run


def timed(steps, clock, rounds=11, warmup=0, tell=lambda done, total: None, synchronise=None, **conditions):
    """Measurements in seconds of a virtual clock."""
    about = Conditions(rounds=rounds, warmup=warmup, **conditions)
    return measure(Meter("time", "s", growth(clock)), steps, about, tell=tell, clock=clock, synchronise=synchronise)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.ReLU())


def test_work_on_an_asynchronous_device_is_waited_for():
    device = AsynchronousDevice()
    steps = {"net": lambda: device.launch(WORK_S)}
    time = timed(steps, device.clock, 5, 1, synchronise=device.synchronise)["net"]
    assert time.samples == pytest.approx([LAUNCH_S + WORK_S] * 5)


def test_without_synchronisation_the_same_device_shows_launch_time():
    device = AsynchronousDevice()
    time = timed({"net": lambda: device.launch(WORK_S)}, device.clock, 5, 1)["net"]
    assert time.median == pytest.approx(LAUNCH_S)


def test_work_left_over_by_one_candidate_is_not_charged_to_the_next():
    device = AsynchronousDevice()
    steps = {"heavy": lambda: device.launch(50 * WORK_S), "light": lambda: device.launch(WORK_S)}
    times = timed(steps, device.clock, 7, synchronise=device.synchronise)
    assert times["light"].quantile(1) == pytest.approx(LAUNCH_S + WORK_S)


@pytest.mark.parametrize(("limit_s", "rounds"), [(0.0, 5), (6.5, 7), (math.inf, 11)])
def test_no_round_begins_after_the_time_limit_but_five_are_run(limit_s, rounds):
    """Two seconds of warm-up, which the limit does not count, then one second a round."""
    work, told = VirtualWork(), []
    steps = {"a": work.step("a", 0.25), "b": work.step("b", 0.75)}
    tell = lambda done, total: told.append((done, total))
    times = timed(steps, work.clock, 11, 2, tell, limit_s=limit_s)
    assert [times["a"].n, times["b"].n] == [rounds, rounds]
    assert told == [(done, 11) for done in range(rounds)]


def test_a_cuda_device_is_synchronised(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    synchroniser("cuda:1")()
    assert waited == [torch.device("cuda:1")]


def test_every_round_times_every_candidate_once_in_a_shuffled_repeatable_order():
    def calls(seed: int) -> list[str]:
        work = VirtualWork()
        steps = {name: work.step(name, 1.0) for name in "abcd"}
        timed(steps, work.clock, 12, seed=seed)
        return work.calls

    first = calls(0)
    rounds = [tuple(first[4 * r : 4 * r + 4]) for r in range(12)]
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len(set(rounds)) > 4
    assert first == calls(0) != calls(1)


def test_warm_up_calls_are_not_samples():
    work = VirtualWork()
    time = timed({"a": work.step("a", 1.0)}, work.clock, 3, 4)["a"]
    assert (len(work.calls), time.n, time.conditions.warmup) == (7, 3, 4)


def test_no_round_follows_one_after_which_it_is_enough():
    work, seen = VirtualWork(), []
    meter, steps = Meter("time", "s", growth(work.clock)), {name: work.step(name, 1.0) for name in "ab"}

    def enough(samples):
        seen.append([len(samples[name]) for name in "ab"])
        return len(seen) == 4

    assert measure(meter, steps, Conditions(rounds=9), enough=enough)["b"].n == 4
    assert seen == [[n, n] for n in (1, 2, 3, 4)]


def test_a_drifting_machine_does_not_move_the_paired_ratio():
    work = VirtualWork()
    samplers = {
        name: growth(work.clock)(work.step(name, seconds), lambda: None)
        for name, seconds in (("slow", 3.0), ("quick", 2.0))
    }

    def drift(done: int, total: int) -> None:
        work.speed = 1.0 + done % 7

    seconds = in_rounds(samplers, Conditions(rounds=20), lambda _: False, drift, work.clock)
    ratio = paired_ratio(seconds["slow"], seconds["quick"])
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))
    low, high = median_interval(seconds["slow"])
    assert high / low > 1.5  # the times themselves do move


def test_summary_of_known_times():
    work = VirtualWork()
    durations = iter(range(1, 102))
    step = lambda: setattr(work, "now", work.now + next(durations))
    time = timed({"a": step}, work.clock, 101, batch=8, threads=2)["a"]
    assert (time.median, time.iqr, time.n) == pytest.approx((51.0, 50.0, 101))
    details = time.details()
    assert (details["p90_s"], details["p99_s"]) == pytest.approx((91.0, 100.0))
    assert (details["median_s"], details["iqr_s"]) == (time.median, time.iqr)
    assert [details[key] for key in ("meter", "batch", "threads", "precision")] == ["time", 8, 2, "float32"]
    assert time.metrics() == {"time_s": (time.median, "s/batch")}


def test_latency_also_tells_images_a_second():
    assert LATENCY.metrics(50.0, 8) == {"latency_ms": (50.0, "ms/batch"), "images_per_s": (160.0, "images/s")}


def test_a_network_gets_its_batches_in_turn():
    seen = []

    class Looks(nn.Module):
        def forward(self, x):
            seen.append((len(x), self.training, torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))

    looks = Looks().train()
    measure(LATENCY, {"net": Served(looks, [torch.ones(2), torch.ones(3)])}, Conditions(warmup=1, rounds=3))
    assert seen == [(count, False, True, False) for count in (2, 3, 2, 3)]
    assert looks.training


def test_precision_is_that_of_autocast():
    kinds = []
    network = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    step = lambda: kinds.append(network(torch.ones(1, 2)).dtype)
    measure(LATENCY, {"a": step}, Conditions(rounds=1, warmup=0, precision="bfloat16"))
    measure(LATENCY, {"a": step}, Conditions(rounds=1, warmup=0))
    assert kinds == [torch.bfloat16, torch.float32]


def test_measuring_leaves_the_network_as_it_was():
    network = small_network().train()
    network[1].eval()  # partly frozen
    images = torch.randn(2, 3, 8, 8)
    flags = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    hooks = _hooks(network)
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    conditions = Conditions(rounds=3, warmup=1, threads=threads + 1)
    latency: Measurement = measure(LATENCY, {"net": Served(network, [images])}, conditions)["net"]
    assert latency.conditions.threads == threads + 1
    assert [module.training for module in network.modules()] == flags
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert (_hooks(network), torch.get_num_threads(), torch.is_grad_enabled()) == (hooks, threads, grad)
    assert gc.isenabled()
    network(images).sum().backward()  # still trains: nothing was turned into an inference tensor
    assert network[0].weight.grad is not None


def test_the_collector_does_not_run_in_a_call():
    seen = []
    measure(LATENCY, {"a": lambda: seen.append(gc.isenabled())}, Conditions(rounds=2, warmup=0))
    assert seen == [False, False]


def test_a_failing_candidate_also_leaves_everything_as_it_was():
    network = small_network().train()
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        measure(LATENCY, {"net": Served(network, [torch.randn(2, 5, 8, 8)])}, Conditions(threads=threads + 1))
    assert network.training
    assert (torch.get_num_threads(), gc.isenabled()) == (threads, True)


def _hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_at_least_one_round():
    with pytest.raises(ValueError, match="rounds"):
        measure(LATENCY, {"a": lambda: None}, Conditions(rounds=0))


def test_our_loop_agrees_with_torch_utils_benchmark():
    """Loosely, best call against best call: a wrong unit or extra calls would differ by far more than 2x."""
    a = torch.randn(400, 400)
    step = lambda: a @ a
    ours = min(measure(LATENCY, {"mm": step}, Conditions(rounds=40, warmup=5))["mm"].samples)
    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    theirs = 1e3 * min(timer.timeit(1).median for _ in range(40))
    assert 0.5 < ours / theirs < 2


@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_median_interval_takes_the_ranks_of_the_binomial(confidence):
    for n in range(1, 200):
        low, high = median_interval(range(1, n + 1), confidence)
        k = int(stats.binom.ppf((1 - confidence) / 2, n, 0.5))  # smallest k with P(X <= k) >= alpha / 2
        if stats.binom.cdf(k, n, 0.5) <= (1 - confidence) / 2:
            k += 1
        assert (low, high) == ((k, n + 1 - k) if k else (0.0, math.inf))


def test_median_interval_covers_a_skewed_median():
    generator = np.random.default_rng(0)
    samples = generator.lognormal(sigma=1.5, size=(2000, 25))  # median 1
    covered = [low <= 1 <= high for low, high in map(median_interval, samples.tolist())]
    assert 0.945 < np.mean(covered) < 0.985


def test_median_interval_of_very_many_rounds():
    low, high = median_interval(range(5001))
    assert low < 2500 < high
    assert high - low < 200


def test_quantile_is_that_of_numpy():
    values = [5.0, 1.0, 4.0, 9.0, 2.0, 2.0]
    for q in (0.0, 0.1, 0.5, 0.77, 1.0):
        assert quantile(values, q) == pytest.approx(np.quantile(values, q))


def test_unpaired_times_are_refused():
    with pytest.raises(ValueError, match="equal rounds"):
        paired_ratio([1.0, 2.0], [1.0])


FAULTS = """
import resource, torch
from bench.profilers import allocator
def faults(calls):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        torch.empty(32 * 2**20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
unpinned = faults(5)
assert not allocator.pinned()
assert allocator.pin() and allocator.pin() and allocator.pinned()
faults(40)  # until the heap has found its size
print(unpinned, faults(5))
"""


@pytest.mark.skipif(not allocator.is_glibc(), reason="the allocator is pinned on Linux with glibc only")
def test_pinning_ends_the_page_faults_of_large_blocks():
    output = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    unpinned, pinned = map(int, output.split())
    assert pinned < 50  # pages
    assert unpinned > 10 * max(pinned, 1)


def test_pinning_is_refused_quietly_where_mallopt_is_not_glibcs(monkeypatch):
    monkeypatch.setattr(allocator, "_pinned", None)
    monkeypatch.setattr(allocator, "is_glibc", lambda: False)
    assert (allocator.pin(), allocator.pinned()) == (False, False)


def test_load_counts_others_and_not_ourselves(monkeypatch):
    readings = iter([load._Reading(0.0, 100.0, 10.0), load._Reading(2.0, 103.0, 11.9)])
    monkeypatch.setattr(load, "_read", lambda: next(readings))
    monkeypatch.setattr(load, "_our_cores", lambda: [0, 1])
    measured = load.LoadWatch(minimum_s=0.0).stop()
    assert (measured.other_cores, measured.seconds, measured.cores) == pytest.approx((0.55, 2.0, 2))
    assert measured.busy


@pytest.mark.parametrize(("other_cores", "cores", "busy"), [(0.2, 2, False), (0.3, 2, True), (2.0, 64, False)])
def test_busy_depends_on_the_size_of_the_machine(other_cores, cores, busy):
    assert load.Load(0.0, other_cores, cores, 1.0).busy is busy


SPIN = "import time; end = time.time() + 0.6\nwhile time.time() < end: pass"


def test_processor_time_of_children_is_our_own():
    before = load._own_seconds()
    work = (
        "import time\nwhile time.process_time() < 0.4: pass"  # of its own processor time, however busy the machine is
    )
    with subprocess.Popen([sys.executable, "-c", work]) as child:
        child.wait()
    assert load._own_seconds() - before > 0.2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="orphans a process through a POSIX shell")
def test_work_of_a_stranger_makes_the_machine_busy():
    watch = load.LoadWatch()
    subprocess.run(["sh", "-c", '"$0" -c "$1" & sleep 0.5', sys.executable, SPIN], check=True)  # orphaned
    assert watch.stop().other_cores > load.BUSY_CORES
