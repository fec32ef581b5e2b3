"""`imagenet`, `tiny_imagenet`: photographs in folders, `train/<class>/*.JPEG` and `val/<class>/*.JPEG`.

Any number of classes and images of any resolution. Of `imagenet`, protocol `official` is all of ILSVRC 2012 (1,000
classes; its 50,000 validation images are our test split), and `subset` is any part of it; its numbers do not compare
with published ones, and its name in records states the number of classes. `tiny_imagenet` (64x64) is read by the same
code: `official` has 200 classes and 10,000 validation images, moved into class folders, and `subset` is any part.

Calibration and validation images are taken out of the training images by a fixed balanced permutation: a twentieth
each, at most 10,000 and 25,000.
"""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.core.errors import UserError, unknown
from bench.core.spec import DataSpec
from bench.data.dataset import Dataset, dataset_id, refuse_strict
from bench.data.folder import FolderSplit
from bench.data.folder_index import Index, read_index, why_corrupt
from bench.data.splits import balanced_order, cut, train_subset
from bench.data.transforms import pipeline

PROTOCOLS = ("official", "subset")
NAMED = 5  # corrupt files that a warning names


@dataclass(frozen=True)
class Folders:
    """What is fixed about a dataset in folders; `version` counts changes of its splits.

    places: where it may lie in the data directory. official: classes, and images of the test split. crop: the share of
    the resized side that evaluation keeps. source: how to get it.
    """

    name: str
    version: int
    places: tuple[str, ...]
    official: tuple[int, int]
    image_size: int
    augmentation: str
    crop: float
    source: str


IMAGENET = Folders(
    name="imagenet",
    version=1,
    places=("imagenet", "ILSVRC2012"),
    official=(1_000, 50_000),
    image_size=224,
    augmentation="full",
    crop=0.875,  # 256 to 224
    source="unpack ILSVRC 2012 (https://image-net.org) into it, the validation images in class folders",
)
TINY_IMAGENET = Folders(
    name="tiny_imagenet",
    version=1,
    places=("tiny-imagenet-200", "tiny-imagenet-100"),
    official=(200, 10_000),
    image_size=64,
    augmentation="light",
    crop=1.0,  # at their own size the images are evaluated as they are
    source="unpack Tiny-ImageNet (http://cs231n.stanford.edu/tiny-imagenet-200.zip) into it, images in class folders",
)


def load_imagenet(spec: DataSpec, root: Path | None = None) -> Dataset:
    """Photographs of 1,000 classes in class folders (ILSVRC 2012) or any part of them, at 224x224. See `read`."""
    return read(IMAGENET, spec, root)


def load_tiny_imagenet(spec: DataSpec, root: Path | None = None) -> Dataset:
    """Photographs of 200 classes at 64x64 in class folders, or any part of them. See `read`."""
    return read(TINY_IMAGENET, spec, root)


def read(folders: Folders, spec: DataSpec, root: Path | None) -> Dataset:
    """A dataset in folders. Files are listed and looked at here, and decoded when they are used.

    Raises:
        UserError: an unknown protocol or augmentation; data.strict; no such folders, an empty class folder, classes
            that differ between train and val, another number of classes or test images than the protocol has; corrupt
            files, unless data.skip_corrupt leaves them out, which is a warning that names and counts them; too many
            train_images.
    """
    if spec.protocol not in PROTOCOLS:
        raise unknown(f"protocol of {folders.name}", spec.protocol, PROTOCOLS)
    refuse_strict(spec)
    pixels = pipeline(spec.image_size or folders.image_size, spec.augmentation or folders.augmentation, folders.crop)
    folder = find(folders, root)
    train, test = (_index(folders, folder / part, spec.skip_corrupt) for part in ("train", "val"))
    _check_classes(folders, spec, train, test)
    protocol = spec.protocol if spec.protocol == "official" else f"subset{len(train.classes)}"
    whole = dataset_id(folders.name, protocol, folders.version)
    order = balanced_order(train.labels, "split", folders.name, folders.version, spec.protocol)
    members = {
        name: rows[~np.isin(rows, train.corrupt)] for name, rows in cut(order, held_out(len(train)), "train").items()
    }
    chosen = train_subset(members["train"], spec.train_images, whole)
    subset = "" if spec.train_images is None else f"[{spec.train_images}]"

    def split(name: str, index: Index, rows: np.ndarray, suffix: str = "") -> FolderSplit:
        without = f"[without {len(index.corrupt)}]" if len(index.corrupt) else ""
        return FolderSplit(name, f"{whole}:{name}{suffix}{without}", index, rows, pixels)

    tested = np.setdiff1d(np.arange(len(test)), test.corrupt)
    return Dataset(
        name=folders.name,
        version=folders.version,
        protocol=protocol,
        classes=train.classes,
        image_size=pixels.size,
        channels=3,
        train=split("train", train, chosen, subset),
        calibration=split("calibration", train, members["calibration"]),
        validation=split("validation", train, members["validation"]),
        test_opener=lambda: split("test", test, tested),
    )


