"""PASCAL VOC files: lists of images, annotations in XML, photographs (Everingham et al. 2010, the development kit)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from bench.core.errors import NotAtHand, UserError

FOLDERS = ("JPEGImages", "Annotations", "ImageSets/Main")
FLAGS = {"": False, "0": False, "1": True, "false": False, "true": True, "unspecified": False}
NO_BOX = ElementTree.Element("bndbox")
LAYOUT = "the layout of PASCAL VOC: " + ", ".join(FOLDERS)


@dataclass(frozen=True)
class Annotation:
    """The objects of one image.

    boxes: (n, 4) float32, left, top, right, bottom as fractions of width and height. names: their classes.
    difficult: (n,) bool. size: width and height of the photograph in pixels. empty: how many boxes without an area
    were left out.
    """

    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    names: tuple[str, ...]
    difficult: np.ndarray
    empty: int


def find_set(root: Path | None, name: str) -> Path:
    """The folder of one VOC set below `root`, or in its VOCdevkit. Raises UserError when it is not there or is no such
    set."""
    if root is None:
        raise NotAtHand(f"voc needs a data directory: --data DIR with VOCdevkit/{name} in it, in {LAYOUT}")
    places = [root / "VOCdevkit" / name, root / name]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise NotAtHand(f"voc: {root} has neither VOCdevkit/{name} nor {name}; unpack it there, in {LAYOUT}")
    missing = [part for part in FOLDERS if not (folder / part).is_dir()]
    if missing:
        raise UserError(f"voc: {folder} is not a VOC set, it has no {missing[0]}; needed is {LAYOUT}")
    return folder


def has_list(folder: Path, name: str) -> bool:
    """Whether a set has a list of images under this name ("train")."""
    return (folder / "ImageSets" / "Main" / f"{name}.txt").is_file()


def image_list(folder: Path, name: str) -> list[str]:
    """The images of one list of a set. Raises UserError when it is missing, empty or names an image twice."""
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    try:
        names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"voc: the list of images {path} is missing or not readable") from error
    if not names:
        raise UserError(f"voc: {path} lists no images")
    if len(set(names)) < len(names):
        raise UserError(f"voc: {path} lists {max(names, key=names.count)} twice")
    return names


def read_annotation(path: Path) -> Annotation:
    """The annotation of one image.

    VOC counts pixels from 1 and includes the last one, so a box covers xmin - 1 to xmax. A box that ends where it
    begins has no area and is left out. An object with several boxes, as some tools write all of a class, is as many
    objects; the boxes of its parts are not read. Raises UserError for a file that is missing, not XML, or has no boxes,
    and for a box that is outside the image.
    """
    try:
        tree = ElementTree.parse(path).getroot()
        size = int(_number(tree, "size/width")), int(_number(tree, "size/height"))
        objects = [(each, box) for each in tree.findall("object") for box in each.findall("bndbox") or [NO_BOX]]
        corners = [_corners(box) for _, box in objects]
        labels = [_text(each, "name") for each, _ in objects]
        difficult = [_is_difficult(each) for each, _ in objects]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise UserError(f"voc: the annotation {path} is missing or damaged ({error})") from error
    for box in corners:
        left, top, right, bottom = box
        if not (0 <= left <= right <= size[0] and 0 <= top <= bottom <= size[1]):
            raise UserError(f"voc: {path} has a box {box} outside its image of {size[0]}x{size[1]}")
    kept = [i for i, (left, top, right, bottom) in enumerate(corners) if left < right and top < bottom]
    if not kept:
        raise UserError(f"voc: {path} has no boxes")
    boxes = np.array([corners[i] for i in kept], np.float32)
    boxes[:, :2] = np.maximum(boxes[:, :2] - 1, 0)
    names = tuple(labels[i] for i in kept)
    flags = np.array([difficult[i] for i in kept])
    return Annotation(path, size, boxes / np.array([*size, *size], np.float32), names, flags, len(corners) - len(kept))


def _corners(box: ElementTree.Element) -> tuple[float, float, float, float]:
    left, top, right, bottom = (_number(box, key, "object has no bndbox/") for key in ("xmin", "ymin", "xmax", "ymax"))
    return left, top, right, bottom


def _is_difficult(each: ElementTree.Element) -> bool:
    """A flag that is missing, empty or "Unspecified" is not set."""
    text = (each.findtext("difficult") or "").strip()
    if text.lower() not in FLAGS:
        raise ValueError(f"{each.tag} has the flag difficult {text!r}, and not 0 or 1")
    return FLAGS[text.lower()]


def _number(element: ElementTree.Element, tag: str, lacking: str = "") -> float:
    text = _text(element, tag, lacking)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{element.tag} has the {tag} {text!r}, which is no number")
    return number


def _text(element: ElementTree.Element, tag: str, lacking: str = "") -> str:
    """What stands in a tag, without the spaces around it. Raises ValueError, naming the tag, where there is nothing;
    `lacking`: how that sentence begins."""
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise ValueError(f"{lacking or f'{element.tag} has no '}{tag}")
    return text


def report_empty(annotations: Iterable[Annotation], strict: bool) -> None:
    """Say which annotations had boxes without an area: a warning, a UserError where `strict`."""
    counts = {each.path.name: each.empty for each in annotations if each.empty}
    if not counts:
        return
    where = ", ".join(f"{count} in {name}" for name, count in sorted(counts.items()))
    text = f"voc: {sum(counts.values())} boxes have no area ({where})"
    if strict:
        raise UserError(f"{text}; leave data.strict out to drop them")
    warnings.warn(f"{text} and are left out", stacklevel=2)


def class_numbers(annotation: Annotation, classes: tuple[str, ...]) -> np.ndarray:
    """(n,) the class of each box. Raises UserError for one that is not among the classes."""
    for name in annotation.names:
        if name not in classes:
            raise UserError(
                f"voc: {annotation.path} has an object of the class {name!r}, and the classes are {', '.join(classes)}"
            )
    return np.array([classes.index(name) for name in annotation.names])


def read_photograph(folder: Path, name: str, annotation: Annotation, edge: int) -> np.ndarray:
    """A photograph as (edge, edge, 3) uint8: resized without keeping its proportions, bilinear with antialiasing.

    Raises UserError for a file that is missing, truncated or of another size than its annotation says.
    """
    path = folder / "JPEGImages" / f"{name}.jpg"
    try:
        with Image.open(path) as image:
            if image.size != annotation.size:
                raise UserError(f"voc: {path} measures {image.size}, and its annotation says {annotation.size}")
            image.draft("RGB", (edge, edge))  # decodes at half size where that is enough, in a third of the time
            return np.asarray(image.convert("RGB").resize((edge, edge), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for some broken headers
        raise UserError(f"voc: the photograph {path} is missing or damaged ({error})") from error
