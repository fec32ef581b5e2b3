"""What every dataset offers: four disjoint splits, each a fixed sequence of images that comes in batches.

A dataset that fits in memory uses `memory.InMemorySplit`; one that is decoded from files while it trains is
another subclass of `Split`. Whatever the task, targets are one tensor with a row for each image, so that a
batch can be indexed, sharded and moved without knowing the task.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.core.image_input import ImageInput
from bench.core.spec import DataSpec


class Batch(NamedTuple):
    """Some images with their targets.

    views: one or more augmentations of the same images, each (B, C, H, W) float32, normalised, channels_last.
    targets: (B,) int64 class indices in classification.
    """

    views: tuple[Tensor, ...]
    targets: Tensor

    @property
    def x(self) -> Tensor:
        """The first view."""
        return self.views[0]

    def part(self, rank: int, parts: int) -> Batch:
        """Every `parts`-th image from the `rank`-th on: what one of so many processes forwards of the batch."""
        if parts == 1:
            return self
        return Batch(tuple(view[rank::parts] for view in self.views), self.targets[rank::parts])


@dataclass(frozen=True)
class Epoch:
    """What `Split.train_batches` is asked for. steps: the numbers of the batches, in the epoch of number `epoch`."""

    batch_size: int
    seed: int
    epoch: int
    steps: range
    views: int
    augment: bool
    device: torch.device | str
    part: tuple[int, int]

    @property
    def key(self) -> tuple[int, int]:
        """What its random numbers are drawn by."""
        return self.seed, self.epoch


class Split(ABC):
    """A fixed sequence of images under a name ("train") and an id ("digits/official@1:train").

    Membership and order depend on the dataset's version only, never on a run's seed. Reading a split touches
    no global random state, and two iterators over it may be advanced in turn.
    """

    def __init__(self, name: str, id: str):
        self.name = name
        self.id = id

    @property
    @abstractmethod
    def digest(self) -> str:
        """sha256, hexadecimal, over the images and targets in their order."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abstractmethod
    def batches(self, batch_size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """Every image once, in order, not augmented; the last batch may be smaller."""

    def share(self, batch_size: int, rank: int, processes: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """Every `processes`-th of `batches` from the `rank`-th on. Processes that share the batches of one have every
        image once, in the batch where one process would have it, so what they count adds up to its counts."""
        return itertools.islice(self.batches(batch_size, device), rank, None, processes)

    def train_batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        start: int = 0,
        views: int = 1,
        augment: bool = True,
        device: torch.device | str = "cpu",
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """The batches of one epoch from step `start` on: shuffled, augmented `views` times, never ragged.

        With part = (rank, processes) it is `Batch.part` of each of them; `batch_size` is that of all processes.

        A pure function of (seed, epoch, step): with `start=k` it yields exactly what it would have yielded
        from step k on, so training resumes in the middle of an epoch. View v does not depend on how many
        views are asked for. The images left over after the last whole batch sit this epoch out.

        Raises UserError when the split holds no whole batch, ValueError when `start` is beyond the epoch or
        `views` is not positive.
        """
        steps = self.steps(batch_size)
        if not 0 <= start <= steps:
            raise ValueError(f"start must be between 0 and the {steps} steps of the epoch, not {start}")
        if views < 1:
            raise ValueError(f"views must be at least 1, not {views}")
        return self._train_batches(Epoch(batch_size, seed, epoch, range(start, steps), views, augment, device, part))

    @abstractmethod
    def _train_batches(self, asked: Epoch) -> Iterator[Batch]:
        """See `train_batches`, which checked what is asked for."""

    def augmented_with(self, randaugment: str | None, erasing: float | None) -> Split:
        """This split with another augmentation in `train_batches`; None leaves a part of it as it is.

        Args:
            randaugment: timm's name of a policy, or "none". erasing: chance that a part of an image becomes noise.

        Raises:
            UserError: these data cannot be augmented so.
        """
        raise UserError(f"{self.id} takes neither train.randaugment nor train.random_erasing: they know no boxes")

    def made_for(self, images: ImageInput, size: int) -> Split:
        """These images made as a network wants them, at `size` pixels; what they are (`digest`) stays.

        Raises:
            UserError: these data cannot be made so.
        """
        raise UserError(f"{self.id} has boxes, and a network that wants its images in its own way knows none")

    def steps(self, batch_size: int) -> int:
        """How many batches `train_batches` yields in all. Raises UserError when there would be none."""
        self._require_positive(batch_size)
        if batch_size > len(self):
            raise UserError(f"batch size {batch_size} is larger than the {len(self)} images of {self.id}")
        return len(self) // batch_size

    def _require_positive(self, batch_size: int) -> None:
        if batch_size < 1:
            raise UserError(f"batch size must be at least 1, not {batch_size}")


@dataclass(frozen=True)
class Dataset:
    """Images for one task under one protocol, split by a fixed permutation that belongs to `version`.

    image_size: height and width in pixels. train: to fit; calibration: for batch norm statistics; validation:
    for every choice (epoch, threshold, layer). The test split is for the final operating points alone and is
    reached through `open_test`. task: what is learnt, a key of `tasks/task.py`. summary: what was found, in one line to
    be shown before anything trains; empty where nothing could differ.
    """

    name: str
    version: int
    protocol: str
    classes: tuple[str, ...]
    image_size: int
    channels: int
    train: Split
    calibration: Split
    validation: Split
    test_opener: Callable[[], Split] = field(repr=False)
    task: str = "classification"
    summary: str = ""

    @property
    def id(self) -> str:
        """Name, protocol and version, "digits/official@1": the start of the id of each split."""
        return dataset_id(self.name, self.protocol, self.version)

    def made_for(self, images: ImageInput, size: int | None) -> Dataset:
        """The same images as a network wants them: its mean, deviation, crop and interpolation, and its size unless
        `size` says another. Raises `UserError` where they cannot be made so."""
        size = size or images.size
        splits = {name: getattr(self, name).made_for(images, size) for name in ("train", "calibration", "validation")}
        opener = self.test_opener
        return replace(self, image_size=size, test_opener=lambda: opener().made_for(images, size), **splits)

    def open_test(self) -> Split:
        """The test split. Its images are read at the first call and kept.

        Whether they are there is known before, when the dataset is loaded, so that no run fails at its end.
        """
        return self._test

    def digests(self, *names: str) -> dict[str, str]:
        """The digest of each named split ("train", "test"): what the data are, beside what they are called."""
        return {name: (self._test if name == "test" else getattr(self, name)).digest for name in names}

    @cached_property
    def _test(self) -> Split:
        return self.test_opener()


def dataset_id(name: str, protocol: str, version: int) -> str:
    """How a dataset is named in records: "cifar10/holdout@1"."""
    return f"{name}/{protocol}@{version}"


def refuse_strict(spec: DataSpec) -> None:
    """Raises UserError for the setting that only a dataset with boxes has."""
    if spec.strict:
        raise UserError(f"data.strict is about boxes without an area; {spec.name} has no boxes")
