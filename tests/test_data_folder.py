"""A split in files: its batches are pure functions of (seed, epoch, step) in any number of processes."""

import itertools
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from image_folders import CLASSES, settle, write_folders
from PIL import Image
from torchvision.datasets import ImageFolder

from bench.core.errors import UserError
from bench.core.spec import DataSpec
from bench.data.folder import FolderSplit, augmented
from bench.data.folder_index import Index, read_index
from bench.data.imagenet import load_imagenet
from bench.data.ranks import sum_over_ranks
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


def test_every_image_is_evaluated_by_exactly_one_process(data):
    split = data.open_test()
    for processes in (1, 2, 5, 12):
        parts = [split.shard(rank, processes) for rank in range(processes)]
        assert sum(len(part) for part in parts) == len(split) == 12
        seen = [batch.x for part in parts for batch in part.batches(4)]
        whole = torch.cat([batch.x for batch in split.batches(12)])
        found = torch.cat(seen).flatten(1).sum(1).sort().values
        torch.testing.assert_close(found, whole.flatten(1).sum(1).sort().values)


def test_processes_share_the_batches_of_one(data):
    whole = list(data.train.train_batches(16, seed=2, epoch=1))
    parts = [list(data.train.shard(rank, 3).train_batches(16, seed=2, epoch=1)) for rank in range(3)]
    for step, batch in enumerate(whole):
        for rank in range(3):
            assert torch.equal(parts[rank][step].x, batch.x[rank::3])
            assert torch.equal(parts[rank][step].targets, batch.targets[rank::3])


def _count(rank: int, root: str, store: str, out: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    split = load_imagenet(SPEC, Path(root)).open_test().shard(rank, 2)
    seen = [int(t) for batch in split.batches(5) for t in batch.targets]
    right = sum(label % 2 == 0 for label in seen)
    counts = sum_over_ranks(right, len(seen))
    torch.distributed.destroy_process_group()
    Path(out, str(rank)).write_text(f"{len(seen)} {counts[0]} {counts[1]}")


@pytest.mark.slow
def test_two_processes_count_every_image_once(tmp_path):
    """11 images: shares of 6 and 5. A padding sampler would count 12."""
    root = write_folders(tmp_path / "data" / "imagenet", val=3).parent
    next((root / "imagenet" / "val" / CLASSES[0]).iterdir()).unlink()
    arguments = (str(root), str(tmp_path / "store"), str(tmp_path))
    torch.multiprocessing.spawn(_count, arguments, nprocs=2)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["6 5 11", "5 5 11"]


def test_counts_of_one_process_are_its_own():
    assert sum_over_ranks(3, 4) == (3, 4)


# The index.


def listings(monkeypatch) -> list:
    """The class folders that are listed from now on."""
    listed, original = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(Path(path).name) or original(path))
    return listed


def test_a_folder_is_listed_once(tmp_path, monkeypatch):
    folder = write_folders(tmp_path) / "train"
    listed = listings(monkeypatch)
    first = read_index(folder)
    assert sorted(listed) == sorted(CLASSES)
    again = read_index(folder)
    assert sorted(listed) == sorted(CLASSES)
    assert [again.path(row) for row in range(len(again))] == [first.path(row) for row in range(len(first))]
    assert again.classes == CLASSES


def test_a_changed_folder_is_listed_again(tmp_path):
    folder = write_folders(tmp_path) / "train"
    assert len(read_index(folder)) == 80
    next((folder / CLASSES[2]).iterdir()).unlink()
    assert len(read_index(folder)) == 79


def test_a_folder_that_may_still_be_changing_is_not_cached(tmp_path, monkeypatch):
    folder = write_folders(tmp_path) / "train"
    settle(tmp_path, 0.0)
    listed = listings(monkeypatch)
    read_index(folder)
    read_index(folder)
    assert len(listed) == 2 * len(CLASSES)


def test_a_damaged_or_unwritable_cache_only_costs_time(tmp_path, monkeypatch):
    folder, cache = write_folders(tmp_path / "data") / "train", tmp_path / "cache"
    monkeypatch.setenv("SLICEBENCH_CACHE", str(cache))
    read_index(folder)
    (file,) = cache.iterdir()
    for content in (b"", b"PK\x03\x04 nothing", file.read_bytes()[:-100]):
        file.write_bytes(content)
        assert len(read_index(folder)) == 80
    cache.joinpath("taken").write_text("")
    monkeypatch.setenv("SLICEBENCH_CACHE", str(cache / "taken"))
    assert len(read_index(folder)) == 80


def test_other_files_are_not_images(tmp_path):
    folder = write_folders(tmp_path) / "train"
    (folder / CLASSES[0] / "notes.txt").write_text("not an image")
    (folder / "list.csv").write_text("")
    assert len(read_index(folder)) == 80


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
