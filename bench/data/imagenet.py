"""`imagenet`, `tiny_imagenet`: photographs in folders, `train/<class>/*.JPEG` and `val/<class>/*.JPEG`.

Any number of classes and images of any resolution. Of `imagenet`, protocol `official` is all of ILSVRC 2012 (1,000
classes; its 50,000 validation images are our test split), and `subset` is any part of it; its numbers do not compare
with published ones, and its name in records states the number of classes. `tiny_imagenet` is the same with 200 classes
at 64x64.

Validation images that lie together, as they are published, are read by a list of their classes: `val_annotations.txt`
(in Tiny-ImageNet's archive) or `LOC_val_solution.csv` (Kaggle's of ILSVRC), in `val` or beside it.
"""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import NotAtHand, UserError, unknown
from bench.core.spec import DataSpec
from bench.data.class_folders import assemble
from bench.data.dataset import Dataset, refuse_strict
from bench.data.folder_index import Index, list_images, read_index, read_list, visible_folders
from bench.data.transforms import pipeline

PROTOCOLS = ("official", "subset")
LISTS = {"val_annotations.txt": "\t", "LOC_val_solution.csv": ","}
"""Lists of validation images, with what separates an image's name from its class."""


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
    source="unpack Tiny-ImageNet (http://cs231n.stanford.edu/tiny-imagenet-200.zip) into it",
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
        UserError: an unknown protocol or augmentation; data.strict; no such folders, an empty class folder, another
            number of classes or test images than the protocol has; and as `class_folders.assemble`.
    """
    if spec.protocol not in PROTOCOLS:
        raise unknown(f"protocol of {folders.name}", spec.protocol, PROTOCOLS)
    refuse_strict(spec)
    pixels = pipeline(spec.image_size or folders.image_size, spec.augmentation or folders.augmentation, folders.crop)
    folder = find(folders, root)
    train = read_part(folders.name, folder / "train", spec.skip_corrupt)
    test = read_part(folders.name, folder / "val", spec.skip_corrupt, lists=True)
    classes, images = folders.official
    if spec.protocol == "official" and (len(train.classes), len(test)) != folders.official:
        raise UserError(
            f"{folders.name}: {folder} holds {len(train.classes):,} classes with {len(test):,} images in val, the "
            f"official {classes:,} with {images:,}, so no number would compare with another; set data.protocol=subset"
        )
    protocol = spec.protocol if spec.protocol == "official" else f"subset{len(train.classes)}"
    key = ("split", folders.name, folders.version, spec.protocol)
    return assemble(folders.name, folders.version, protocol, spec, pixels, key, train, test)


def find(folders: Folders, root: Path | None) -> Path:
    """The folder with `train` and `val`, below or at `root`. Raises UserError when there is none."""
    places = " or ".join(folders.places)
    if root is None:
        raise NotAtHand(f"{folders.name} needs a data directory: --data DIR with {places} in it")
    for place in (*(root / name for name in folders.places), root):
        if os.path.isdir(place / "train") and os.path.isdir(place / "val"):
            return place
    missing = f"has no {places} with folders train and val" if os.path.exists(root) else "does not exist"
    raise NotAtHand(f"{folders.name}: {root} {missing}; {folders.source}")


def read_part(name: str, folder: Path, decode_all: bool, lists: bool = False) -> Index:
    """The index of `train` or `val`. lists: images that lie together may have a list of their classes.

    Raises:
        UserError: no images, an empty class folder, images without classes, a file or folder that cannot be read.
    """
    try:
        listed = next((place for place in _lists_of(folder) if place.is_file()), None) if lists else None
        if listed is not None and len(visible_folders(folder)) <= 1:
            return read_list(folder, listed, read_classes(listed), decode_all)
        if not visible_folders(folder) and (images := len(list_images(folder).names)):
            raise UserError(
                f"{folder} holds {images:,} images and no class folders; move each into a folder of its class"
                + (f", or put {' or '.join(LISTS)} beside them, which lists their classes" if lists else "")
            )
        return read_index(folder, decode_all)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except OSError as error:
        raise UserError(f"{name}: {error.filename} cannot be read: {error.strerror}") from error


def _lists_of(folder: Path) -> list[Path]:
    return [place / name for place in (folder, folder.parent) for name in LISTS]


def read_classes(path: Path) -> dict[str, str]:
    """The class of each image of a list, by the image's name. Raises UserError for a line that has none."""
    classes = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, fields in enumerate(csv.reader(file, delimiter=LISTS[path.name]), start=1):
            if fields == ["ImageId", "PredictionString"] or not any(fields):
                continue
            if len(fields) < 2 or not fields[1].split():
                raise UserError(f"{path} has no class in line {number}")
            classes[fields[0]] = fields[1].split()[0]
    if not classes:
        raise UserError(f"{path} lists no images")
    return classes
