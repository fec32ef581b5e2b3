"""A split in files: its batches are pure functions of (seed, epoch, step) in any number of processes."""

import itertools
import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.multiprocessing
from image_folders import CLASSES, settle, write_folders
from PIL import Image
from torchvision.datasets import ImageFolder

from bench.core.errors import UserError
from bench.core.spec import DataSpec
from bench.data import folder_index
from bench.data.folder import FolderSplit, augmented
from bench.data.folder_index import Index, read_index
from bench.data.imagenet import load_imagenet
from bench.data.transforms import IMAGENET, pipeline

SPEC = DataSpec("imagenet", "subset", image_size=32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("data") / "imagenet").parent


@pytest.fixture(scope="module")
def data(root):
    return load_imagenet(SPEC, root)


@pytest.fixture(scope="module")
def light(root):
    return load_imagenet(DataSpec("imagenet", "subset", image_size=32, augmentation="light"), root)


def same(a, b) -> bool:
    views = zip(a.views, b.views, strict=True)
    return all(torch.equal(x, y) for x, y in views) and torch.equal(a.targets, b.targets)


# Batches.


def test_evaluation_is_what_torchvision_and_pillow_make_of_the_files(root, data):
    """Independent: torchvision's own listing, decoding, resizing and cropping, at the official proportion."""
    from torchvision.transforms import v2

    plain = v2.Compose(
        [
            v2.Resize(36, v2.InterpolationMode.BICUBIC),  # 32 / 0.875, rounded down
            v2.CenterCrop(32),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET.mean, IMAGENET.std),
        ]
    )
    folder = ImageFolder(str(root / "imagenet" / "val"), plain)
    batches = list(data.open_test().batches(5))
    assert [len(batch.targets) for batch in batches] == [5, 5, 2]
    assert torch.cat([batch.targets for batch in batches]).tolist() == folder.targets
    torch.testing.assert_close(torch.cat([batch.x for batch in batches]), torch.stack([x for x, _ in folder]))
    assert data.classes == tuple(folder.classes)


def test_batches_are_float32_channels_last_with_int64_targets(data):
    for batch in (next(data.train.train_batches(8, seed=0, epoch=0, views=2)), next(data.train.batches(8))):
        for view in batch.views:
            assert view.shape == (8, 3, 32, 32)
            assert view.dtype == torch.float32
            assert view.is_contiguous(memory_format=torch.channels_last)
        assert batch.targets.dtype == torch.int64


@pytest.mark.parametrize("augment", [True, False])
def test_resuming_at_any_step_yields_the_same_batches(data, augment):
    options = {"seed": 3, "epoch": 5, "views": 2, "augment": augment}
    whole = list(data.train.train_batches(16, **options))
    assert len(whole) == data.train.steps(16) == 4
    for start in range(5):
        rest = list(data.train.train_batches(16, start=start, **options))
        assert len(rest) == 4 - start
        assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_workers_change_nothing(data, monkeypatch):
    options = {"seed": 1, "epoch": 0, "views": 2}
    here = list(data.train.train_batches(16, **options)), list(data.open_test().batches(5))
    monkeypatch.setenv("SLICEBENCH_WORKERS", "2")
    there = list(data.train.train_batches(16, **options)), list(data.open_test().batches(5))
    for a, b in zip(here, there, strict=True):
        assert len(a) == len(b)
        assert all(same(x, y) for x, y in zip(a, b, strict=True))


def test_views_are_drawn_apart_and_do_not_depend_on_their_number(light):
    pairs = list(light.train.train_batches(16, seed=0, epoch=0, views=2))
    singles = list(light.train.train_batches(16, seed=0, epoch=0))
    for pair, single in zip(pairs, singles, strict=True):
        assert torch.equal(pair.views[0], single.x)
        assert not torch.equal(*pair.views)


def test_seed_and_epoch_change_order_and_augmentation(root):
    firsts = [next(load_imagenet(SPEC, root).train.train_batches(16, seed=s, epoch=e)) for s in (0, 1) for e in (0, 1)]
    for a, b in itertools.combinations(firsts, 2):
        assert a.targets.tolist() != b.targets.tolist()
        assert not torch.equal(a.x, b.x)


