"""Folders of made-up photographs in the exact layout of ImageNet, for the tests of the data room."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n01484850", "n01491361")


def write_folders(
    root: Path, train: int = 20, val: int = 3, size: int = 32, classes: Sequence[str] = CLASSES, seed: int = 0
) -> Path:
    """`train` and `val` with so many images a class; every image has its own colours, and its class its own hue."""
    random = np.random.default_rng(seed)
    for part, count in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = size + int(random.integers(0, 9)), size + int(random.integers(0, 9))
                pixels = random.integers(0, 128, (1 + height // 4, 1 + width // 4, 3), np.uint8)
                pixels[..., label % 3] += np.uint8(100)
                image = Image.fromarray(pixels).resize((width, height))
                image.save(folder / f"{name}_{number}.JPEG", quality=90)
    settle(root)
    return root


def settle(root: Path, ago_s: float = 60.0) -> None:
    """Let the folders look as if nothing in them had changed for a while."""
    then = time.time() - ago_s
    for folder, _, _ in os.walk(root):
        os.utime(folder, (then, then))
