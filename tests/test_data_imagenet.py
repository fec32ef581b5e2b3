"""`imagenet` and `tiny_imagenet` from small folders in the exact layout: splits, names, and clear errors."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_folders import CLASSES, settle, write_folders

from bench.core.errors import UserError
from bench.core.spec import DataSpec
from bench.data import DATASETS
from bench.data.class_folders import held_out
from bench.data.imagenet import load_imagenet, load_tiny_imagenet

SPEC = DataSpec("imagenet", "subset")
SKIP = DataSpec("imagenet", "subset", skip_corrupt=True)


@pytest.fixture
def root(tmp_path) -> Path:
    return write_folders(tmp_path / "imagenet").parent


def sentence(root, spec=SPEC, load=load_imagenet) -> str:
    with pytest.raises(UserError) as error:
        load(spec, root)
    assert "\n" not in str(error.value)
    return str(error.value)


def splits(data) -> list:
    return [data.train, data.calibration, data.validation, data.open_test()]


def paths(split) -> set[str]:
    return {split.index.path(row) for row in split.rows.tolist()}


def test_both_are_registered():
    assert DATASETS.get("imagenet") is load_imagenet
    assert DATASETS.get("tiny_imagenet") is load_tiny_imagenet


def test_splits_are_disjoint_balanced_and_fixed(root):
    data = load_imagenet(SPEC, root)
    assert [len(split) for split in splits(data)] == [72, 4, 4, 12]
    held = [paths(split) for split in splits(data)]
    assert len(set().union(*held)) == 92
    assert all("/train/" in path for part in held[:3] for path in part)
    assert all("/val/" in path for path in held[3])
    for split in splits(data):
        assert len(set(np.bincount(split.targets).tolist())) == 1
    again = load_imagenet(SPEC, root)
    assert [split.digest for split in splits(again)] == [split.digest for split in splits(data)]


def test_the_split_does_not_depend_on_where_the_folder_lies(root, tmp_path):
    shutil.copytree(root / "imagenet", tmp_path / "elsewhere")
    here, there = load_imagenet(SPEC, root), load_imagenet(SPEC, tmp_path / "elsewhere")
    assert [split.digest for split in splits(here)] == [split.digest for split in splits(there)]


def test_names_say_that_it_is_a_part(root):
    data = load_imagenet(SPEC, root)
    assert data.id == "imagenet/subset4@1"
    assert data.open_test().id == "imagenet/subset4@1:test"
    assert (data.image_size, data.channels, data.classes) == (224, 3, CLASSES)
    assert next(data.open_test().batches(1)).x.shape == (1, 3, 224, 224)


def test_train_images_takes_a_fixed_balanced_subset(root):
    part = load_imagenet(DataSpec("imagenet", "subset", 20), root)
    assert part.train.id == "imagenet/subset4@1:train[20]"
    assert np.bincount(part.train.targets).tolist() == [5] * 4
    limit = "train_images must be between 1 and the 72 of imagenet/subset4@1, not 73"
    assert sentence(root, DataSpec("imagenet", "subset", 73)) == limit


def test_official_means_all_of_it(root):
    said = sentence(root, DataSpec("imagenet"))
    assert said == (
        f"imagenet: {root / 'imagenet'} holds 4 classes with 12 images in val, the official 1,000 with 50,000, so no "
        "number would compare with another; set data.protocol=subset"
    )


def test_how_much_is_held_out():
    assert held_out(1_281_167) == {"calibration": 10_000, "validation": 25_000}
    assert held_out(20_000) == {"calibration": 1_000, "validation": 1_000}


def test_tiny_imagenet_is_the_same_code_under_its_own_name(tmp_path):
    write_folders(tmp_path / "tiny-imagenet-100", size=64)
    data = load_tiny_imagenet(DataSpec("tiny_imagenet", "subset"), tmp_path)
    assert (data.id, data.image_size) == ("tiny_imagenet/subset4@1", 64)


# Errors: each one sentence, before anything is trained.


def test_what_is_not_there(tmp_path):
    assert sentence(None) == "imagenet needs a data directory: --data DIR with imagenet or ILSVRC2012 in it"
    get = "unpack ILSVRC 2012 (https://image-net.org) into it, the validation images in class folders"
    assert sentence(tmp_path / "nowhere") == f"imagenet: {tmp_path / 'nowhere'} does not exist; {get}"
    (tmp_path / "train").mkdir()
    missing = "has no imagenet or ILSVRC2012 with folders train and val"
    assert sentence(tmp_path) == f"imagenet: {tmp_path} {missing}; {get}"
    (tmp_path / "val").mkdir()
    assert sentence(tmp_path) == (
        f"imagenet: {tmp_path / 'train'} has no class folders; each class is a folder of images in it"
    )


def test_an_empty_class_folder(root):
    empty = root / "imagenet" / "train" / CLASSES[1]
    for file in empty.iterdir():
        file.unlink()
    assert sentence(root) == f"imagenet: the class folder {empty} holds no images"


def test_another_class_list_in_val(root):
    folder = root / "imagenet"
    (folder / "val" / CLASSES[3]).rename(folder / "val" / "n99999999")
    assert sentence(root) == (
        f"imagenet: {folder / 'val'} has no class folder {CLASSES[3]}, which {folder / 'train'} has (2 classes differ)"
    )
    shutil.rmtree(folder / "val" / "n99999999")
    shutil.rmtree(folder / "train" / CLASSES[3])
    shutil.rmtree(folder / "train" / CLASSES[2])
    assert sentence(root) == (
        f"imagenet: {folder / 'train'} has no class folder {CLASSES[2]}, which {folder / 'val'} has"
    )


def test_unknown_protocol_and_augmentation(root):
    assert sentence(root, DataSpec("imagenet", "all")) == "unknown protocol of imagenet 'all'; known: official, subset"
    said = sentence(root, DataSpec("imagenet", "subset", augmentation="ful"))
    assert said == "unknown data.augmentation 'ful'; did you mean 'full'? known: full, light"


def test_what_is_about_boxes_is_refused(root):
    assert sentence(root, replace(SPEC, strict=True)) == (
        "data.strict is about boxes without an area; imagenet has no boxes"
    )


def damage(path: Path, how: str) -> Path:
    """Truncate a JPEG, empty it, or break it between a right beginning and a right end."""
    content = path.read_bytes()
    kept = {"truncated": content[: len(content) // 2], "empty": b"", "no image": b"\xff\xd8" + b"x" * 50 + b"\xff\xd9"}
    path.write_bytes(kept[how])
    return path


@pytest.mark.parametrize("how", ["truncated", "empty"])
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_corrupt_file_is_named_before_training(root, how, part):
    path = damage(root / "imagenet" / part / CLASSES[0] / f"{CLASSES[0]}_1.JPEG", how)
    said = sentence(root)
    assert re.fullmatch(
        rf"imagenet: {re.escape(str(path))} cannot be decoded \(.+\); put it right, or leave corrupt images out with "
        r"data\.skip_corrupt=true",
        said,
    )


def test_corrupt_files_are_counted(root):
    for i in range(3):
        damage(root / "imagenet" / "train" / CLASSES[i] / f"{CLASSES[i]}_0.JPEG", "truncated")
    assert f"; 3 images of {root / 'imagenet' / 'train'} cannot; put it right" in sentence(root)


def test_damage_that_only_decoding_finds_is_said_at_the_file(root, monkeypatch):
    path = damage(root / "imagenet" / "val" / CLASSES[2] / f"{CLASSES[2]}_0.JPEG", "no image")
    split = load_imagenet(SPEC, root).open_test()
    for workers in ("0", "1"):
        monkeypatch.setenv("SLICEBENCH_WORKERS", workers)
        with pytest.raises(UserError) as error:
            list(split.batches(4))
        assert str(error.value) == (
            f"imagenet/subset4@1:test: {path} (UnidentifiedImageError) cannot be decoded; put the file right, or leave "
            "corrupt images out with data.skip_corrupt=true"
        )


def test_corrupt_files_are_left_out_only_when_asked_to_and_told(root):
    whole = load_imagenet(SPEC, root)
    before = [paths(split) for split in splits(whole)]
    broken = {
        str(damage(root / "imagenet" / "train" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG", "truncated")),
        str(damage(root / "imagenet" / "train" / CLASSES[1] / f"{CLASSES[1]}_5.JPEG", "no image")),
        str(damage(root / "imagenet" / "val" / CLASSES[2] / f"{CLASSES[2]}_1.JPEG", "no image")),
    }
    with pytest.warns(UserWarning, match="left out") as told:
        data = load_imagenet(SKIP, root)
    (said,) = (str(warning.message) for warning in told)
    assert said.startswith("imagenet: left out 3 corrupt images: ")
    assert {path for path in broken if path in said} == broken
    assert [paths(split) for split in splits(data)] == [part - broken for part in before]  # nothing else moves
    assert data.open_test().id == "imagenet/subset4@1:test[without 1]"
    assert sum(len(batch.targets) for batch in data.open_test().batches(4)) == 11


def test_a_file_that_was_put_right_comes_back(root):
    path = root / "imagenet" / "val" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG"
    content = path.read_bytes()
    damage(path, "truncated")
    settle(root)
    assert "cannot be decoded" in sentence(root)
    path.write_bytes(content)  # in place: no time stamp of a folder changes
    assert len(load_imagenet(SPEC, root).open_test()) == 12


# Validation images that lie together.


def flat(root: Path, below: str = "") -> dict[str, str]:
    """Takes the class folders of val apart; the class of each image by its name."""
    val = root / "imagenet" / "val"
    (val / below).mkdir(exist_ok=True)
    class_of = {file.name: file.parent.name for file in sorted(val.glob("n*/*.JPEG"))}
    for name, label in class_of.items():
        (val / label / name).rename(val / below / name)
    for label in CLASSES:
        (val / label).rmdir()
    return class_of


@pytest.mark.parametrize("kind", ["as in Tiny-ImageNet", "as Kaggle has ILSVRC"])
def test_validation_images_in_one_folder_are_read_by_the_published_list(root, kind):
    before = load_imagenet(SPEC, root).open_test()
    digest = before.digest
    if kind == "as in Tiny-ImageNet":
        lines = [f"{name}\t{label}\t0\t32\t44\t62\n" for name, label in flat(root, "images").items()]
        (root / "imagenet" / "val" / "val_annotations.txt").write_text("".join(lines))
    else:
        lines = [
            f"{name.partition('.')[0]},{label} 85 1 499 272 {label} 1 2 3 4\n" for name, label in flat(root).items()
        ]
        (root / "imagenet" / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(lines))
    after = load_imagenet(SPEC, root).open_test()
    assert after.digest == digest
    assert after.targets.tolist() == before.targets.tolist()


def test_validation_images_in_one_folder_without_a_list(root):
    flat(root)
    assert sentence(root) == (
        f"imagenet: {root / 'imagenet' / 'val'} holds 12 images and no class folders; move each into a folder of its "
        "class, or put val_annotations.txt or LOC_val_solution.csv beside them, which lists their classes"
    )


def test_a_list_that_does_not_fit_its_images(root):
    class_of, val = flat(root, "images"), root / "imagenet" / "val"
    (val / "val_annotations.txt").write_text("".join(f"{name}\t{label}\n" for name, label in class_of.items()))
    image = val / "images" / min(class_of)
    image.rename(val / "kept")
    assert sentence(root) == f"imagenet: {val} holds 11 of the 12 images that {val / 'val_annotations.txt'} names"
    (val / "kept").rename(val / "images" / "other.JPEG")
    assert sentence(root) == f"imagenet: {val / 'images' / 'other.JPEG'} has no class in {val / 'val_annotations.txt'}"
    (val / "val_annotations.txt").write_text("a.JPEG\n")
    assert sentence(root) == f"imagenet: {val / 'val_annotations.txt'} has no class in line 1"


# The real one.

REAL = Path(os.environ.get("SLICEBENCH_DATA", "")) / "imagenet"


@pytest.mark.skipif(
    "SLICEBENCH_DATA" not in os.environ or not REAL.is_dir(),
    reason="no ImageNet: SLICEBENCH_DATA names no directory with a part of it",
)
def test_the_real_ten_classes():
    data = load_imagenet(DataSpec("imagenet", "subset", image_size=64), REAL.parent)
    assert [len(split) for split in splits(data)] == [1_350, 75, 75, 500]
    assert data.id == "imagenet/subset10@1"
    assert not any(split.index.corrupt.size for split in splits(data))
    assert next(data.train.train_batches(64, seed=0, epoch=0)).x.shape == (64, 3, 64, 64)
    assert data.open_test().digest == "557159317c6181e3e96e1e05fa23e4b0c4acad8cd5e398267feb5ca55c7448cf"