def test_global_random_state_is_neither_used_nor_touched(data, monkeypatch):
    import random

    def states() -> tuple:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    first = next(data.train.train_batches(16, seed=0, epoch=0))
    for workers in ("0", "2"):
        monkeypatch.setenv("SLICEBENCH_WORKERS", workers)
        torch.manual_seed(int(workers) + 1)
        before = states()
        assert same(next(data.train.train_batches(16, seed=0, epoch=0)), first)
        assert states() == before


def test_full_augmentation_erases_one_image_in_five_and_light_none():
    """Without crops and RandAugment a black image stays black, but where noise is put."""
    black, keys = [Image.new("RGB", (32, 32))] * 300, np.arange(300, dtype=np.uint64)
    noisy = {}
    for name in ("light", "full"):
        made = pipeline(32, name, 1.0)
        x = augmented(replace(made, augmented=made.clean), black, keys).flatten(2)
        noisy[name] = float((x.std(2) > 0).all(1).float().mean())
    assert noisy["light"] == 0
    assert 0.13 < noisy["full"] < 0.27  # three standard deviations about 0.2


def test_images_of_any_mode_become_rgb(tmp_path):
    root = write_folders(tmp_path / "imagenet", train=20, val=2)
    grey, cmyk = (root / "val" / CLASSES[0] / f"{CLASSES[0]}_{i}.JPEG" for i in range(2))
    Image.new("L", (40, 50), 77).save(grey, "JPEG")
    Image.new("CMYK", (40, 50), (255, 0, 0, 0)).save(cmyk, "JPEG")
    x = next(load_imagenet(SPEC, tmp_path).open_test().batches(2)).x
    mean, std = torch.tensor(IMAGENET.mean), torch.tensor(IMAGENET.std)
    levels = (x.mean((2, 3)) * std + mean) * 255
    torch.testing.assert_close(levels[0], torch.full((3,), 77.0), atol=1.5, rtol=0)
    assert levels[1, 0] < 60 < levels[1, 2]  # cyan has no red


def test_wrong_arguments_are_said_at_once(data, monkeypatch):
    split = data.train
    with pytest.raises(UserError, match=r"batch size 73 is larger than the 72 images of imagenet/subset4@1:train"):
        split.train_batches(73, seed=0, epoch=0)
    with pytest.raises(ValueError, match="between 0 and the 4 steps of the epoch, not 5"):
        split.train_batches(16, seed=0, epoch=0, start=5)
    with pytest.raises(ValueError, match="views must be at least 1, not 0"):
        split.train_batches(16, seed=0, epoch=0, views=0)
    monkeypatch.setenv("SLICEBENCH_WORKERS", "many")
    with pytest.raises(UserError, match=r"SLICEBENCH_WORKERS must be a whole number of processes .* not 'many'"):
        next(split.batches(4))


