"""`digits`: frozen membership, disjoint splits, constants that are what they say."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.core.spec import DataSpec
from bench.data import DATASETS, load
from bench.data.digits import CARD, HELD_OUT, read
from bench.data.splits import balanced_order, cut

DIGESTS = {
    "train": "212a50bd0fe001bdb250cdeaf2fec0f3810abde6e94524a293bba91e61909094",
    "calibration": "5a020a7fb30a0a4f956bbba7d447f2e4ad1e3b1a6fda201133a274e8bf37d518",
    "validation": "598e52f0ab30455400483f1002aceb2c24fcdf51dac7a34b72815a745280ddc6",
    "test": "dced0352967da7f4395dad4c4ea97d983fd0e6262442b8b1556f67cea5260cff",
}


@pytest.fixture(scope="module")
def digits():
    return load(DataSpec())


def splits(dataset) -> dict:
    four = (dataset.train, dataset.calibration, dataset.validation, dataset.open_test())
    return {split.name: split for split in four}


def test_digests_are_frozen(digits):
    # A new digest is a new membership: raise CARD.version, and add a line to the changelog.
    assert {name: split.digest for name, split in splits(digits).items()} == DIGESTS


def test_sizes_ids_and_facts(digits):
    sizes = {split.id: len(split) for split in splits(digits).values()}
    assert sizes == {
        "digits/official@1:train": 900,
        "digits/official@1:calibration": 150,
        "digits/official@1:validation": 150,
        "digits/official@1:test": 597,
    }
    assert (digits.name, digits.version, digits.protocol, digits.id) == (
        "digits",
        1,
        "official",
        "digits/official@1",
    )
    assert (digits.image_size, digits.channels, digits.classes) == (8, 1, tuple("0123456789"))


def test_membership_is_a_partition_of_all_images():
    _, targets = read()
    members = cut(balanced_order(targets, "split", "digits", CARD.version), HELD_OUT, rest="train")
    assert sorted(np.concatenate(list(members.values())).tolist()) == list(range(1797))


def test_every_split_has_every_class_equally(digits):
    for name, split in splits(digits).items():
        counts = np.bincount(split.targets, minlength=10)
        assert counts.max() - counts.min() <= (1 if name != "train" else 8), name


def test_membership_does_not_depend_on_seeds():
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (the global state is the subject)
        assert load(DataSpec()).train.digest == DIGESTS["train"]


def test_normalisation_is_that_of_the_training_split(digits):
    assert read()[0].max() == CARD.normalisation.peak
    train = digits.train.images / CARD.normalisation.peak
    assert CARD.normalisation.mean == (round(train.mean(), 4),)
    assert CARD.normalisation.std == (round(train.std(), 4),)
    x = torch.cat([batch.x for batch in digits.train.batches(64)])
    assert abs(float(x.mean())) < 1e-3
    assert abs(float(x.std()) - 1) < 1e-3


def test_digits_are_translated_and_never_mirrored(digits):
    assert (CARD.augmentation.shift, CARD.augmentation.flip) == (1, False)
    assert digits.train.augmentation == CARD.augmentation
    assert next(digits.train.train_batches(64, seed=0, epoch=0)).x.shape == (64, 1, 8, 8)


def test_the_test_split_is_made_when_it_is_opened_and_only_once(digits):
    assert "test" not in {name for name, value in vars(digits).items() if hasattr(value, "batches")}
    assert digits.open_test() is digits.open_test()


def test_train_images_takes_a_fixed_balanced_subset(digits):
    part = load(DataSpec(train_images=200))
    assert part.train.id == "digits/official@1:train[200]"
    assert np.array_equal(part.train.images, digits.train.images[:200])
    assert np.bincount(part.train.targets).tolist() == [20] * 10
    assert part.validation.digest == DIGESTS["validation"]
    assert part.open_test().digest == DIGESTS["test"]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            DataSpec(train_images=901),
            "train_images must be between 1 and the 900 of digits/official@1, not 901",
        ),
        (
            DataSpec(protocol="oficial"),
            "unknown protocol of digits 'oficial'; did you mean 'official'? known: official",
        ),
        (
            DataSpec(name="digit"),
            f"unknown dataset 'digit'; did you mean 'digits'? known: {', '.join(DATASETS.names())}",
        ),
        (
            DataSpec(augmentation="full"),
            "data.augmentation is for images in folders; digits has one augmentation of its own",
        ),
        (DataSpec(skip_corrupt=True), "data.skip_corrupt is for images in folders; digits is read whole, and checked"),
        (DataSpec(strict=True), "data.strict is about boxes without an area; digits has no boxes"),
    ],
)
def test_errors_are_one_sentence(spec, sentence):
    with pytest.raises(UserError) as error:
        load(spec)
    assert str(error.value) == sentence


def test_the_registry_names_what_there_is():
    assert {"digits", "cifar10"} <= set(DATASETS.names())


def test_listing_the_datasets_imports_no_torch():
    code = "import sys; from bench.data import DATASETS; DATASETS.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
