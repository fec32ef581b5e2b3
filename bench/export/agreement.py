"""Whether an exported file computes what the view computes, on real images and at several batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.points import Prediction

TOLERANCE = 1e-4  # of the greatest logit: other kernels sum in another order
CLOSE = 1e-4  # a decision that close may fall either way when sums are rounded otherwise (DESIGN 4)
BATCH = 64

Predictor = Callable[[Tensor], Prediction]


@dataclass(frozen=True)
class Agreement:
    """An export compared with the view.

    Attributes:
        images: how many were run. same_top1: on how many of them both name one class.
        difference: greatest difference of an output, and `scale` the greatest output of the view.
        rerouted: images that took another route at a decision that is all but a tie; no other number is of them.
    """

    images: int
    same_top1: int
    difference: float
    scale: float
    rerouted: int = 0


def batches(images: Tensor) -> Iterator[Tensor]:
    """One image alone, then the others in batches, the last of them ragged: (N, C, H, W) to (B, C, H, W)."""
    yield images[:1]
    yield from images[1:].split(BATCH) if len(images) > 1 else ()


@torch.no_grad()
def compare(
    exported: Predictor,
    view: Predictor,
    images: Tensor,
    what: str,
    margins: Callable[[Tensor], Tensor] | None = None,
) -> Agreement:
    """Run both on the same images.

    Args:
        margins: how close the view's decisions about each image are, (B,); a route may differ where that is below
            `CLOSE`.

    Raises:
        UserError: an output differs by more than rounding, or an image takes another route.
    """
    same = rerouted = 0
    difference, scale = 0.0, 1.0
    for x in batches(images):
        found, wanted = exported(x), view(x)
        if found.output.shape != wanted.output.shape:
            shapes = f"{tuple(found.output.shape)} where the view gives {tuple(wanted.output.shape)}"
            raise UserError(f"{what} gives {shapes}, so it was not kept")
        other = (found.route != wanted.route).any(dim=1)
        if other.any() and (margins is None or (margins(x)[other] >= CLOSE).any()):
            raise UserError(f"{what} routes {int(other.sum())} of {len(x)} images unlike the view, so it was not kept")
        rerouted += int(other.sum())
        output, expected = found.output[~other], wanted.output[~other]
        if not len(output):
            continue
        same += int((output.flatten(1).argmax(1) == expected.flatten(1).argmax(1)).sum())
        scale = max(scale, expected.abs().max().item())
        # `maximum` keeps a NaN, which the built-in `max` may drop.
        difference = torch.maximum(torch.tensor(difference), (output - expected).abs().max()).item()
    if not difference <= TOLERANCE * scale:
        apart = f"{difference:.2g}, with outputs up to {scale:.2g}"
        raise UserError(f"{what} differs from the view by {apart}, so it was not kept")
    return Agreement(len(images), same, difference, scale, rerouted)
