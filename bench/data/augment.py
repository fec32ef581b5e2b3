"""Batched augmentation in memory: random translation with zero padding, horizontal flip, normalisation.

The images lie once, and mirrored once more, on a canvas of pixels with black margins. A translated image is
then H runs of W consecutive pixels, and a batch is one gather of such runs: no arithmetic on pixels, and the
result lands in channels_last. What is drawn is a pure function of a key, so that it can be drawn again.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.data.splits import Key, keyed_integers


class Draws(NamedTuple):
    """One augmentation of each of n images: a window on the padded image, then mirrored or not.

    top, left: (n,) int64 in 0..2*shift, `shift` meaning no translation. flip: (n,) bool.
    """

    top: np.ndarray
    left: np.ndarray
    flip: np.ndarray


@dataclass(frozen=True)
class Augmentation:
    """Translation by up to `shift` pixels in each direction, zero padded; with `flip`, half are mirrored."""

    shift: int
    flip: bool

    def draw(self, n: int, *key: Key) -> Draws:
        """Independent uniform draws for n images: a pure function of `key`."""
        span = 2 * self.shift + 1
        top, left = (keyed_integers(n, name, *key) % span for name in ("top", "left"))
        flip = keyed_integers(n, "flip", *key) % 2 == 1 if self.flip else np.zeros(n, bool)
        return Draws(top.astype(np.int64), left.astype(np.int64), flip)


@dataclass(frozen=True)
class Normalisation:
    """(pixel / peak - mean) / std, with the value of white, and mean and std of each channel of 0..1."""

    peak: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) uint8, contiguous, to (B, C, H, W) float32 in channels_last."""
        b, h, w, c = pixels.shape
        mean, std = _rows(self, w, pixels.device)
        x = pixels.view(b, h, w * c).to(torch.float32)  # rows, because an inner loop over 3 channels is slow
        return x.div_(self.peak).sub_(mean).div_(std).view(b, h, w, c).permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def _rows(normalisation: Normalisation, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and std of each value of a row of pixels: (W * C,) each."""
    with torch.inference_mode(False):  # cached, so not to be tied to the mode of the first caller
        mean = torch.tensor(normalisation.mean * width, device=device)
        std = torch.tensor(normalisation.std * width, device=device)
    return mean, std


class Canvas:
    """All images of a split, ready to be translated and mirrored.

    images: (N, H, W, C) uint8 on any device. Memory: (H + shift) * (W + shift) * C bytes an image, twice if
    flipped.
    """

    def __init__(self, images: Tensor, augmentation: Augmentation):
        n, self._h, self._w, self._c = images.shape
        self._images, self._shift = n, augmentation.shift
        slots = 2 * n if augmentation.flip else n
        # A margin right of a row is also the one left of the next row, and likewise from image to image:
        # every image has `shift` black pixels all around while only one margin in each direction is stored.
        self._pitch, self._rows = self._w + self._shift, self._h + self._shift
        rows = slots * self._rows + self._shift
        pixels = images.new_zeros(rows * self._pitch + self._shift, self._c)
        grid = pixels[: rows * self._pitch].view(rows, self._pitch, self._c)
        blocks = grid[self._shift :].view(slots, self._rows, self._pitch, self._c)
        blocks[:n, : self._h, self._shift :] = images
        if augmentation.flip:
            blocks[n:, : self._h, self._shift :] = images.flip(2)
        run = self._w * self._c
        # (P, W * C): row p is the run of W pixels from pixel p on; the runs overlap and take no memory.
        self._runs = pixels.as_strided((len(pixels) - self._w + 1, run), (self._c, 1))
        self._lines = torch.arange(self._h, device=images.device) * self._pitch

    def corners(self, images: np.ndarray, draws: Draws) -> Tensor:
        """The first pixel of each window: (n,) int64 on the canvas' device. images: (n,) indices."""
        slot = images + draws.flip * self._images
        left = np.where(draws.flip, 2 * self._shift - draws.left, draws.left)  # translate, then mirror
        return torch.from_numpy((slot * self._rows + draws.top) * self._pitch + left).to(self._runs.device)

    def windows(self, corners: Tensor) -> Tensor:
        """(B,) corners to (B, H, W, C) uint8."""
        starts = (corners[:, None] + self._lines).view(-1)  # (B * H,)
        return self._runs.index_select(0, starts).view(-1, self._h, self._w, self._c)
