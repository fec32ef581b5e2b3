"""`cifar10` from small archives in both exact layouts: equal data, disjoint splits, clear errors."""

import pickle
import warnings

import numpy as np
import pytest
from data_archives import made_up_batches, python2_pickle, write_binary, write_python

from bench.core.errors import UserError
from bench.core.spec import DataSpec
from bench.data.cifar import CARD, Sizes, load_cifar10
from bench.data.cifar_files import CIFAR10, read_python

SMALL = Sizes(batch=100, calibration=50, validation=100)
BATCHES = made_up_batches(SMALL.batch)
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"
OFFICIAL, HOLDOUT = DataSpec("cifar10", "official"), DataSpec("cifar10", "holdout")


@pytest.fixture
def binary(tmp_path):
    write_binary(tmp_path / "cifar-10-batches-bin", BATCHES)
    return tmp_path


@pytest.fixture
def python(tmp_path):
    write_python(tmp_path / "cifar-10-batches-py", BATCHES)
    return tmp_path


def splits(dataset) -> list:
    return [dataset.train, dataset.calibration, dataset.validation, dataset.open_test()]


def sentence(root, spec=HOLDOUT, sizes=SMALL) -> str:
    """What the user is told when the dataset is loaded."""
    with pytest.raises(UserError) as error:
        load_cifar10(spec, root, sizes)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("spec", [OFFICIAL, HOLDOUT])
def test_both_layouts_give_equal_datasets(binary, tmp_path_factory, spec):
    other = tmp_path_factory.mktemp("python")
    write_python(other / "cifar-10-batches-py", BATCHES)
    one, two = load_cifar10(spec, binary, SMALL), load_cifar10(spec, other, SMALL)
    assert [(s.id, s.digest) for s in splits(one)] == [(s.id, s.digest) for s in splits(two)]


@pytest.mark.parametrize("folder", ["cifar-10-batches-bin", "cifar-10-batches-py"])
def test_the_folder_itself_may_be_given(tmp_path, folder):
    write = write_binary if folder.endswith("bin") else write_python
    write(tmp_path / folder, BATCHES)
    inside, above = (load_cifar10(HOLDOUT, root, SMALL) for root in (tmp_path / folder, tmp_path))
    assert inside.train.digest == above.train.digest


def test_pixels_arrive_where_they_belong(binary):
    """Byte p of plane c of a record is row p // 32, column p % 32 of channel c."""
    test, (planes, labels) = load_cifar10(OFFICIAL, binary, SMALL).open_test(), BATCHES["test_batch"]
    assert test.targets.tolist() == labels.tolist()
    for i, c, row, column in [(0, 0, 0, 0), (3, 1, 2, 31), (99, 2, 31, 0)]:
        assert test.images[i, row, column, c] == planes[i, 1024 * c + 32 * row + column]


@pytest.mark.parametrize(
    ("spec", "train", "test"),
    [(OFFICIAL, [f"data_batch_{i}" for i in range(1, 6)], "test_batch"),
     (HOLDOUT, [f"data_batch_{i}" for i in range(1, 5)], "data_batch_5")],
)  # fmt: skip
def test_protocols_divide_the_batches(binary, spec, train, test):
    dataset = load_cifar10(spec, binary, SMALL)
    pool = {planes.tobytes() for name in train for planes in BATCHES[name][0]}
    held = [{content(image) for image in split.images} for split in splits(dataset)]
    assert sum(map(len, held)) == len(set().union(*held))  # disjoint by content
    assert held[0] | held[1] | held[2] == pool
    assert held[3] == {planes.tobytes() for planes in BATCHES[test][0]}
    assert [len(split) for split in splits(dataset)] == [len(pool) - 150, 50, 100, 100]
    assert dataset.id == f"cifar10/{spec.protocol}@1"


def content(image: np.ndarray) -> bytes:
    return image.transpose(2, 0, 1).tobytes()


