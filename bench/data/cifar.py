"""`cifar10`, `cifar100`: 32x32 colour photographs of 10 or of 100 classes (Krizhevsky 2009).

Protocol `official` tests on the authors' 10,000 test images, so its numbers compare with published ones. Of the
50,000 training images 45,000 train, 1,000 are for calibration and 4,000 for validation, by a fixed balanced
permutation. `holdout`, of CIFAR-10 alone, trains on batches 1 to 4, of which 5,000 images are held out likewise, and
tests on batch 5: for a data directory without the test images; its numbers do not compare with published ones.
CIFAR-100 is learnt by its fine labels; the coarse ones are read and not used. Ten of its test pictures are also among
its training pictures, six of them under another label: the authors' files are taken as they are.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.core.errors import NotAtHand, UserError, unknown
from bench.core.spec import DataSpec
from bench.data.augment import Augmentation, Normalisation
from bench.data.cifar_files import CIFAR10, CIFAR100, SOURCE, Files, Layout, nhwc
from bench.data.dataset import Dataset
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
CLASSES100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
CARD100 = Card(
    name="cifar100",
    version=1,
    classes=CLASSES100,
    normalisation=Normalisation(peak=255.0, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
    augmentation=Augmentation(shift=4, flip=True),
)
BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))


@dataclass(frozen=True)
class Protocol:
    """Which of the authors' files train (calibration and validation are taken out of them), which test."""

    train: tuple[str, ...]
    test: str


PROTOCOLS = {"official": Protocol(BATCHES, "test_batch"), "holdout": Protocol(BATCHES[:4], BATCHES[4])}
PROTOCOLS100 = {"official": Protocol(("train",), "test")}


@dataclass(frozen=True)
class Sizes:
    """Numbers of images: in each of the authors' batches, and held out. Tests use smaller ones."""

    batch: int = 10_000
    calibration: int = 1_000
    validation: int = 4_000  # with calibration the field's customary 5,000


def load_cifar10(spec: DataSpec, root: Path | None = None, sizes: Sizes | None = None) -> Dataset:
    """32x32 colour photographs of 10 classes, from cifar-10-batches-bin or cifar-10-batches-py. See `read`."""
    return read(CIFAR10, CARD, PROTOCOLS, spec, root, sizes or Sizes())


def load_cifar100(spec: DataSpec, root: Path | None = None, sizes: Sizes | None = None) -> Dataset:
    """32x32 colour photographs of 100 classes, from cifar-100-binary or cifar-100-python. See `read`."""
    return read(CIFAR100, CARD100, PROTOCOLS100, spec, root, sizes or Sizes())


def read(
    files: Files, card: Card, protocols: Mapping[str, Protocol], spec: DataSpec, root: Path | None, sizes: Sizes
) -> Dataset:
    """One of the two data sets from the authors' files, in a folder in `root` or in `root` itself.

    Every file of the protocol is checked here, the test file included, whose images only `open_test` keeps.
    Raises UserError for an unknown protocol, missing or damaged files, and too many train_images.
    """
    if spec.protocol not in protocols:
        raise unknown(f"protocol of {card.name}", spec.protocol, protocols)
    protocol, archive = protocols[spec.protocol], find(root, files, sizes.batch)
    archive.read(protocol.test)  # fails now if it must, not after the training
    planes, targets = archive.read(*protocol.train)
    order = balanced_order(targets, "split", card.name, card.version, spec.protocol)
    held_out = {"calibration": sizes.calibration, "validation": sizes.validation}
    members = cut(order, held_out, rest="train")

    def read_test() -> tuple[np.ndarray, np.ndarray]:
        planes, targets = archive.read(protocol.test)
        return nhwc(planes), targets

    return assemble(card, spec, nhwc(planes), targets, members, read_test)


@dataclass(frozen=True)
class Archive:
    """A folder with the authors' files in one of their layouts; `images`: the number in each batch of a file."""

    folder: Path
    layout: Layout
    files: Files
    images: int

    def read(self, *names: str) -> tuple[np.ndarray, np.ndarray]:
        """The files one after the other: planar bytes (n, 3072) and labels (n,), both uint8.

        Raises UserError when one is missing, damaged, or does not hold the right number of images.
        """
        planes, labels = zip(*map(self._file, names), strict=True)
        return np.concatenate(planes), np.concatenate(labels)

    def _file(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        path, images = self.folder / (name + self.layout.suffix), self.images * self.files.names[name]
        if not (os.path.isfile(path) and os.access(path, os.R_OK)):
            raise self.files.damaged(path, "is missing or not readable")
        planes, labels = self.layout.read(path, self.files)
        if len(labels) == images:
            return planes, labels
        if self.files is CIFAR10 and name == PROTOCOLS["official"].test:
            raise UserError(
                f"cifar10: {path} holds {len(labels):,} of the {images:,} official test images, so n would "
                f"differ from every other result; download all of CIFAR-10 from {SOURCE}, or set "
                f"data.protocol=holdout (batches 1 to 4 train, batch 5 is the test, n = {images:,})"
            )
        raise self.files.damaged(path, f"holds {len(labels):,} images instead of {images:,}")


def find(root: Path | None, files: Files, images: int) -> Archive:
    """The archive below or at `root`, the binary one first. Raises UserError when there is none."""
    folders = " or ".join(files.folders)
    if root is None:
        raise NotAtHand(f"{files.name} needs a data directory: --data DIR with {folders} in it, from {SOURCE}")
    for layout in files.layouts:
        if os.path.isdir(root / layout.folder):  # unlike Path.is_dir, False where we may not look
            return Archive(root / layout.folder, layout, files, images)
    for layout in files.layouts:
        if os.path.isfile(root / (next(iter(files.names)) + layout.suffix)):
            return Archive(root, layout, files, images)
    missing = f"has no {folders}" if os.path.exists(root) else "does not exist"
    raise NotAtHand(f"{files.name}: {root} {missing}; download {files.title} from {SOURCE} and unpack it there")
