"""One image file as RGB of 8 bits: which files are images, how one is decoded, and why one cannot be.

All is as torchvision's ImageFolder gives it (`Image.open(file).convert("RGB")`: transparency is dropped, an EXIF
rotation is not applied, of an animation the first image counts), but for deep grey images, which Pillow clips to white:
here the same picture is the same at 8, 16 and 32 bits.
"""

import os
from functools import cache

import numpy as np
from PIL import Image

RUNS_OR_STUBS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats of Pillow's that hold no pixels which it can decode by itself."""
SIXTEEN_BITS = {"PNG", "PPM"}
"""Formats whose integers Pillow gives as 32 bits although the values are those of 16 bits."""
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of all files that Pillow decodes by itself, in lower case with their dot."""
    formats = Image.registered_extensions()  # loads the plugins that fill Image.OPEN
    return frozenset(suffix for suffix, name in formats.items() if name in Image.OPEN and name not in RUNS_OR_STUBS)


def decode(path: str) -> Image.Image:
    """The image in a file as RGB. Raises ValueError for values of no known range, or whatever Pillow raises."""
    with open(path, "rb") as file:
        image = Image.open(file)
        image.load()
    return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """A decoded image as RGB of 8 bits. Raises ValueError for a deep image whose values have no known range."""
    if image.mode == "F" or image.mode.startswith("I"):
        stated = image.mode.startswith("I;16") or image.format in SIXTEEN_BITS
        image = Image.fromarray(eight_bits(np.asarray(image), 65535 if stated else None))
    image.info.pop("transparency", None)  # no use without alpha, and Pillow warns of some
    return image if image.mode == "RGB" else image.convert("RGB")


def eight_bits(values: np.ndarray, white: int | None = None) -> np.ndarray:
    """Grey values (H, W) of any depth as uint8.

    white: the value of white where the format states it. Otherwise it is the smallest of 1 (of floats alone), 255 and
    65,535 that no value exceeds, as programs write them. Raises ValueError for values below 0, above or not a number.
    """
    low, high = float(values.min()), float(values.max())
    ranges = (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535)
    white = white or next((peak for peak in ranges if high <= peak), 0)
    if not 0 <= low <= high <= white:
        raise ValueError(f"its values go from {low:g} to {high:g}, and no range is known that holds them")
    scaled = values // 257 if white == 65535 else np.rint(values * (255 / white))  # 65,535 is 257 times 255
    return scaled.astype(np.uint8)


def why_corrupt(path: str) -> str | None:
    """Why an image cannot be decoded; None where it can."""
    try:
        decode(path)
    except Exception as error:  # a damaged image can fail in any way
        return f"{type(error).__name__}: {str(error).partition(' <')[0].partition(str(path))[0].strip() or 'damaged'}"
    return None


def measure(path: str) -> tuple[int, int] | None:
    """Width and height of an image, decoded whole; None where it cannot be."""
    try:
        return decode(path).size
    except Exception:  # a damaged image can fail in any way
        return None


def fails_quick_look(path: str) -> bool:
    """Whether an image is corrupt, without decoding one that begins and ends as a JPEG."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
            file.seek(-2, os.SEEK_END)
            if (start, file.read(2)) == (JPEG_START, JPEG_END):
                return False
    except OSError:  # empty, or not readable
        return True
    return why_corrupt(path) is not None
