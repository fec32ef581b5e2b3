"""Whether an exported file computes what the view computes, on real images and at several batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.points import Prediction

TOLERANCE = 1e-4  # of the greatest logit: other kernels sum in another order
BATCH = 64

Predictor = Callable[[Tensor], Prediction]


@dataclass(frozen=True)
class Agreement:
    """An export compared with the view.

    Attributes:
        images: how many were run. same_top1: on how many of them both name one class.
        difference: greatest difference of an output, and `scale` the greatest output of the view.
    """

    images: int
    same_top1: int
    difference: float
    scale: float


def batches(images: Tensor) -> Iterator[Tensor]:
    """One image alone, then the others in batches, the last of them ragged: (N, C, H, W) to (B, C, H, W)."""
    yield images[:1]
    yield from images[1:].split(BATCH) if len(images) > 1 else ()


@torch.no_grad()
def compare(exported: Predictor, view: Predictor, images: Tensor, what: str) -> Agreement:
    """Run both on the same images.

    Raises:
        UserError: an output differs by more than rounding, or an image takes another route.
    """
    same, difference, scale = 0, 0.0, 1.0
    for x in batches(images):
        found, wanted = exported(x), view(x)
        if not torch.equal(found.route, wanted.route):
            other = int((found.route != wanted.route).any(dim=1).sum())
            raise UserError(f"{what} routes {other} of {len(x)} images unlike the view, so it was not kept")
        if found.output.shape != wanted.output.shape:
            shapes = f"{tuple(found.output.shape)} where the view gives {tuple(wanted.output.shape)}"
            raise UserError(f"{what} gives {shapes}, so it was not kept")
        same += int((found.output.flatten(1).argmax(1) == wanted.output.flatten(1).argmax(1)).sum())
        scale = max(scale, wanted.output.abs().max().item())
        # `maximum` keeps a NaN, which the built-in `max` may drop.
        apart = (found.output - wanted.output).abs().max()
        difference = torch.maximum(torch.tensor(difference), apart).item()
    if not difference <= TOLERANCE * scale:
        apart = f"{difference:.2g}, with outputs up to {scale:.2g}"
        raise UserError(f"{what} differs from the view by {apart}, so it was not kept")
    return Agreement(len(images), same, difference, scale)