def held_out(images: int) -> dict[str, int]:
    """How many of the training images are taken out."""
    part = max(1, images // 20)
    return {"calibration": min(part, 10_000), "validation": min(part, 25_000)}


def find(folders: Folders, root: Path | None) -> Path:
    """The folder with `train` and `val`, below or at `root`. Raises UserError when there is none."""
    places = " or ".join(folders.places)
    if root is None:
        raise UserError(f"{folders.name} needs a data directory: --data DIR with {places} in it")
    for place in (*(root / name for name in folders.places), root):
        if os.path.isdir(place / "train") and os.path.isdir(place / "val"):
            if folders is IMAGENET and "tiny" in place.name.lower():
                raise UserError(f"{place} is not ImageNet by its name; read it with data.name=tiny_imagenet")
            return place
    missing = f"has no {places} with folders train and val" if os.path.exists(root) else "does not exist"
    raise UserError(f"{folders.name}: {root} {missing}; {folders.source}")


def _index(folders: Folders, folder: Path, skip_corrupt: bool) -> Index:
    try:
        index = read_index(folder, decode_all=skip_corrupt)
    except UserError as error:
        raise UserError(f"{folders.name}: {error}") from error
    except OSError as error:
        raise UserError(f"{folders.name}: {error.filename} cannot be read: {error.strerror}") from error
    count = len(index.corrupt)
    if not count:
        return index
    paths = [index.path(row) for row in index.corrupt.tolist()[:NAMED]]
    if not skip_corrupt:
        of = f"; {count} images of {folder} cannot" if count > 1 else ""
        raise UserError(
            f"{folders.name}: {paths[0]} cannot be decoded ({why_corrupt(paths[0])}){of}; put it right, or leave "
            "corrupt images out with data.skip_corrupt=true"
        )
    more = f" and {count - NAMED} more" if count > NAMED else ""
    images = "image" if count == 1 else "images"
    warnings.warn(f"{folders.name}: left out {count} corrupt {images}: {', '.join(paths)}{more}", stacklevel=2)
    return index


def _check_classes(folders: Folders, spec: DataSpec, train: Index, test: Index) -> None:
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        where, other = (train, test) if differing[0] in train.classes else (test, train)
        more = f" ({len(differing)} classes differ)" if len(differing) > 1 else ""
        raise UserError(
            f"{folders.name}: {other.folder} has no class folder {differing[0]}, which {where.folder} has{more}"
        )
    if len(train.classes) < 2:
        raise UserError(f"{folders.name}: {train.folder} has one class; a classifier needs two")
    found = (len(train.classes), len(test))
    if spec.protocol == "official" and found != folders.official:
        classes, images = folders.official
        raise UserError(
            f"{folders.name}: {train.folder.parent} holds {found[0]:,} classes with {found[1]:,} images in val, the "
            f"official {classes:,} with {images:,}, so no number would compare with another; set data.protocol=subset"
        )
