"""A PASCAL VOC set of painted rectangles, for tests: a small colour problem in the format of the authors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 220), "red": (220, 50, 40)}
Box = tuple[str, int, int, int, int]  # class, xmin, ymin, xmax, ymax, from 1 and inclusive, as VOC counts

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)


def write_xml(folder: Path, name: str, boxes: Sequence[Box], size=(96, 72), difficult=()) -> Path:
    told = [OBJECT.format(label, int(i in difficult), *corners) for i, (label, *corners) in enumerate(boxes)]
    size_ = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    path = folder / "Annotations" / f"{name}.xml"
    path.write_text(f"<annotation>{size_}{''.join(told)}</annotation>")
    return path


def write_image(folder: Path, name: str, boxes: Sequence[Box], size=(96, 72)) -> Path:
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    for label, left, top, right, bottom in boxes:
        pixels[top - 1 : bottom, left - 1 : right] = COLOURS.get(label, (0, 0, 0))
    path = folder / "JPEGImages" / f"{name}.jpg"
    Image.fromarray(pixels).save(path, quality=92)
    return path


def painted(number: int, size=(96, 72)) -> list[Box]:
    """One or two rectangles of other colours, at places that depend on the number."""
    generator = np.random.default_rng(number)
    boxes = []
    for label, half in (("blue", 0), ("red", size[0] // 2))[: 1 + number % 2]:
        width, height = generator.integers(18, 34), generator.integers(18, 34)
        left = half + generator.integers(1, size[0] // 2 - width)
        top = generator.integers(1, size[1] - height)
        boxes.append((label, int(left), int(top), int(left + width), int(top + height)))
    return boxes


def make_set(root: Path, name: str = "painted", **lists: int) -> Path:
    """VOCdevkit/<name> below root with so many images in each list ("train", "val", "test")."""
    folder = root / "VOCdevkit" / name
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    number = 0
    for key, count in lists.items():
        names = [f"{name}_{number + i:04d}" for i in range(count)]
        (folder / "ImageSets" / "Main" / f"{key}.txt").write_text("".join(f"{each}\n" for each in names))
        for each in names:
            write_xml(folder, each, painted(number))
            write_image(folder, each, painted(number))
            number += 1
    return folder
