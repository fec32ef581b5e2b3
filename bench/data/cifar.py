"""`cifar10`: 32x32 colour photographs of 10 classes (Krizhevsky 2009), under one of two protocols.

`official` trains on the 50,000 training images and tests on the 10,000 test images. `holdout` trains on
batches 1 to 4 and tests on batch 5, for where the official test set is not at hand; its numbers do not
compare with published ones. Under both, calibration and validation images are taken out of the training
images, by a fixed balanced permutation.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.core.errors import UserError, unknown
from bench.core.spec import DataSpec
from bench.data.augment import Augmentation, Normalisation
from bench.data.cifar_files import LAYOUTS, SOURCE, Layout, damaged, nhwc
from bench.data.dataset import Dataset, Split
from bench.data.memory import Card, assemble
from bench.data.splits import balanced_order, cut

# The field's constants, from all 50,000 training images. Under `holdout` batch 5 has a share in them, as the
# held-out images have in every published number: six numbers, the same for every method.
CARD = Card(
    name="cifar10",
    version=1,
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    normalisation=Normalisation(peak=255.0, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    augmentation=Augmentation(shift=4, flip=True),
)
BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))


@dataclass(frozen=True)
class Protocol:
    """Which of the authors' batches train (calibration and validation are taken out of them), which test."""

    train: tuple[str, ...]
    test: str


PROTOCOLS = {"official": Protocol(BATCHES, "test_batch"), "holdout": Protocol(BATCHES[:4], BATCHES[4])}


@dataclass(frozen=True)
class Sizes:
    """Numbers of images: in each of the authors' batches, and held out. Tests use smaller ones."""

    batch: int = 10_000
    calibration: int = 1_000
    validation: int = 4_000  # with calibration the field's customary 5,000


def load_cifar10(spec: DataSpec, root: Path | None = None, sizes: Sizes | None = None) -> Dataset:
    """CIFAR-10 from cifar-10-batches-bin or cifar-10-batches-py in `root`, or `root` being one of them.

    Every file of the protocol is checked here, the test file included, whose images only `open_test` keeps.
    Raises UserError for an unknown protocol, missing or damaged files, and too many train_images.
    """
    if spec.protocol not in PROTOCOLS:
        raise unknown("protocol of cifar10", spec.protocol, PROTOCOLS)
    protocol, sizes = PROTOCOLS[spec.protocol], sizes or Sizes()
    archive = find(root, sizes.batch)
    archive.read(protocol.test)  # fails now if it must, not after the training
    planes, targets = archive.read(*protocol.train)
    order = balanced_order(targets, "split", CARD.name, CARD.version, spec.protocol)
    held_out = {"calibration": sizes.calibration, "validation": sizes.validation}
    members = cut(order, held_out, rest="train")

    def open_test(id: str) -> Split:
        planes, targets = archive.read(protocol.test)
        return CARD.split("test", id, nhwc(planes), targets)

    return assemble(CARD, spec, nhwc(planes), targets, members, open_test)


@dataclass(frozen=True)
class Archive:
    """A folder with the authors' batches in one of their layouts; `images`: the number in each batch."""

    folder: Path
    layout: Layout
    images: int

    def read(self, *names: str) -> tuple[np.ndarray, np.ndarray]:
        """The batches one after the other: planar bytes (n, 3072) and labels (n,), both uint8.

        Raises UserError when one is missing, damaged, or does not hold the right number of images.
        """
        planes, labels = zip(*map(self._batch, names), strict=True)
        return np.concatenate(planes), np.concatenate(labels)

    def _batch(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        path = self.folder / (name + self.layout.suffix)
        if not (os.path.isfile(path) and os.access(path, os.R_OK)):
            raise damaged(path, "is missing or not readable")
        planes, labels = self.layout.read(path)
        if len(labels) == self.images:
            return planes, labels
        if name == PROTOCOLS["official"].test:
            raise UserError(
                f"cifar10: {path} holds {len(labels):,} of the {self.images:,} official test images, so n would "
                f"differ from every other result; download all of CIFAR-10 from {SOURCE}, or set "
                f"data.protocol=holdout (batches 1 to 4 train, batch 5 is the test, n = {self.images:,})"
            )
        raise damaged(path, f"holds {len(labels):,} images instead of {self.images:,}")


def find(root: Path | None, images: int) -> Archive:
    """The archive below or at `root`, the binary one first. Raises UserError when there is none."""
    folders = " or ".join(layout.folder for layout in LAYOUTS)
    if root is None:
        raise UserError(f"cifar10 needs a data directory: --data DIR with {folders} in it, from {SOURCE}")
    for layout in LAYOUTS:
        if os.path.isdir(root / layout.folder):  # unlike Path.is_dir, False where we may not look
            return Archive(root / layout.folder, layout, images)
    for layout in LAYOUTS:
        if os.path.isfile(root / (BATCHES[0] + layout.suffix)):
            return Archive(root, layout, images)
    missing = f"has no {folders}" if os.path.exists(root) else "does not exist"
    raise UserError(f"cifar10: {root} {missing}; download CIFAR-10 from {SOURCE} and unpack it there")
