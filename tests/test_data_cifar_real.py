"""The real CIFAR-10 and CIFAR-100, where the environment variable SLICEBENCH_DATA names a directory that holds them.

What is frozen of the official splits does not depend on the order of the images, which is not the authors' in every
copy: how many images of which class there are, and a digest over the sorted images with their labels.
"""

import hashlib
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.core.spec import DataSpec
from bench.data import load
from bench.data.cifar_files import CIFAR10, CIFAR100

ROOT = Path(os.environ.get("SLICEBENCH_DATA", "/nowhere"))


def needs(files):
    there = any((ROOT / folder).is_dir() for folder in files.folders)
    return pytest.mark.skipif(not there, reason=f"no {files.title}: SLICEBENCH_DATA names no directory with it")


TRAIN_BATCHES_1_TO_4 = {
    "train": "8ce9f0f0146e61a63388e7933ba3fed2af144306efdb98258efa538a17a15bd6",
    "calibration": "972018153edfc5181e5cd87054e47cb29aafa733245bcce75eaa7a90fcf58efd",
    "validation": "86e92f770e0aaa48a492400e542d434bddeb86ac7da85348a6f683826e6ac114",
    "test": "6a4a6a16018d7f491d008ec2d5cee2b0067f4760e11d69ee06d337206659edd0",
}
OFFICIAL_TEST = {
    "cifar10": "65a6ffe079453e514083f99356b35e02cbfd581b4951e3937fae188974b79f39",
    "cifar100": "a6a97df7b61bc7420bc44268696e8963d33129bc050978f2a63d8fe3420989fa",
}
OFFICIAL_TRAINING = {
    "cifar10": "6a3b2c04d0a79ce272dcdacaf0bc440275db5a8cbe3717521a28fada2ea0d2ed",
    "cifar100": "640c97a4012a8aebfcaf57fd82a33dd43b37d2e397a02cb9b0a3d89e6d6d936d",
}


def splits_of(dataset):
    return [dataset.train, dataset.calibration, dataset.validation, dataset.open_test()]


def contents(*splits):
    """A digest of each image with its label, sorted."""
    pairs = [pair for split in splits for pair in zip(split.images, split.targets, strict=True)]
    return sorted(hashlib.sha256(image.tobytes() + bytes([int(label)])).digest() for image, label in pairs)


@pytest.fixture(scope="module")
def holdout():
    return splits_of(load(DataSpec("cifar10", "holdout"), ROOT))


@pytest.fixture(
    scope="module",
    params=[pytest.param("cifar10", marks=needs(CIFAR10)), pytest.param("cifar100", marks=needs(CIFAR100))],
)
def official(request):
    """The data set, or a skip where only a part of its test images is there (refused: test_data_cifar.py)."""
    if request.param == "cifar10" and not has_whole_test():
        pytest.skip("SLICEBENCH_DATA has a part of CIFAR-10's test images only")
    return load(DataSpec(request.param), ROOT)


def has_whole_test():
    return next(ROOT.glob("cifar-10-batches-*/test_batch*")).stat().st_size >= 10_000 * 3072


@needs(CIFAR10)
def test_digests_are_frozen(holdout):
    assert {split.name: split.digest for split in holdout} == TRAIN_BATCHES_1_TO_4


@needs(CIFAR10)
def test_splits_are_disjoint_by_content(holdout):
    held = [{image.tobytes() for image in split.images} for split in holdout]
    assert [len(images) for images in held] == [len(split) for split in holdout] == [35_000, 1_000, 4_000, 10_000]
    assert len(set().union(*held)) == 50_000


def test_official_tests_on_all_ten_thousand_and_holds_validation_out_of_the_training_images(official):
    splits = splits_of(official)
    assert official.id == f"{official.name}/official@1"
    assert [len(split) for split in splits] == [45_000, 1_000, 4_000, 10_000]
    for split in splits:
        assert np.bincount(split.targets).tolist() == [len(split) // len(official.classes)] * len(official.classes)


def test_official_test_images_are_the_authors(official):
    digest = hashlib.sha256(b"".join(contents(official.open_test()))).hexdigest()
    assert digest == OFFICIAL_TEST[official.name]


def test_official_training_images_are_the_authors_each_in_one_split(official):
    """As a multiset: CIFAR-100 itself holds a few pictures twice."""
    held_in = contents(*splits_of(official)[:3])
    assert hashlib.sha256(b"".join(held_in)).hexdigest() == OFFICIAL_TRAINING[official.name]


def test_no_official_test_image_is_seen_before(official):
    """Four pictures of CIFAR-100 stand, with one label, in its authors' training and test images. No more do."""
    *before, test = splits_of(official)
    shared = Counter(contents(*before)) & Counter(contents(test))
    assert len(shared) == {"cifar10": 0, "cifar100": 4}[official.name]


def test_normalisation_is_that_of_all_training_images(official):
    pixels = np.concatenate([split.images.reshape(-1, 3) for split in splits_of(official)[:3]])
    counts = np.stack([np.bincount(channel, minlength=256) for channel in pixels.T])  # (3, 256): exact sums
    values = np.arange(256) / 255
    mean = counts @ values / len(pixels)
    std = np.sqrt(counts @ values**2 / len(pixels) - mean**2)
    np.testing.assert_allclose(mean, official.train.normalisation.mean, atol=1e-4)
    np.testing.assert_allclose(std, official.train.normalisation.std, atol=1e-4)


@needs(CIFAR10)
def test_a_subset_is_balanced():
    part = load(DataSpec("cifar10", "holdout", 10_000), ROOT)
    assert np.bincount(part.train.targets).tolist() == [1_000] * 10
