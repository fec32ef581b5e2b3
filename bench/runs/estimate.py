"""How long the training of a run would take here, from a few timed steps of it.

The run's method is rehearsed: three steps of every training, with small batches. What it reports of its progress says
how many steps each training has and when each ended; time is taken to grow in proportion to images. What is neither a
training nor a small part of one (evaluation, calibration, profiling) is left out.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

import torch

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.data import load
from bench.data.dataset import Batch, Dataset, Epoch, Split
from bench.methods import method_of
from bench.models import PRESETS
from bench.profilers.madds import executed_madds
from bench.slicing.supernet import View
from bench.training.run import Run

FIRST_IMAGES = 4  # of a step of the first try
BUDGET_S = 2.0  # about what a second try may take, with as many images as promise that
TIMED = 3  # steps; the first warms up


@dataclass(frozen=True)
class Estimate:
    """What a run is about to do. hours: None where it trains nothing, or could not be timed.

    madds: multiply-adds of the largest network for one image. images: of one epoch. trains: whether it trains anything
    of its own, or works on what its parent trained.
    """

    madds: int
    images: int
    hours: float | None
    trains: bool = True


def estimates(specs: Sequence[RunSpec], data_root: Path | None) -> dict[str, Estimate]:
    """By run_id. Runs that differ in their seed alone are timed once.

    Raises:
        UserError: data that is not there.
    """
    dataset = cache(lambda data, images: load(data, data_root, images))
    known: dict[str, Estimate] = {}
    found = {}
    for spec in specs:
        alike = replace(spec, seed=0, init_from=None)
        if alike.run_id not in known:
            known[alike.run_id] = estimate(alike, dataset(spec.data, PRESETS.get(spec.model).input))
        found[spec.run_id] = known[alike.run_id]
    return found


def estimate(spec: RunSpec, data: Dataset) -> Estimate:
    """One run, timed by its own steps on this machine; one that starts from another run or from pretrained weights is
    timed as if it did not, because their values take no other time."""
    net = PRESETS.get(spec.model).build(len(data.classes), data.channels, image_size=data.image_size).eval()
    image = torch.zeros(1, data.channels, data.image_size, data.image_size)
    madds = executed_madds(View(net, net.space.largest), image)
    epoch = data.train.steps(spec.train.batch_size) * spec.train.batch_size
    trains = not method_of(spec.method).needs_parent
    hours = _hours(replace(spec, weights=None), data) if trains else None
    return Estimate(madds, epoch, hours, trains)


def _hours(spec: RunSpec, data: Dataset) -> float | None:
    """Small batches make poor use of a machine, so a quick run is timed again with larger ones. Processes that train
    together share each batch; what they tell each other is not timed."""
    batch, started = spec.train.batch_size, time.perf_counter()
    pairs = 2 * spec.train.accumulate  # a batch in parts holds at least two images a part
    threads, few = torch.get_num_threads(), min(max(FIRST_IMAGES, pairs), batch)
    torch.set_num_threads(spec.threads)
    try:
        seconds = _seconds(spec, data, few)
        more = min(batch, int(few * BUDGET_S / (time.perf_counter() - started)) // pairs * pairs)
        if more > few:
            seconds = _seconds(spec, data, more)
    except (UserError, RuntimeError, AssertionError):  # few images may diverge; a cluster's GPU need not be here
        return None
    finally:
        torch.set_num_threads(threads)
    return seconds / spec.train.workers / 3600


def _seconds(spec: RunSpec, data: Dataset, images: int) -> float:
    """Of all trainings of a run, timed with batches of `images`."""
    watch, small = _Watch(), replace(spec, train=replace(spec.train, batch_size=images))
    parts = (FirstImages(split, images) for split in (data.calibration, data.validation))
    part = replace(data, **dict(zip(("calibration", "validation"), parts, strict=True)))
    method = method_of(spec.method)
    with tempfile.TemporaryDirectory() as folder:
        device, options = torch.device(spec.device), method.options(small)
        how = {"progress": watch, "checkpoint_s": math.inf, "rehearsal": TIMED}
        method.train(Run(small, options, Path(folder), lambda: part, device, **how))
    return watch.seconds()


class _Watch:
    """Progress that is timed: for each training its number of steps and when each of those that ran had ended."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self._ends: dict[str, list[float]] = {}

    def __call__(self, label: str, done: int, total: int) -> None:
        self._steps[label] = total
        self._ends.setdefault(label, []).append(time.perf_counter())

    def seconds(self) -> float:
        """Of all trainings, if every step took what the timed ones took."""
        return sum(steps * _usual(self._ends[label]) for label, steps in self._steps.items())


def _usual(ends: Sequence[float]) -> float:
    """The median time between the ends of steps."""
    return median([later - earlier for earlier, later in itertools.pairwise(ends)] or [0.0])


class FirstImages(Split):
    """The first images of a split, as a split of their own that is not trained on."""

    def __init__(self, split: Split, count: int) -> None:
        super().__init__(split.name, f"{split.id}[{count}]")
        self.batch = next(split.batches(count))

    @property
    def digest(self) -> str:
        """See `Split.digest`."""
        return f"the first {len(self)} images"

    def __len__(self) -> int:
        return len(self.batch.targets)

    def batches(self, batch_size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """See `Split.batches`."""
        for start in range(0, len(self), batch_size):
            rows = slice(start, start + batch_size)
            yield Batch((self.batch.x[rows].to(device),), self.batch.targets[rows].to(device))

    def _train_batches(self, asked: Epoch) -> Iterator[Batch]:
        raise AssertionError("these images are for evaluation")
