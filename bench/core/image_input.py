"""How a network wants its images: facts of a model that a dataset is asked to meet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageInput:
    """How the images were made that a network was trained on, so that others are made alike.

    Attributes:
        size: height and width in pixels.
        mean, std: of each channel, of values from 0 to 1.
        crop: the share of the resized side that evaluation keeps of images in files.
        interpolation: by which evaluation resizes images in files: "bilinear", "bicubic" and what else timm names.

    >>> ImageInput(32, (0.5,), (0.25,)).crop
    1.0
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    interpolation: str = "bicubic"
