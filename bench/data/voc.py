"""`voc`: objects in photographs, in the layout of PASCAL VOC (Everingham et al. 2010), with any classes.

The protocol names the sets to join: a folder of VOCdevkit ("BCCD"), several ("VOC2007+VOC2012"), or `official`, the
field's 07+12: trainval of both for training, test of 2007. A set with a test list is used as its authors divide it:
its val list is halved into calibration and validation. Of one without, val is the test, and a tenth of its training
images each are held out for calibration and validation, as from 07+12; joined with a set that has a test list, all of
its training images train, for the val list of the other is held out already. All by fixed permutations.

So `VOC2007`, of a folder without the test list (which is another download), holds 500 of its 2,501 train images out,
half for calibration and half for validation, and tests on its 2,510 val images. With the test list in the folder it is
the authors' division of train, val and test; the digests of the splits tell the two apart.

Images are resized to a square (160 pixels unless `data.image_size` says otherwise; `official` 300, as SSD) without
keeping their proportions; an overlap of boxes does not depend on that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.core.spec import DataSpec
from bench.data.augment import Normalisation
from bench.data.boxes import BoxAugmentation, BoxSplit, table_of
from bench.data.dataset import Dataset, dataset_id
from bench.data.memory import refuse_folder_options
from bench.data.splits import cut, keyed_order, train_subset
from bench.data.voc_files import (
    Annotation,
    class_numbers,
    find_set,
    has_list,
    image_list,
    read_annotation,
    read_photograph,
    report_empty,
)

VERSION = 1
EDGE, OFFICIAL_EDGE = 160, 300
NORMALISATION = Normalisation(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of ImageNet, the field's constants
VOC = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
CLASSES = {
    "VOC2007": VOC,
    "VOC2012": VOC,
    "BCCD": ("Platelets", "RBC", "WBC"),
    "VOC2011animals": ("cat", "cow", "dog", "horse", "sheep"),
}
"""The classes of known sets. Those of any other are read from the annotations of its training images."""


@dataclass(frozen=True)
class Item:
    """One image of one set."""

    folder: Path
    name: str

    def annotation(self) -> Annotation:
        return read_annotation(self.folder / "Annotations" / f"{self.name}.xml")


@dataclass(frozen=True)
class Lists:
    """Which images train, which are held out from training (none: a share of those that train), which test."""

    train: list[Item]
    held_out: list[Item]
    test: list[Item]


def load_voc(spec: DataSpec, root: Path | None = None) -> Dataset:
    """The sets that the protocol names, from VOCdevkit in `root`, or from folders of `root`.

    Every annotation and photograph is read here, those of the test split too, which only `open_test` keeps. Raises
    UserError for whatever is missing or damaged, a box outside its image, an image without boxes, an unknown class,
    sets whose classes differ, settings that it does not have, too few images for all splits, too many train_images and,
    where `spec.strict`, boxes without an area.
    """
    refuse_folder_options(spec)
    official = spec.protocol == "official"
    names = ["VOC2007", "VOC2012"] if official else spec.protocol.split("+")
    lists = _official(root) if official else _lists([find_set(root, name) for name in names])
    edge = spec.image_size or (OFFICIAL_EDGE if official else EDGE)
    whole = dataset_id("voc", spec.protocol, VERSION)
    members = _members(lists, spec, whole)
    listed = [*lists.train, *lists.held_out, *lists.test]
    annotations = {item: item.annotation() for item in listed}
    report_empty(annotations.values(), spec.strict)
    classes = _classes(names, [annotations[item] for item in lists.train])
    rows = max(len(each.boxes) for each in annotations.values())

    def split(name: str, items: Sequence[Item], suffix: str = "") -> BoxSplit:
        images = np.stack([read_photograph(i.folder, i.name, annotations[i], edge) for i in items])
        targets = np.stack([_table(annotations[item], classes, edge, rows) for item in items])
        return BoxSplit(name, f"{whole}:{name}{suffix}", images, targets, NORMALISATION, BoxAugmentation())

    split("test", lists.test)  # fails now if it must, not after the training
    return Dataset(
        name="voc",
        version=VERSION,
        protocol=spec.protocol,
        classes=classes,
        image_size=edge,
        channels=3,
        train=split("train", members["train"], "" if spec.train_images is None else f"[{spec.train_images}]"),
        calibration=split("calibration", members["calibration"]),
        validation=split("validation", members["validation"]),
        test_opener=lambda: split("test", lists.test),
        task="detection",
    )


def _official(root: Path | None) -> Lists:
    older, newer = find_set(root, "VOC2007"), find_set(root, "VOC2012")
    return Lists(_items(older, "trainval") + _items(newer, "trainval"), [], _items(older, "test"))


def _lists(folders: Sequence[Path]) -> Lists:
    """The union of several sets, each as its own lists divide it."""
    joined = Lists([], [], [])
    for folder in folders:
        divided = has_list(folder, "test")
        joined.train.extend(_items(folder, "train"))
        joined.held_out.extend(_items(folder, "val") if divided else [])
        joined.test.extend(_items(folder, "test" if divided else "val"))
    return joined


def _items(folder: Path, name: str) -> list[Item]:
    return [Item(folder, image) for image in image_list(folder, name)]


def _members(lists: Lists, spec: DataSpec, whole: str) -> dict[str, list[Item]]:
    """Training, calibration and validation images. Raises UserError where an image would be in two splits, and where
    there are too few images for all three."""
    source, count = (lists.held_out or lists.train), len(lists.held_out or lists.train)
    order = keyed_order(count, "split", "voc", VERSION, spec.protocol)
    share = count // 2 if lists.held_out else max(1, count // 10)
    sizes = {"calibration": share} if lists.held_out else {"calibration": share, "validation": share}
    parts = cut(order, sizes, rest="validation" if lists.held_out else "train")
    members = {name: [source[i] for i in rows] for name, rows in parts.items()}
    train = members.setdefault("train", lists.train)
    empty = [name for name, items in members.items() if not items]
    if empty:
        in_val = f" and {len(lists.held_out)} in val" if lists.held_out else ""
        raise UserError(
            f"voc: {spec.protocol} lists {len(lists.train)} images to train{in_val}, so none would be left for "
            f"{' and '.join(empty)}"
        )
    order = keyed_order(len(train), "train", "voc", VERSION, spec.protocol)
    members["train"] = [train[i] for i in train_subset(order, spec.train_images, whole)]
    everything = [*lists.train, *lists.held_out, *lists.test]
    if len(set(everything)) < len(everything):
        twice = max(everything, key=everything.count)
        raise UserError(f"voc: {twice.name} stands in two lists of {twice.folder}, so training and test would overlap")
    return members


def _classes(names: Iterable[str], train: Iterable[Annotation]) -> tuple[str, ...]:
    """The classes of a union of sets. Raises UserError where two known sets have different ones."""
    lists = {CLASSES[name]: name for name in names if name in CLASSES}
    if len(lists) > 1:
        differing = "; ".join(f"{name} has {', '.join(classes)}" for classes, name in lists.items())
        raise UserError(f"voc: sets with other classes cannot be joined: {differing}")
    return next(iter(lists), None) or tuple(sorted({name for each in train for name in each.names}))


def _table(annotation: Annotation, classes: tuple[str, ...], edge: int, rows: int) -> np.ndarray:
    return table_of(annotation.boxes * edge, class_numbers(annotation, classes), annotation.difficult, rows)