# Several processes.


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_the_batches_of_one(data, monkeypatch, workers):
    """Evaluation: whole batches in turn. Training: each its images of every batch."""
    monkeypatch.setenv("SLICEBENCH_WORKERS", str(workers))
    split = data.open_test()
    whole = list(split.batches(5))
    for processes in (1, 2, 5):
        parts = [list(split.share(5, rank, processes)) for rank in range(processes)]
        assert sum(map(len, parts)) == len(whole) == 3
        for number, batch in enumerate(whole):
            assert torch.equal(parts[number % processes][number // processes].x, batch.x)
    trained = list(data.train.train_batches(16, seed=2, epoch=1))
    parts = [list(data.train.train_batches(16, seed=2, epoch=1, part=(rank, 3))) for rank in range(3)]
    for step, batch in enumerate(trained):
        for rank in range(3):
            assert torch.equal(parts[rank][step].x, batch.x[rank::3])
            assert torch.equal(parts[rank][step].targets, batch.targets[rank::3])


# The index.


def looks(monkeypatch) -> list:
    """The files that are looked at from now on."""
    seen = []
    original = folder_index.fails_quick_look
    monkeypatch.setattr(folder_index, "fails_quick_look", lambda path: seen.append(path) or original(path))
    return seen


def make_old(monkeypatch) -> None:
    """Let no file look as if it had just changed."""
    monkeypatch.setattr(folder_index, "FRESH_S", -1.0)


def test_files_are_looked_at_once(tmp_path, monkeypatch):
    folder = write_folders(tmp_path) / "train"
    make_old(monkeypatch)
    seen = looks(monkeypatch)
    first = read_index(folder)
    assert len(seen) == 80
    again = read_index(folder)
    assert len(seen) == 80
    assert [again.path(row) for row in range(len(again))] == [first.path(row) for row in range(len(first))]
    assert again.classes == CLASSES


def test_a_changed_folder_is_listed_again(tmp_path):
    folder = write_folders(tmp_path) / "train"
    assert len(read_index(folder)) == 80
    next((folder / CLASSES[2]).iterdir()).unlink()
    assert len(read_index(folder)) == 79


def test_the_rest_of_a_data_set_is_seen_although_its_folders_keep_their_times(tmp_path, monkeypatch):
    """rsync -a and tar -x give folders the times of the source, before and after the rest has come."""
    make_old(monkeypatch)
    root = write_folders(tmp_path / "imagenet")
    late = sorted(root.glob("*/*/*_[12].JPEG"))
    kept = {path: path.read_bytes() for path in late}
    for path in late:
        path.unlink()
    settle(root, 10_000_000)
    half = load_imagenet(SPEC, tmp_path)
    for path, content in kept.items():
        path.write_bytes(content)
    settle(root, 10_000_000)
    whole = load_imagenet(SPEC, tmp_path)
    assert (len(half.open_test()), len(whole.open_test())) == (4, 12)
    assert half.open_test().digest != whole.open_test().digest
    assert half.train.digest != whole.train.digest


def test_another_picture_of_equal_name_and_size_has_another_digest(tmp_path, monkeypatch):
    make_old(monkeypatch)
    root = write_folders(tmp_path / "imagenet")
    before = load_imagenet(SPEC, tmp_path).open_test().digest
    path = next((root / "val" / CLASSES[0]).iterdir())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert load_imagenet(SPEC, tmp_path).open_test().digest != before


def test_a_digest_is_made_once_for_the_same_files(tmp_path, monkeypatch):
    make_old(monkeypatch)
    write_folders(tmp_path / "imagenet")
    first = load_imagenet(SPEC, tmp_path).open_test().digest
    monkeypatch.setattr(FolderSplit, "_digest_of_files", lambda self: pytest.fail("read again"))
    assert load_imagenet(SPEC, tmp_path).open_test().digest == first


def test_files_that_may_still_be_changing_are_not_cached(tmp_path, monkeypatch):
    folder = write_folders(tmp_path) / "train"
    seen = looks(monkeypatch)
    read_index(folder)
    read_index(folder)
    assert len(seen) == 160


def test_a_damaged_or_unwritable_cache_only_costs_time(tmp_path, monkeypatch):
    folder, cache = write_folders(tmp_path / "data") / "train", tmp_path / "cache"
    make_old(monkeypatch)
    monkeypatch.setenv("SLICEBENCH_CACHE", str(cache))
    read_index(folder)
    (file,) = cache.iterdir()
    for content in (b"", b"[]", file.read_bytes()[:-5]):
        file.write_bytes(content)
        assert len(read_index(folder)) == 80
    cache.joinpath("taken").write_text("")
    monkeypatch.setenv("SLICEBENCH_CACHE", str(cache / "taken"))
    assert len(read_index(folder)) == 80


# What is an image.


def test_other_files_are_counted_and_said(tmp_path):
    root = write_folders(tmp_path / "imagenet")
    (root / "train" / CLASSES[0] / "notes.txt").write_text("not an image")
    (root / "train" / CLASSES[1] / "README").write_text("not an image")
    (root / "train" / "list.csv").write_text("")
    Image.new("RGB", (9, 9)).save(root / "train" / "loose.png")
    with pytest.warns(UserWarning, match="imagenet") as told:
        assert len(load_imagenet(SPEC, tmp_path).train) == 72
    assert [str(each.message) for each in told] == [
        "imagenet: left out 3 files that are no images of a class: 1 .txt, 1 in no class folder, 1 without a suffix"
    ]


def test_hidden_files_and_folders_are_no_data(tmp_path):
    """Notebooks leave folders of their own, a Mac and a disk station too, and AppleDouble files beside the images."""
    root = write_folders(tmp_path / "imagenet")
    first = next((root / "train" / CLASSES[0]).iterdir())
    for part in ("train", "val"):
        for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", f"{CLASSES[0]}/.thumbs"):
            (root / part / name).mkdir()
            shutil.copy(first, root / part / name / "look-checkpoint.JPEG")
        (root / part / CLASSES[0] / f"._{first.name}").write_bytes(b"\0\5\x16\7")
    for skip in (False, True):
        data = load_imagenet(replace(SPEC, skip_corrupt=skip), tmp_path)
        assert data.classes == CLASSES
        assert [len(split) for split in (data.train, data.open_test())] == [72, 12]
        assert data.open_test().id == "imagenet/subset4@1:test"


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".gif", ".ppm", ".jp2", ".webp", ".jfif", ".tga", ".bmp"])
def test_images_of_every_suffix_that_pillow_decodes_are_read(tmp_path, suffix):
    root = write_folders(tmp_path / "imagenet")
    for path in sorted((root / "val").glob("*/*_[01].JPEG")):
        Image.open(path).save(path.with_suffix(suffix), "JPEG" if suffix == ".jfif" else None)
        path.unlink()
    data = load_imagenet(SPEC, tmp_path)
    assert len(data.open_test()) == 12
    assert sum(len(batch.targets) for batch in data.open_test().batches(5)) == 12


