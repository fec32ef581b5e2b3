"""`folder`: a user's own images in class folders, read as torchvision reads them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import CLASSES, write_folders
from PIL import Image
from torchvision.datasets import ImageFolder

from bench.core.errors import UserError
from bench.core.spec import DataSpec
from bench.data import load
from bench.data.image_file import decode
from bench.data.transforms import IMAGENET

SPEC = DataSpec("folder", folder="flowers", image_size=32)


@pytest.fixture
def flowers(tmp_path) -> Path:
    return write_folders(tmp_path / "flowers")


def sizes(data) -> list[int]:
    return [len(split) for split in (data.train, data.calibration, data.validation, data.open_test())]


def sentence(root, spec=SPEC) -> str:
    with pytest.raises(UserError) as error:
        load(spec, root)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_val_is_the_test_where_there_is_no_other(flowers, tmp_path):
    data = load(SPEC, tmp_path)
    assert (data.id, data.classes) == ("folder/flowers@1", CLASSES)
    assert sizes(data) == [72, 4, 4, 12]
    assert all("/val/" in data.open_test().index.path(row) for row in data.open_test().rows)


def test_test_is_the_test_and_val_the_validation(flowers, tmp_path):
    before = load(SPEC, tmp_path)
    write_folders(tmp_path / "more", val=2, seed=1)
    (tmp_path / "more" / "val").rename(flowers / "test")
    data = load(SPEC, tmp_path)
    assert sizes(data) == [76, 4, 12, 8]
    assert data.validation.digest == before.open_test().digest
    (flowers / "val").rename(flowers / "valid")
    assert load(SPEC, tmp_path).validation.digest == data.validation.digest
    shutil.rmtree(flowers / "valid")
    data = load(SPEC, tmp_path)
    assert sizes(data) == [72, 4, 4, 8]
    assert all(set(np.bincount(split.targets)) == {len(split) // 4} for split in (data.train, data.validation))


def test_splits_do_not_depend_on_the_name_of_the_folder(flowers, tmp_path):
    names = ("train", "calibration", "validation", "test")
    before = load(SPEC, tmp_path).digests(*names)
    assert len(set(before.values())) == 4
    flowers.rename(tmp_path / "Flowers-2")
    assert load(replace(SPEC, folder="Flowers-2"), tmp_path).digests(*names) == before


def test_images_of_all_kinds_are_as_torchvision_reads_them(flowers, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [("RGB", "a.jpg", {"exif": exif}), ("RGBA", "b.png", {}), ("P", "c.gif", {})]
    kinds += [("CMYK", "a.jpg", {}), ("L", "b.png", {}), ("RGB", "c.webp", {})]
    paths = [path for label in CLASSES[:2] for path in sorted((flowers / "val" / label).iterdir())]
    for path, (mode, name, how) in zip(paths, kinds, strict=True):
        with Image.open(path) as image:
            image.convert(mode).save(path.with_name(name), **how)
        path.unlink()
    test = load(SPEC, tmp_path).open_test()
    theirs = ImageFolder(str(flowers / "val"), allow_empty=True, is_valid_file=lambda path: True)
    assert [test.index.path(row) for row in test.rows] == [path for path, _ in theirs.samples]
    assert test.targets.tolist() == theirs.targets
    for image, (expected, _) in zip(test.images(range(len(test))), theirs, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(expected))
    x = next(test.batches(12)).x
    assert torch.isfinite(x).all()
    assert x.shape == (12, 3, 32, 32)
    assert x.abs().max() < 4 / min(IMAGENET.std)


def test_one_summary_says_what_is_there(flowers, tmp_path):
    summary = load(SPEC, tmp_path).summary
    assert summary.startswith(
        f"folder/flowers@1: 4 classes ({', '.join(CLASSES)}) of 20 to 20 images in train; "
        "train 72, calibration 4, validation 4, test 12; "
    )
    extents = [decode(str(path)).size for path in flowers.glob("*/*/*")]
    wide, high = zip(*extents, strict=True)
    assert f"; {min(wide)} to {max(wide)} pixels wide, {min(high)} to {max(high)} high; 0 not readable" in summary


def test_what_cannot_be_read_is_counted_over_all_parts_before_anything_trains(flowers, tmp_path):
    """Damage inside a JPEG, which its beginning and end do not show, is met here too."""
    names = (("train", CLASSES[0], 3), ("val", CLASSES[1], 0))
    paths = [flowers / part / label / f"{label}_{number}.JPEG" for part, label, number in names]
    for path in paths:
        path.write_bytes(b"\xff\xd8" + b"x" * 50 + b"\xff\xd9")
    said = sentence(tmp_path)
    assert f"{paths[0]} cannot be decoded" in said
    assert f"; 1 images of {flowers / 'train'} and 1 images of {flowers / 'val'} cannot; put it right" in said
    with pytest.warns(UserWarning, match="folder: left out 2 corrupt images"):
        data = load(replace(SPEC, skip_corrupt=True), tmp_path)
    assert data.summary.endswith("; 2 not readable")
    assert sum(sizes(data)) == 90


@pytest.mark.parametrize(
    ("spoil", "spec", "says"),
    [
        (None, DataSpec("folder"), "folder needs data.folder=NAME; {root} has flowers"),
        (None, DataSpec("folder", folder="birds"), "folder found no birds/train in {root}; {root} has flowers"),
        ("train", SPEC, "folder found no flowers/train in {root}; {root} has no folder with train in it"),
        ("val", SPEC, "folder: {root}/flowers has neither test nor val, so nothing to judge a network by"),
        (None, replace(SPEC, strict=True), "data.strict is about boxes without an area; folder has no boxes"),
        (None, replace(SPEC, protocol="subset"), "unknown protocol of folder 'subset'; known: official"),
        (None, DataSpec(folder="flowers"), "data.folder is for the dataset folder; digits lies where it always does"),
    ],
)
def test_what_is_missing_is_one_sentence(flowers, tmp_path, spoil, spec, says):
    if spoil:
        shutil.rmtree(flowers / spoil)
    assert sentence(tmp_path, spec) == says.format(root=tmp_path)


def test_images_beside_no_class_folders_are_one_sentence(flowers, tmp_path):
    for path in (flowers / "val").glob("*/*"):
        path.rename(flowers / "val" / path.name)
    for path in (flowers / "val").glob("n*[0-9]"):
        path.rmdir()
    assert sentence(tmp_path) == (
        f"folder: {flowers / 'val'} holds 12 images and no class folders; move each into a folder of its class"
    )


@pytest.mark.parametrize("name", ["../flowers", "/etc", "a b", ".hidden", ""])
def test_a_folder_is_a_name_and_no_path(name):
    with pytest.raises(UserError, match=r"data.folder must be a name of letters"):
        DataSpec("folder", folder=name)


def test_two_folders_for_validation_are_refused(flowers, tmp_path):
    shutil.copytree(flowers / "val", flowers / "valid")
    assert sentence(tmp_path) == f"folder: {flowers} has val and valid; keep one of them"


def test_too_few_images_are_one_sentence(tmp_path):
    write_folders(tmp_path / "flowers", train=1, val=1, classes=("a", "b"))
    assert sentence(tmp_path) == (
        f"folder: {tmp_path / 'flowers' / 'train'} holds 2 images, too few to hold some out and train on others"
    )