def test_held_out_images_are_balanced(binary):
    dataset = load_cifar10(OFFICIAL, binary, SMALL)
    assert np.bincount(dataset.calibration.targets).tolist() == [5] * 10
    assert np.bincount(dataset.validation.targets).tolist() == [10] * 10


def test_train_images_takes_a_fixed_balanced_subset(binary):
    whole = load_cifar10(OFFICIAL, binary, SMALL)
    part = load_cifar10(DataSpec("cifar10", "official", 120), binary, SMALL)
    assert part.train.id == "cifar10/official@1:train[120]"
    assert np.array_equal(part.train.images, whole.train.images[:120])
    assert np.bincount(part.train.targets).tolist() == [12] * 10
    assert part.validation.digest == whole.validation.digest


def test_the_default_sizes_are_those_of_the_authors_files(tmp_path):
    """Sparse files of the full length: every image is black, every label 0."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for i in range(1, 6):
        with (folder / f"data_batch_{i}.bin").open("wb") as file:
            file.truncate(30_730_000)
    dataset = load_cifar10(HOLDOUT, tmp_path)
    assert [len(split) for split in splits(dataset)] == [35_000, 1_000, 4_000, 10_000]
    assert (dataset.image_size, dataset.channels, len(dataset.classes)) == (32, 3, 10)


def test_images_of_the_test_are_read_when_it_is_opened(binary):
    dataset = load_cifar10(OFFICIAL, binary, SMALL)
    (binary / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    with pytest.raises(UserError, match=r"test_batch\.bin is missing"):
        dataset.open_test()


def test_augmentation_is_the_fields():
    assert (CARD.augmentation.shift, CARD.augmentation.flip) == (4, True)


# Errors: what was looked for, where, and how to get it.


def test_no_data_directory():
    folders = "cifar-10-batches-bin or cifar-10-batches-py"
    assert sentence(None) == f"cifar10 needs a data directory: --data DIR with {folders} in it, from {SOURCE}"


def test_missing_data_directory(tmp_path):
    root, get = tmp_path / "nowhere", f"download CIFAR-10 from {SOURCE} and unpack it there"
    assert sentence(root) == f"cifar10: {root} does not exist; {get}"
    root.mkdir()
    assert sentence(root) == f"cifar10: {root} has no cifar-10-batches-bin or cifar-10-batches-py; {get}"


def test_missing_batch(binary):
    path = binary / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.unlink()
    assert sentence(binary) == f"cifar10: {path} is missing or not readable; download CIFAR-10 from {SOURCE}"


def test_truncated_record(binary):
    path = binary / "cifar-10-batches-bin" / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1000])
    what = "is truncated after 99 records of 3,073 bytes and 2,073 bytes"
    assert sentence(binary) == f"cifar10: {path} {what}; download CIFAR-10 from {SOURCE}"


@pytest.mark.parametrize("kept", [0, 99])
def test_too_few_whole_records(binary, kept):
    path = binary / "cifar-10-batches-bin" / "data_batch_5.bin"  # the test of holdout: said before any training
    path.write_bytes(path.read_bytes()[: 3073 * kept])
    what = f"holds {kept} images instead of 100"
    assert sentence(binary) == f"cifar10: {path} {what}; download CIFAR-10 from {SOURCE}"


def test_an_incomplete_official_test_set_suggests_holdout(binary):
    path = binary / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[: 3073 * 10])
    said = sentence(binary, OFFICIAL)
    start = f"cifar10: {path} holds 10 of the 100 official test images, so n would differ from every other"
    end = "or set data.protocol=holdout (batches 1 to 4 train, batch 5 is the test, n = 100)"
    assert said == f"{start} result; download all of CIFAR-10 from {SOURCE}, {end}"
    assert len(load_cifar10(HOLDOUT, binary, SMALL).open_test()) == 100


def test_label_out_of_range(binary):
    path = binary / "cifar-10-batches-bin" / "data_batch_1.bin"
    damaged = bytearray(path.read_bytes())
    damaged[3073 * 7] = 17
    path.write_bytes(damaged)
    what = "has label 17 at image 7 instead of one from 0 to 9"
    assert sentence(binary) == f"cifar10: {path} {what}; download CIFAR-10 from {SOURCE}"


def test_unknown_protocol(binary):
    known = "did you mean 'holdout'? known: holdout, official"
    assert sentence(binary, DataSpec("cifar10", "hold_out")) == f"unknown protocol of cifar10 'hold_out'; {known}"


def test_more_train_images_than_there_are(binary):
    limit = "train_images must be between 1 and the 250 of cifar10/holdout@1, not 251"
    assert sentence(binary, DataSpec("cifar10", "holdout", 251)) == limit


# The python layout is a pickle: nothing in it may run.


def test_the_archives_here_are_what_numpy_itself_unpickles():
    planes, labels = BATCHES["data_batch_1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old names of numpy's own
        batch = pickle.loads(python2_pickle(planes, labels.tolist()), encoding="bytes")
    assert sorted(batch) == [b"batch_label", b"data", b"filenames", b"labels"]
    assert np.array_equal(batch[b"data"], planes)
    assert batch[b"labels"] == labels.tolist()


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (b"cos\nsystem\n(Vtouch ran\ntR.", "os.system"),
        (b"cbuiltins\neval\n(V1\ntR.", "builtins.eval"),
        (b"\x80\x02cnumpy\nload\n.", "numpy.load"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x09touch ran\x85R.", "posix.system"),
    ],
)
def test_a_pickle_that_would_run_code_is_refused(python, monkeypatch, code, named):
    monkeypatch.chdir(python)
    path = python / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(code)
    what = f"asks to run {named}, as no CIFAR-10 file does, and was not loaded"
    assert sentence(python) == f"cifar10: {path} {what}; download CIFAR-10 from {SOURCE}"
    assert not (python / "ran").exists()


def test_every_cut_of_a_pickle_is_one_sentence(tmp_path):
    whole, path = python2_pickle(BATCHES["data_batch_1"][0][:2], [1, 2]), tmp_path / "data_batch_1"
    for length in [*range(400), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is not a whole pickled batch") as error:
            read_python(path, CIFAR10)
        assert "\n" not in str(error.value)


PLANES = BATCHES["data_batch_1"][0][:3]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (python2_pickle(PLANES, [1, 2]), r"data of shape \(3, 3072\) with labels of shape \(2,\)"),
        (python2_pickle(PLANES[:, :3000], [1, 2, 3]), r"data of shape \(3, 3000\) with labels of shape"),
        (python2_pickle(PLANES, [1, -2, 3]), "has label -2 at image 1 instead of one from 0 to 9"),
        (python2_pickle(PLANES, [1, 2, 300]), "has label 300 at image 2 instead of one from 0 to 9"),
        (python2_pickle(PLANES, [1, 2, 3], dtype=b"O8"), "is not a whole pickled batch .*data of type b'O8'"),
        (pickle.dumps([1, 2, 3]), "is not a whole pickled batch"),
        (pickle.dumps({b"labels": [1, 2, 3]}), "is not a whole pickled batch"),
        (pickle.dumps({b"data": b"", b"labels": [1, 2, 3]}), "is not a whole pickled batch"),
        (b"\x80\x02cnumpy\nndarray\n}(U\x01aK\x01ub.", "is not a whole pickled batch"),
        (b"", "is not a whole pickled batch"),
    ],
)  # fmt: skip
def test_other_damage_to_a_pickle_is_one_sentence(tmp_path, content, what):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(UserError, match=what):
        read_python(path, CIFAR10)


def test_too_few_images_in_a_pickle(python):
    path = python / "cifar-10-batches-py" / "data_batch_4"
    planes, labels = BATCHES["data_batch_4"]
    path.write_bytes(python2_pickle(planes[:60], labels[:60].tolist()))
    assert sentence(python) == f"cifar10: {path} holds 60 images instead of 100; download CIFAR-10 from {SOURCE}"
