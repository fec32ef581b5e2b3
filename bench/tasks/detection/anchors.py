"""Anchors: where a detector looks for objects. Sizes are fitted to the training boxes, so they belong to the data.

Each level of the head has `PER_CELL` sizes, the centres of a k-means over the boxes that fall to it, with 1 - IoU of
width and height as the distance (Redmon & Farhadi 2017, sec. 2). Deterministic: the first centre is the median, each
next one the box that the centres so far cover worst.

Anchors stand where their cell looks: a 3x3 convolution of stride 2 that pads one pixel is centred on every second
pixel, from the first on, so that cell i of a map of stride s sees what lies around pixel i * s.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

from bench.models.detector.head import PER_CELL, STRIDES

LARGEST = 5
"""A level takes the boxes whose mean edge is below this many of its strides, and not below that many of the level in
front of it; the last level takes all that are left."""
ROUNDS = 100


def size_overlap(sizes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """IoU of boxes about one centre: (n, 2) and (k, 2) widths and heights to (n, k)."""
    common = np.minimum(sizes[:, None], centres[None]).prod(2)
    return common / (sizes.prod(1)[:, None] + centres.prod(1)[None] - common)


def cluster(sizes: np.ndarray, k: int) -> np.ndarray:
    """(k, 2) centres of (n, 2) widths and heights, ascending in area; deterministic. n may not be 0."""
    centres = np.median(sizes, axis=0, keepdims=True)
    while len(centres) < k:
        worst = size_overlap(sizes, centres).max(1).argmin()
        centres = np.concatenate([centres, sizes[worst : worst + 1]])
    for _ in range(ROUNDS):
        nearest = size_overlap(sizes, centres).argmax(1)
        moved = np.stack([sizes[nearest == i].mean(0) if (nearest == i).any() else centres[i] for i in range(k)])
        if np.allclose(moved, centres):
            break
        centres = moved
    return centres[centres.prod(1).argsort(kind="stable")]


def fit_sizes(sizes: np.ndarray) -> list[np.ndarray]:
    """For each level (PER_CELL, 2) widths and heights in pixels, from those of the training boxes, (n, 2).

    A level that no box falls to gets a square and two of twice its height or width, in the middle of its range.
    """
    edge = np.sqrt(sizes.prod(1))
    level = np.minimum(np.searchsorted([LARGEST * stride for stride in STRIDES], edge, side="right"), len(STRIDES) - 1)
    fitted = []
    for index, stride in enumerate(STRIDES):
        members = sizes[level == index]
        middle = 0.75 * LARGEST * stride * np.array([[0.7, 1.4], [1, 1], [1.4, 0.7]])
        fitted.append(cluster(members, PER_CELL) if len(members) else middle)
    return fitted


def anchor_grid(sizes: list[np.ndarray], edge: int) -> Tensor:
    """(A, 4) anchors of a square image of `edge` pixels, left, top, right, bottom: level by level, row by row."""
    generator = AnchorGenerator(((1,),) * len(STRIDES), ((1.0,),) * len(STRIDES))
    generator.cell_anchors = [_about(each) for each in sizes]
    cells = [[-(-edge // stride)] * 2 for stride in STRIDES]
    strides = [[torch.tensor(stride)] * 2 for stride in STRIDES]
    return torch.cat(generator.grid_anchors(cells, strides))


def _about(sizes: np.ndarray) -> Tensor:
    """(n, 4) boxes of (n, 2) widths and heights about the middle of the first pixel."""
    half = torch.from_numpy(np.asarray(sizes)).float() / 2
    return torch.cat([0.5 - half, 0.5 + half], dim=1)
