"""`cifar100` from small archives in both exact layouts: fine labels learnt, coarse ones read and checked."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from data_archives import made_up_cifar100, pickle_of, write_binary100, write_python100

from bench.core.errors import UserError
from bench.core.spec import DataSpec
from bench.data import DATASETS
from bench.data.cifar import CARD100, Sizes, load_cifar100

SMALL = Sizes(batch=100, calibration=100, validation=100)
FILES = made_up_cifar100(SMALL.batch)
SPEC = DataSpec("cifar100")
GET = "download CIFAR-100 from https://www.cs.toronto.edu/~kriz/cifar.html"
RECORD = 3074


@pytest.fixture
def binary(tmp_path):
    write_binary100(tmp_path / "cifar-100-binary", FILES)
    return tmp_path


@pytest.fixture
def python(tmp_path):
    write_python100(tmp_path / "cifar-100-python", FILES)
    return tmp_path


def splits(dataset) -> list:
    return [dataset.train, dataset.calibration, dataset.validation, dataset.open_test()]


def sentence(root, spec=SPEC) -> str:
    with pytest.raises(UserError) as error:
        load_cifar100(spec, root, SMALL)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_it_is_registered():
    assert DATASETS.get("cifar100") is load_cifar100


def test_both_layouts_give_equal_datasets(binary, tmp_path_factory):
    other = write_python100(tmp_path_factory.mktemp("python") / "cifar-100-python", FILES)
    one, two = load_cifar100(SPEC, binary, SMALL), load_cifar100(SPEC, other, SMALL)
    assert [(s.id, s.digest) for s in splits(one)] == [(s.id, s.digest) for s in splits(two)]
    assert one.id == "cifar100/official@1"


def test_the_fine_labels_are_learnt_with_the_right_pixels(binary):
    test, (planes, _, fine) = load_cifar100(SPEC, binary, SMALL).open_test(), FILES["test"]
    assert test.targets.tolist() == fine.tolist()
    assert np.array_equal(test.images.transpose(0, 3, 1, 2).reshape(-1, 3072), planes)


def test_splits_are_disjoint_and_balanced(binary):
    dataset = load_cifar100(SPEC, binary, SMALL)
    held = [{image.tobytes() for image in split.images} for split in splits(dataset)]
    assert [len(images) for images in held] == [300, 100, 100, 100]
    assert len(set().union(*held)) == 600
    for split in splits(dataset)[1:3]:
        assert np.bincount(split.targets, minlength=100).tolist() == [1] * 100


def test_the_authors_hundred_classes():
    assert len(set(CARD100.classes)) == 100
    assert CARD100.classes[:2] == ("apple", "aquarium_fish")
    assert CARD100.classes[-1] == "worm"


def test_the_archives_here_are_what_numpy_itself_unpickles():
    planes, coarse, fine = FILES["test"]
    content = pickle_of(planes, {b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist()}, b"test")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old names of numpy's own
        batch = pickle.loads(content, encoding="bytes")
    assert sorted(batch) == [b"batch_label", b"coarse_labels", b"data", b"filenames", b"fine_labels"]
    assert np.array_equal(batch[b"data"], planes)
    assert batch[b"coarse_labels"] == coarse.tolist()


@pytest.mark.parametrize(
    ("place", "value", "what"),
    [
        (0, 20, "has coarse label 20 at image 7 instead of one from 0 to 19"),
        (1, 100, "has fine label 100 at image 7 instead of one from 0 to 99"),
    ],
)
def test_label_out_of_range(binary, place, value, what):
    path = binary / "cifar-100-binary" / "train.bin"
    content = bytearray(path.read_bytes())
    content[RECORD * 7 + place] = value
    path.write_bytes(content)
    assert sentence(binary) == f"cifar100: {path} {what}; {GET}"


def test_a_coarse_label_out_of_range_in_a_pickle(python):
    planes, coarse, fine = FILES["test"]
    path = python / "cifar-100-python" / "test"
    labels = {b"fine_labels": fine.tolist(), b"coarse_labels": [33, *coarse.tolist()[1:]]}
    path.write_bytes(pickle_of(planes, labels, b"test"))
    what = "has coarse label 33 at image 0 instead of one from 0 to 19"
    assert sentence(python) == f"cifar100: {path} {what}; {GET}"


def test_a_pickle_without_its_fine_labels(python):
    planes, coarse, _ = FILES["test"]
    path = python / "cifar-100-python" / "test"
    path.write_bytes(pickle_of(planes, {b"coarse_labels": coarse.tolist()}, b"test"))
    assert "is not a whole pickled batch (KeyError: b'fine_labels')" in sentence(python)


def test_a_pickle_that_would_run_code_is_refused(python):
    path = python / "cifar-100-python" / "train"
    path.write_bytes(b"cos\nsystem\n(Vtouch ran\ntR.")
    what = "asks to run os.system, as no CIFAR-100 file does, and was not loaded"
    assert sentence(python) == f"cifar100: {path} {what}; {GET}"


def test_truncated_record(binary):
    path = binary / "cifar-100-binary" / "train.bin"
    path.write_bytes(path.read_bytes()[:-1000])
    what = "is truncated after 499 records of 3,074 bytes and 2,074 bytes"
    assert sentence(binary) == f"cifar100: {path} {what}; {GET}"


def test_an_incomplete_test_set_is_refused_before_training(binary):
    path = binary / "cifar-100-binary" / "test.bin"
    path.write_bytes(path.read_bytes()[: RECORD * 10])
    assert sentence(binary) == f"cifar100: {path} holds 10 images instead of 100; {GET}"


def test_what_is_not_there(tmp_path):
    folders = "cifar-100-binary or cifar-100-python"
    source = GET.removeprefix("download CIFAR-100 from ")
    assert sentence(None) == f"cifar100 needs a data directory: --data DIR with {folders} in it, from {source}"
    assert sentence(tmp_path) == f"cifar100: {tmp_path} has no {folders}; {GET} and unpack it there"
    assert sentence(tmp_path, DataSpec("cifar100", "holdout")) == (
        "unknown protocol of cifar100 'holdout'; known: official"
    )


def test_images_can_be_resized_for_networks_that_want_larger_ones(binary):
    """After augmentation and normalisation, so that only the resizing differs from the data set at its own size."""
    large, own = (load_cifar100(DataSpec("cifar100", image_size=size), binary, SMALL) for size in (48, None))
    assert (large.image_size, own.image_size) == (48, 32)
    for get in (lambda d: next(d.open_test().batches(8)), lambda d: next(d.train.train_batches(8, seed=0, epoch=0))):
        x, small = get(large).x, get(own).x
        assert x.shape == (8, 3, 48, 48)
        assert x.is_contiguous(memory_format=torch.channels_last)
        wanted = torch.nn.functional.interpolate(small.contiguous(), 48, mode="bilinear", align_corners=False)
        torch.testing.assert_close(x, wanted)
