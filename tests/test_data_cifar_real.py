"""The real CIFAR-10, where the environment variable SLICEBENCH_DATA names a directory that holds it."""

import os
from pathlib import Path

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.core.spec import DataSpec
from bench.data import load

ROOT = Path(os.environ.get("SLICEBENCH_DATA", ""))
HERE = any((ROOT / folder).is_dir() for folder in ("cifar-10-batches-bin", "cifar-10-batches-py"))

pytestmark = pytest.mark.skipif(
    "SLICEBENCH_DATA" not in os.environ or not HERE,
    reason="no CIFAR-10: SLICEBENCH_DATA names no directory with it",
)

DIGESTS = {
    "train": "8ce9f0f0146e61a63388e7933ba3fed2af144306efdb98258efa538a17a15bd6",
    "calibration": "972018153edfc5181e5cd87054e47cb29aafa733245bcce75eaa7a90fcf58efd",
    "validation": "86e92f770e0aaa48a492400e542d434bddeb86ac7da85348a6f683826e6ac114",
    "test": "6a4a6a16018d7f491d008ec2d5cee2b0067f4760e11d69ee06d337206659edd0",
}


@pytest.fixture(scope="module")
def holdout():
    return load(DataSpec("cifar10", "holdout"), ROOT)


@pytest.fixture(scope="module")
def splits(holdout):
    return [holdout.train, holdout.calibration, holdout.validation, holdout.open_test()]


def test_digests_are_frozen(splits):
    assert {split.name: split.digest for split in splits} == DIGESTS


def test_splits_are_disjoint_by_content(splits):
    held = [{image.tobytes() for image in split.images} for split in splits]
    assert [len(images) for images in held] == [len(split) for split in splits] == [35_000, 1_000, 4_000, 10_000]
    assert len(set().union(*held)) == 50_000


def test_normalisation_is_that_of_all_training_images(splits):
    pixels = np.concatenate([split.images.reshape(-1, 3) for split in splits])
    counts = np.stack([np.bincount(channel, minlength=256) for channel in pixels.T])  # (3, 256): exact sums
    values = np.arange(256) / 255
    mean = counts @ values / len(pixels)
    std = np.sqrt(counts @ values**2 / len(pixels) - mean**2)
    np.testing.assert_allclose(mean, splits[0].normalisation.mean, atol=1e-4)
    np.testing.assert_allclose(std, splits[0].normalisation.std, atol=1e-4)


def test_a_subset_is_balanced():
    part = load(DataSpec("cifar10", "holdout", 10_000), ROOT)
    assert np.bincount(part.train.targets).tolist() == [1_000] * 10


def test_official_is_whole_or_refused():
    """A data directory with only a part of the official test set must not pass for it."""
    path = next(path for path in ROOT.glob("cifar-10-batches-*/test_batch*"))
    if path.stat().st_size < 10_000 * 3072:
        with pytest.raises(UserError, match=r"of the 10,000 official test images.*data\.protocol=holdout"):
            load(DataSpec("cifar10", "official"), ROOT)
    else:
        assert len(load(DataSpec("cifar10", "official"), ROOT).open_test()) == 10_000
