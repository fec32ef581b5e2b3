"""A dataset whose splits lie in class folders: what is held out of training, what is checked, and what is said of it.

`imagenet` and `folder` are read by this code. Calibration images, and validation images where no folder of their own
holds them, are taken out of the training images by a fixed balanced permutation: a twentieth each, at most 10,000 and
25,000.
"""

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from bench.core.errors import UserError
from bench.core.spec import DataSpec
from bench.data.dataset import Dataset, dataset_id
from bench.data.folder import FolderSplit
from bench.data.folder_index import Index
from bench.data.image_file import why_corrupt
from bench.data.splits import Key, balanced_order, cut, train_subset
from bench.data.transforms import Pipeline

NAMED = 5  # corrupt files that a warning names


def assemble(
    name: str,
    version: int,
    protocol: str,
    spec: DataSpec,
    pixels: Pipeline,
    key: Sequence[Key],
    train: Index,
    test: Index,
    validation: Index | None = None,
) -> Dataset:
    """The dataset of two or three indices. key: of the permutation by which images are held out of training.

    Raises:
        UserError: classes that differ or are fewer than two; corrupt files, unless data.skip_corrupt leaves them out,
            which is a warning that names and counts them; too few images for all splits, too many train_images.
    """
    parts = [index for index in (train, validation, test) if index is not None]
    for index in parts[1:]:
        _check_classes(name, train, index)
    _check_files(name, parts, spec.skip_corrupt)
    whole = dataset_id(name, protocol, version)
    members = _members(name, key, train, validation is None)
    chosen = train_subset(members["train"], spec.train_images, whole)
    subset = "" if spec.train_images is None else f"[{spec.train_images}]"

    def split(part: str, index: Index, rows: np.ndarray, suffix: str = "") -> FolderSplit:
        without = f"[without {len(index.corrupt)}]" if len(index.corrupt) else ""
        return FolderSplit(part, f"{whole}:{part}{suffix}{without}", index, rows, pixels)

    def all_of(part: str, index: Index) -> FolderSplit:
        return split(part, index, np.setdiff1d(np.arange(len(index)), index.corrupt))

    validating = (
        split("validation", train, members["validation"]) if validation is None else all_of("validation", validation)
    )
    splits = [split("train", train, chosen, subset), split("calibration", train, members["calibration"]), validating]
    return Dataset(
        name=name,
        version=version,
        protocol=protocol,
        classes=train.classes,
        image_size=pixels.size,
        channels=3,
        train=splits[0],
        calibration=splits[1],
        validation=splits[2],
        test_opener=lambda: all_of("test", test),
        summary=_summary(whole, parts, [*splits, all_of("test", test)]),
    )


def held_out(images: int) -> dict[str, int]:
    """How many of the training images are taken out."""
    part = max(1, images // 20)
    return {"calibration": min(part, 10_000), "validation": min(part, 25_000)}


def _members(name: str, key: Sequence[Key], train: Index, validates: bool) -> dict[str, np.ndarray]:
    """Which training images are trained on, and which are held out to calibrate and, if asked, to validate."""
    sizes = held_out(len(train))
    if not validates:
        del sizes["validation"]
    if len(train) <= sum(sizes.values()):
        raise UserError(
            f"{name}: {train.folder} holds {len(train)} images, too few to hold some out and train on others"
        )
    parts = cut(balanced_order(train.labels, *key), sizes, "train")
    return {part: rows[~np.isin(rows, train.corrupt)] for part, rows in parts.items()}


def _check_classes(name: str, train: Index, other: Index) -> None:
    if train.classes != other.classes:
        differing = sorted(set(train.classes) ^ set(other.classes))
        where, lacking = (train, other) if differing[0] in train.classes else (other, train)
        more = f" ({len(differing)} classes differ)" if len(differing) > 1 else ""
        raise UserError(f"{name}: {lacking.folder} has no class folder {differing[0]}, which {where.folder} has{more}")
    if len(train.classes) < 2:
        raise UserError(f"{name}: {train.folder} has one class; a classifier needs two")


def _check_files(name: str, parts: Sequence[Index], skip_corrupt: bool) -> None:
    """Say which files are left out: those of other suffixes by count, corrupt ones by name."""
    unread = sum((Counter(index.unread) for index in parts), Counter[str]())
    if unread:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(unread.items()))
        warnings.warn(f"{name}: left out {unread.total():,} files that are no images of a class: {kinds}", stacklevel=2)
    paths = [index.path(row) for index in parts for row in index.corrupt.tolist()]
    if paths and not skip_corrupt:
        counts = " and ".join(f"{len(index.corrupt)} images of {index.folder}" for index in parts if len(index.corrupt))
        more = f"; {counts} cannot" if paths[1:] else ""
        raise UserError(
            f"{name}: {paths[0]} cannot be decoded ({why_corrupt(paths[0])}){more}; "
            "put it right, or leave corrupt images out with data.skip_corrupt=true"
        )
    if paths:
        more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
        images = "image" if len(paths) == 1 else "images"
        warnings.warn(f"{name}: left out {len(paths)} corrupt {images}: {', '.join(paths[:NAMED])}{more}", stacklevel=2)


def _summary(whole: str, parts: Sequence[Index], splits: Sequence[FolderSplit]) -> str:
    """What a dataset holds, in one line: classes, images of each split, and how many cannot be read."""
    classes = parts[0].classes
    names = ", ".join(classes[:NAMED]) + (", ..." if len(classes) > NAMED else "")
    counts = ", ".join(f"{split.name} {len(split):,}" for split in splits)
    each = np.bincount(parts[0].labels)
    corrupt = sum(len(index.corrupt) for index in parts)
    extents = np.array([index.extent for index in parts if index.extent is not None])
    (w, h), (wide, high) = (extents[:, :2].min(0), extents[:, 2:].max(0)) if len(extents) else ((0, 0), (0, 0))
    return (
        f"{whole}: {len(classes):,} classes ({names}) of {each.min():,} to {each.max():,} images in "
        f"{parts[0].folder.name}; {counts}; {f'{w} to {wide} pixels wide, {h} to {high} high; ' if w else ''}"
        f"{corrupt:,} not readable"
    )
