"""Images with boxes in memory, and their augmentation: flip, scale, shift and colour, with the boxes following.

The target of an image is a table of M rows, one for each object and the rest empty: left, top, right, bottom in
pixels, class (-1 in an empty row), difficult (0 or 1). A difficult object is neither to be found nor a mistake to find
(the rule of VOC); one of which augmentation leaves only a small part in the image becomes difficult.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.augment import Normalisation
from bench.data.dataset import Batch, Epoch, Split
from bench.data.splits import Key, keyed_integers, keyed_order

COLUMNS = 6  # left, top, right, bottom, class, difficult
EMPTY = -1.0
VISIBLE = 0.4  # an object of which less is left in the image is not one to be found


def table_of(boxes: np.ndarray, labels: np.ndarray, difficult: np.ndarray, rows: int) -> np.ndarray:
    """The target of one image, (rows, 6) float32. boxes: (n, 4) in pixels; labels, difficult: (n,)."""
    table = np.zeros((rows, COLUMNS), np.float32)
    table[:, 4] = EMPTY
    table[: len(boxes)] = np.column_stack([boxes, labels, difficult])
    return table


@dataclass(frozen=True)
class Placing:
    """Where augmentation puts each of n images, in units of the image: (n,) each.

    scale: factor of enlargement about the centre. right, down: translation. mirror: 1, or -1 where mirrored first.
    """

    scale: Tensor
    right: Tensor
    down: Tensor
    mirror: Tensor

    def images(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to the same, bilinear; what comes from outside is zero."""
        zero = torch.zeros_like(self.scale)
        across, along = self.scale * self.mirror, self.scale
        rows = [1 / across, zero, -2 * self.right / across, zero, 1 / along, -2 * self.down / along]
        grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    def targets(self, targets: Tensor, edge: int) -> Tensor:
        """(n, M, 6) to the same, for images of `edge` pixels: moved, cut off at the border, difficult or gone where
        little or nothing is left."""
        x, y = targets[:, :, 0:3:2], targets[:, :, 1:4:2]  # (n, M, 2): left and right, top and bottom
        half, scale = edge / 2, self.scale[:, None, None]
        x = (x - half) * scale * self.mirror[:, None, None] + half + edge * self.right[:, None, None]
        y = (y - half) * scale + half + edge * self.down[:, None, None]
        x = x.sort(dim=2).values  # mirroring swaps left and right
        cut_x, cut_y = x.clamp(0, edge), y.clamp(0, edge)
        area = (x[..., 1] - x[..., 0]) * (y[..., 1] - y[..., 0])
        visible = (cut_x[..., 1] - cut_x[..., 0]) * (cut_y[..., 1] - cut_y[..., 0])
        label, difficult = targets[..., 4], targets[..., 5]
        difficult = torch.where(visible < VISIBLE * area, torch.ones_like(difficult), difficult)
        label = torch.where(visible > 0, label, torch.full_like(label, EMPTY))
        moved = torch.stack([cut_x[..., 0], cut_y[..., 0], cut_x[..., 1], cut_y[..., 1], label, difficult], 2)
        return torch.where(label[..., None] >= 0, moved, torch.tensor([0, 0, 0, 0, EMPTY, 0], device=moved.device))


@dataclass(frozen=True)
class BoxAugmentation:
    """Half are mirrored; enlarged by a factor from 1 / (1 + scale) to 1 + scale, moved by up to `shift` of the edge in
    each direction; contrast and brightness changed by up to `colour` (of contrast; in standard deviations)."""

    flip: bool = True
    scale: float = 0.3
    shift: float = 0.15
    colour: float = 0.3

    def placing(self, n: int, *key: Key) -> Placing:
        """How each of n images is placed: a pure function of `key`."""
        scale = (1 + self.scale) ** _signed(n, "scale", *key)
        right, down = (self.shift * _signed(n, name, *key) for name in ("right", "down"))
        mirror = torch.where(_signed(n, "flip", *key) < 0, -1.0, 1.0) if self.flip else torch.ones(n)
        return Placing(scale, right, down, mirror)

    def colours(self, n: int, *key: Key) -> tuple[Tensor, Tensor]:
        """Contrast and brightness of each of n images, (n,) each: a pure function of `key`."""
        contrast = 1 + self.colour * _signed(n, "contrast", *key)
        return contrast, self.colour * _signed(n, "brightness", *key)


def _signed(n: int, *key: Key) -> Tensor:
    """(n,) float32 uniform in -1..1."""
    return torch.from_numpy(keyed_integers(n, *key) / 2.0**63 - 1.0).float()


class BoxSplit(Split):
    """Images with boxes as arrays.

    images: (N, S, S, C) uint8; targets: (N, M, 6) float32. All views of an image are placed alike and differ in colour,
    so that its boxes are those of every view.
    """

    def __init__(
        self,
        name: str,
        id: str,
        images: np.ndarray,
        targets: np.ndarray,
        normalisation: Normalisation,
        augmentation: BoxAugmentation,
    ):
        super().__init__(name, id)
        self.images = np.ascontiguousarray(images, np.uint8)
        self.targets = np.ascontiguousarray(targets, np.float32)
        self.normalisation, self.augmentation = normalisation, augmentation

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def digest(self) -> str:
        """sha256 over the shape, the pixels as (N, H, W, C) bytes, and the targets as little-endian float32."""
        sha = hashlib.sha256(repr(self.images.shape).encode())
        sha.update(self.images.data)
        sha.update(self.targets.astype("<f4").data)
        return sha.hexdigest()

    def batches(self, batch_size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """See `Split.batches`."""
        self._require_positive(batch_size)
        return (self._plain(rows, 1, device) for rows in _slices(np.arange(len(self)), batch_size))

    def _train_batches(self, asked: Epoch) -> Iterator[Batch]:
        rows = _slices(keyed_order(len(self), "order", *asked.key), asked.batch_size)
        how = (asked.views, asked.device)
        made = lambda step: (
            self._augmented(rows[step], *how, (*asked.key, step)) if asked.augment else self._plain(rows[step], *how)
        )
        return (made(step).part(*asked.part) for step in asked.steps)

    def _plain(self, rows: np.ndarray, views: int, device: torch.device | str) -> Batch:
        x = self.normalisation(torch.from_numpy(self.images[rows]).to(device))
        return Batch((x,) * views, torch.from_numpy(self.targets[rows]).to(device))

    def _augmented(self, rows: np.ndarray, views: int, device: torch.device | str, key: tuple[Key, ...]) -> Batch:
        (x,), targets = self._plain(rows, 1, device)
        drawn = self.augmentation.placing(len(rows), *key)
        placing = Placing(*(part.to(device) for part in (drawn.scale, drawn.right, drawn.down, drawn.mirror)))
        seen = []
        for view in range(views):
            contrast, brightness = (v.to(device)[:, None, None, None] for v in self._colours(len(rows), view, key))
            mean = x.mean((1, 2, 3), keepdim=True)
            coloured = (x - mean) * contrast + mean + brightness
            seen.append(placing.images(coloured).contiguous(memory_format=torch.channels_last))
        return Batch(tuple(seen), placing.targets(targets, x.shape[-1]))

    def _colours(self, n: int, view: int, key: tuple[Key, ...]) -> tuple[Tensor, Tensor]:
        return self.augmentation.colours(n, *key, view)


def _slices(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[first : first + size] for first in range(0, len(order), size)]
