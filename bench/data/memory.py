"""Datasets whose images lie in memory, on the CPU or on a GPU."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core.errors import UserError
from bench.core.image_input import ImageInput
from bench.core.spec import DataSpec
from bench.data.augment import Augmentation, Canvas, Draws, Normalisation
from bench.data.dataset import Batch, Dataset, Epoch, Split, dataset_id, refuse_strict
from bench.data.splits import keyed_integers, keyed_order, train_subset
from bench.data.transforms import eraser, random_state_kept, seed_all


class InMemorySplit(Split):
    """Classified images as arrays. They are moved to a device once, at the first batch asked for there.

    images: (N, H, W, C) uint8; targets: (N,) class indices; both are copied. size: height and width of what the
    batches hold, where the images are to be resized: bilinear, after augmentation and normalisation.
    """

    def __init__(
        self,
        name: str,
        id: str,
        images: np.ndarray,
        targets: np.ndarray,
        normalisation: Normalisation,
        augmentation: Augmentation,
        size: int | None = None,
    ):
        super().__init__(name, id)
        self.images = np.array(images, dtype=np.uint8, order="C")
        self.targets = np.array(targets, dtype=np.int64, order="C")
        self.normalisation = normalisation
        self.augmentation = augmentation
        self.size = size
        self.erasing = 0.0
        self._residents: dict[torch.device, _Resident] = {}

    def __len__(self) -> int:
        return len(self.targets)

    def augmented_with(self, randaugment: str | None, erasing: float | None) -> "InMemorySplit":
        """See `Split.augmented_with`; images are shared. Raises UserError for a policy, which needs single images."""
        if randaugment not in (None, "none"):
            raise UserError(f"train.randaugment is for images in folders; {self.id} lies in memory as whole batches")
        split = copy.copy(self)
        split.erasing = erasing or 0.0
        return split

    def made_for(self, images: ImageInput, size: int) -> "InMemorySplit":
        """See `Split.made_for`; images are shared, and keep their own normalisation where the network wants others than
        they have channels. They are always resized as `size` is, bilinearly and whole."""
        split = copy.copy(self)
        split.size = size
        if len(images.mean) == self.images.shape[3]:
            split.normalisation = replace(self.normalisation, mean=images.mean, std=images.std)
        return split

    @cached_property
    def digest(self) -> str:
        """sha256 over the shape, the pixels as (N, H, W, C) bytes, and the targets as little-endian int64."""
        sha = hashlib.sha256(repr(self.images.shape).encode())
        sha.update(self.images.data)
        sha.update(self.targets.astype("<i8").data)
        return sha.hexdigest()

    def batches(self, batch_size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """See `Split.batches`."""
        self._require_positive(batch_size)
        return self._in_order(batch_size, self._resident(device))

    def _train_batches(self, asked: Epoch) -> Iterator[Batch]:
        here = self._resident(asked.device)
        order, corners = self.order(*asked.key), None
        if asked.augment:
            draws = [self.draws(*asked.key, view) for view in range(asked.views)]
            corners = [here.canvas.corners(order, each) for each in draws]
        erases = asked.augment and self.erasing > 0  # it draws for a batch as a whole
        size, (rank, processes) = asked.batch_size, (0, 1) if erases else asked.part
        rows = [slice(step * size + rank, (step + 1) * size, processes) for step in asked.steps]
        made = self._shuffled(rows, torch.from_numpy(order).to(asked.device), corners, asked.views, here)
        return (batch.part(*asked.part) for batch in self._erased(made, asked)) if erases else made

    def _erased(self, batches: Iterator[Batch], asked: Epoch) -> Iterator[Batch]:
        erase, keys = eraser(self.erasing), keyed_integers(asked.steps.stop, "erase", *asked.key).tolist()
        for number, batch in zip(asked.steps, batches, strict=True):
            for index, view in enumerate(batch.views):
                with random_state_kept():
                    seed_all(keys[number] ^ index)
                    erase(view)
            yield batch

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """(N,) int64, the order in which `train_batches` takes the images in that epoch."""
        return keyed_order(len(self), "order", seed, epoch)

    def draws(self, seed: int, epoch: int, view: int) -> Draws:
        """How `train_batches` augments in that epoch: N draws in the order of `order`."""
        return self.augmentation.draw(len(self), "augment", seed, epoch, view)

    def _in_order(self, batch_size: int, here: "_Resident") -> Iterator[Batch]:
        for first in range(0, len(self), batch_size):
            rows = slice(first, first + batch_size)
            yield Batch((self._ready(here.images[rows]),), here.targets[rows])

    def _shuffled(
        self, steps: list[slice], order: Tensor, corners: list[Tensor] | None, views: int, here: "_Resident"
    ) -> Iterator[Batch]:
        """corners: for each view where the windows of the whole epoch start, (N,); None: no augmentation."""
        for rows in steps:
            members = order[rows]
            if corners is None:
                pixels = [here.images.index_select(0, members)] * views
            else:
                pixels = [here.canvas.windows(view[rows]) for view in corners]
            yield Batch(tuple(map(self._ready, pixels)), here.targets.index_select(0, members))

    def _ready(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) uint8 as the network gets it: (B, C, size, size) float32."""
        x = self.normalisation(pixels)
        return x if self.size in (None, x.shape[-1]) else F.interpolate(x, self.size, mode="bilinear")

    def _resident(self, device: torch.device | str) -> "_Resident":
        device = torch.device(device)
        if device not in self._residents:
            self._residents[device] = _Resident(self.images, self.targets, self.augmentation, device)
        return self._residents[device]