def test_images_in_folders_below_a_class_are_of_that_class(tmp_path):
    """As torchvision's ImageFolder lists them; Tiny-ImageNet's archive has train/<class>/images."""
    root = write_folders(tmp_path / "imagenet")
    before = load_imagenet(SPEC, tmp_path).train.digest
    for label in CLASSES:
        (root / "train" / label / "images").mkdir()
        for path in (root / "train" / label).glob("*.JPEG"):
            path.rename(path.parent / "images" / path.name)
        (root / "train" / label / "images" / "again").symlink_to(root / "train" / label)
    data = load_imagenet(SPEC, tmp_path)
    assert data.train.digest == before
    assert {data.train.index.path(row) for row in range(80)} == {
        path for path, _ in ImageFolder(str(root / "train"), is_valid_file=lambda path: "again" not in path).samples
    }


# Shared memory of workers.


def test_too_little_shared_memory_is_said_before_a_worker_starts(data, monkeypatch):
    monkeypatch.setenv("SLICEBENCH_WORKERS", "1")
    status = os.statvfs("/")
    small = SimpleNamespace(f_bavail=1, f_frsize=2**20)
    monkeypatch.setattr(os, "statvfs", lambda path: small if path == "/dev/shm" else status)
    split = data.train
    with pytest.raises(UserError) as caught:
        list(replace_pipeline(split, 128).train_batches(16, seed=0, epoch=0))
    assert str(caught.value) == (
        "/dev/shm has 1 MB free, and the batches of 1 decoding worker need 12 MB; enlarge it (docker run --shm-size=8g)"
        ", or decode without workers: SLICEBENCH_WORKERS=0"
    )
    assert len(list(split.train_batches(16, seed=0, epoch=0))) == 4, "what fits is made"
    monkeypatch.setenv("SLICEBENCH_WORKERS", "0")
    assert next(replace_pipeline(split, 128).train_batches(16, seed=0, epoch=0)).x.shape == (16, 3, 128, 128)


def replace_pipeline(split: FolderSplit, size: int) -> FolderSplit:
    return FolderSplit(split.name, split.id, split.index, split.rows, pipeline(size, "light", 1.0))


def synthetic(images: int) -> FolderSplit:
    """An ImageNet of so many images, all in one real file's place: what a loader holds, without the files."""
    names = np.array([b"n%08d_%d.JPEG" % (i % 1000, i) for i in range(images)])
    labels = np.arange(images, dtype=np.int32) % 1000
    classes = tuple(f"n{label:08d}" for label in range(1000))
    index = Index(Path("imagenet"), classes, names, labels, np.array([], np.int64))
    return FolderSplit("train", "x", index, np.arange(images), None)  # type: ignore[arg-type]


def test_memory_of_the_loader_is_its_index_alone():
    """Some tens of bytes an image, and nothing beside it that grows with the images."""
    held = {}
    for images in (10_000, 200_000):
        tracemalloc.start()
        split = synthetic(images)
        held[images] = tracemalloc.get_traced_memory()[0]
        split.train_batches(64, seed=0, epoch=0)  # made, not advanced: order and keys of an epoch
        tracemalloc.stop()
    assert (held[200_000] - held[10_000]) / 190_000 < 64


def test_the_index_of_a_million_images_is_small(tmp_path):
    split = synthetic(100_000)
    arrays = split.index.names.nbytes + split.index.labels.nbytes + split.rows.nbytes
    assert arrays / len(split) < 40
