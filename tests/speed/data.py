"""How fast images come: in-memory CIFAR-10 and image files against per-image pipelines of equal mathematics.

Of CIFAR-10, all make the same batches of 128, which is checked first: translation by up to 4 pixels with zero padding,
horizontal flip, conversion to a normalised float tensor. The reference is the leanest pipeline that we could
write with PIL and numpy; torchvision's, which most training code uses and which is slower, is shown beside it. Each
draws its random numbers within its time.

Then, where the data directory has Tiny-ImageNet, our loader of image files against what most training code uses:
torchvision's ImageFolder with timm's transforms (the same ones) in a DataLoader with as many workers.

    python -m tests.speed.data [--data DIR]

Without a data directory the images are random bytes in CIFAR-10's format; speed does not depend on their content.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional

from bench.core.spec import DataSpec
from bench.data import load
from bench.data.cifar import CARD
from bench.data.cifar_files import CIFAR10, nhwc, read_binary
from bench.data.folder import FolderSplit
from bench.data.memory import InMemorySplit
from bench.data.transforms import AUGMENTATIONS
from tests.speed.harness import Comparison, at_most, compare, faster
from tests.speed.script import Options, script

BATCH = 128
IMAGES = 40 * BATCH
FOLDERS, FILE_BATCH = "tiny-imagenet-100", 64
FILES = 40 * FILE_BATCH
SHIFT, SIZE = CARD.augmentation.shift, 32
MEAN, STD = (np.array(values, np.float32) for values in (CARD.normalisation.mean, CARD.normalisation.std))

on_pil: Any = functional  # annotated for tensors alone, although it takes PIL images too

Transform = Callable[[np.ndarray, int, int, bool], Tensor]
"""An image (32, 32, 3), top and left of its window on the padded image, whether to mirror it; to (3, 32, 32)."""


def run(options: Options) -> Iterator[Comparison]:
    """One epoch over 5,120 images of CIFAR-10, each way; then over 2,560 of Tiny-ImageNet."""
    yield _in_memory_comparison(options)
    if options.data is not None and (options.data / FOLDERS).is_dir():
        for augmentation, processes in (("light", 0), ("light", 2), ("full", 2)):
            yield _file_comparison(options.data, augmentation, processes, options.time_limit_s)


def _in_memory_comparison(options: Options) -> Comparison:
    split, origin = _split(options.data)
    ways = {
        "in memory": partial(_in_memory, split),
        "per image, PIL": partial(_per_image, split, _lean),
        "per image, torchvision": partial(_per_image, split, _torchvision),
    }
    for name in list(ways)[1:]:
        for a, b in zip(ways["in memory"](), ways[name](), strict=True):
            torch.testing.assert_close(a, b)
    return compare(
        f"CIFAR-10 augmentation, {len(split):,} {origin} images in batches of {BATCH}",
        {name: partial(_exhaust, way) for name, way in ways.items()},
        "per image, PIL",
        {"in memory": faster(25)},
        options.time_limit_s,
    )


def _file_comparison(data: Path, augmentation: str, processes: int, time_limit_s: float) -> Comparison:
    """Decoding and augmenting the same files, by our loader and by torchvision's."""
    spec = DataSpec("tiny_imagenet", "subset", FILES, augmentation=augmentation)
    split = load(spec, data).train
    assert isinstance(split, FolderSplit)
    os.environ["SLICEBENCH_WORKERS"] = str(processes)
    theirs = _image_folder(split, augmentation, processes)
    ways = {"ours": lambda: split.train_batches(FILE_BATCH, seed=0, epoch=0), "torchvision": lambda: iter(theirs)}
    for way in ways.values():
        assert sum(len(batch[1]) for batch in way()) == FILES
    return compare(
        f"Tiny-ImageNet from files, {FILES:,} images in batches of {FILE_BATCH}, {augmentation}, {processes} workers",
        {name: partial(_exhaust, way) for name, way in ways.items()},
        "torchvision",
        {"ours": at_most(1.0)},
        time_limit_s,
    )


def _image_folder(split: FolderSplit, augmentation: str, processes: int) -> DataLoader:
    """The images of a split by torchvision's ImageFolder, with timm's transforms to normalised float tensors."""
    recipe = AUGMENTATIONS[augmentation]
    transform = create_transform(
        split.pipeline.size,
        is_training=True,
        scale=recipe.scale,
        color_jitter=None,  # type: ignore[arg-type]
        auto_augment=recipe.policy,
        interpolation="random",
        re_prob=recipe.erasing,
        re_mode="pixel",
    )
    folder = ImageFolder(str(split.index.folder), transform)  # type: ignore[arg-type]
    assert folder.samples[-1][0] == split.index.path(len(split.index) - 1)
    return DataLoader(Subset(folder, split.rows.tolist()), FILE_BATCH, shuffle=True, num_workers=processes)


def _exhaust(way: Callable[[], Iterator[Any]]) -> None:
    deque(way(), maxlen=0)


def _in_memory(split: InMemorySplit) -> Iterator[Tensor]:
    return (batch.x for batch in split.train_batches(BATCH, seed=0, epoch=0))


def _per_image(split: InMemorySplit, transform: Transform) -> Iterator[Tensor]:
    """The same batches, image by image and stacked, as a DataLoader does it."""
    order, draws = split.order(seed=0, epoch=0), split.draws(seed=0, epoch=0, view=0)
    for first in range(0, len(split), BATCH):
        rows = slice(first, first + BATCH)
        plan = zip(order[rows].tolist(), *(values[rows].tolist() for values in draws), strict=True)
        yield torch.stack([transform(split.images[i], top, left, flip) for i, top, left, flip in plan])


def _torchvision(image: np.ndarray, top: int, left: int, flip: bool) -> Tensor:
    picture = on_pil.pad(Image.fromarray(image), [SHIFT])
    picture = on_pil.crop(picture, top, left, SIZE, SIZE)
    if flip:
        picture = on_pil.hflip(picture)
    return on_pil.normalize(on_pil.to_tensor(picture), MEAN.tolist(), STD.tolist())


def _lean(image: np.ndarray, top: int, left: int, flip: bool) -> Tensor:
    x, y = left - SHIFT, top - SHIFT
    picture = Image.fromarray(image).crop((x, y, x + SIZE, y + SIZE))  # black beyond the edges
    if flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(picture, np.float32)
    pixels = (pixels / np.float32(255) - MEAN) / STD
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _split(data: Path | None) -> tuple[InMemorySplit, str]:
    """5,120 images, and what they are."""
    if data is not None:
        train = load(DataSpec("cifar10", "holdout", IMAGES), data).train
        assert isinstance(train, InMemorySplit)
        return train, "real"
    records = np.random.default_rng(0).integers(0, 256, (IMAGES, CIFAR10.record_bytes), np.uint8)
    records[:, 0] %= 10
    with TemporaryDirectory() as folder:
        path = Path(folder) / "data_batch_1.bin"
        path.write_bytes(records.tobytes())
        planes, labels = read_binary(path, CIFAR10)
    return CARD.split("train", "generated:train", nhwc(planes), labels), "generated (no --data)"


main = script("data", run)

if __name__ == "__main__":
    main(None)