class _Resident:
    """The images on one device; the canvas is built when they are first augmented there.

    Both outlive their first use, which may be under `torch.inference_mode`: they must not be inference
    tensors, which autograd refuses later.
    """

    def __init__(self, images: np.ndarray, targets: np.ndarray, augmentation: Augmentation, device: torch.device):
        self._augmentation = augmentation
        with torch.inference_mode(False):
            self.images = torch.from_numpy(images).to(device)  # (N, H, W, C) uint8
            self.targets = torch.from_numpy(targets).to(device)  # (N,) int64

    @cached_property
    def canvas(self) -> Canvas:
        with torch.inference_mode(False):
            return Canvas(self.images, self._augmentation)


@dataclass(frozen=True)
class Card:
    """What is fixed about an in-memory dataset under any protocol; `version` counts changes of its splits."""

    name: str
    version: int
    classes: tuple[str, ...]
    normalisation: Normalisation
    augmentation: Augmentation

    def split(
        self, name: str, id: str, images: np.ndarray, targets: np.ndarray, size: int | None = None
    ) -> InMemorySplit:
        """A split with this dataset's normalisation and augmentation; arguments as for InMemorySplit."""
        return InMemorySplit(name, id, images, targets, self.normalisation, self.augmentation, size)


def assemble(
    card: Card,
    spec: DataSpec,
    images: np.ndarray,
    targets: np.ndarray,
    members: Mapping[str, np.ndarray],
    read_test: Callable[[], tuple[np.ndarray, np.ndarray]],
) -> Dataset:
    """The dataset whose train, calibration and validation splits are the `members` (indices) of `images`.

    images: (N, H, W, C) uint8; targets: (N,). `read_test` gives those of the test split when it is opened. With
    data.image_size the batches of all splits are resized. Raises UserError when `spec` asks for more training images
    than there are, or for what only images in class folders or datasets with boxes have.
    """
    refuse_folder_options(spec)
    refuse_strict(spec)
    whole = dataset_id(card.name, spec.protocol, card.version)
    train = train_subset(members["train"], spec.train_images, whole)
    subset = "" if spec.train_images is None else f"[{spec.train_images}]"

    def split(name: str, rows: np.ndarray, suffix: str = "") -> Split:
        return card.split(name, f"{whole}:{name}{suffix}", images[rows], targets[rows], spec.image_size)

    return Dataset(
        name=card.name,
        version=card.version,
        protocol=spec.protocol,
        classes=card.classes,
        image_size=spec.image_size or images.shape[1],
        channels=images.shape[3],
        train=split("train", train, subset),
        calibration=split("calibration", members["calibration"]),
        validation=split("validation", members["validation"]),
        test_opener=lambda: card.split("test", f"{whole}:test", *read_test(), spec.image_size),
    )


def refuse_folder_options(spec: DataSpec) -> None:
    """Raises UserError for settings that only a dataset in class folders has."""
    if spec.augmentation is not None:
        raise UserError(f"data.augmentation is for images in folders; {spec.name} has one augmentation of its own")
    if spec.skip_corrupt:
        raise UserError(f"data.skip_corrupt is for images in folders; {spec.name} is read whole, and checked")
