"""How photographs in files become the pixels that a network sees: timm's transforms, under names.

`full` is what DS-Net trains with on ImageNet (METHODS 6): RandomResizedCrop of 8 to 100 % of the area with bilinear or
bicubic interpolation at random, horizontal flip, RandAugment `rand-m9-mstd0.5`, random erasing of probability 0.2 by
noise. `light` is the crop, of 25 to 100 % as US-Nets take it for mobile networks (METHODS 9), and the flip: for small
images and short trainings. Evaluation resizes the shorter side (bicubic) and crops the centre.

timm draws from the generators of `random`, numpy and torch. Here they are seeded for each view of each image, and put
back for each batch, so that a view is a function of its seed in any process.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.core.errors import unknown
from bench.core.image_input import ImageInput
from bench.data.augment import Normalisation

IMAGENET = Normalisation(peak=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

ToPixels = Callable[[Image.Image], Tensor]
"""An RGB image to (3, size, size) uint8."""


@dataclass(frozen=True)
class Recipe:
    """An augmentation: the share of the area that a crop takes, timm's name of what follows, chance of erasing."""

    scale: tuple[float, float]
    policy: str | None = None
    erasing: float = 0.0


AUGMENTATIONS = {
    "full": Recipe((0.08, 1.0), "rand-m9-mstd0.5", 0.2),
    "light": Recipe((0.25, 1.0)),
}


@dataclass(frozen=True)
class Pipeline:
    """From decoded images to what a network sees: `clean` for evaluation, `augmented` and then `erase` for training.

    `erase` works in place on one normalised image (3, size, size). recipe: what `augmented` and `erase` do; crop: the
    share of the resized side that `clean` keeps; interpolation: by which it resizes.
    """

    size: int
    clean: ToPixels
    augmented: ToPixels
    erase: Callable[[Tensor], object] | None
    recipe: Recipe
    crop: float
    normalisation: Normalisation = IMAGENET
    interpolation: str = "bicubic"

    def made_for(self, images: ImageInput, size: int) -> "Pipeline":
        """The same augmentation, and the pixels of a size that a network wants."""
        rule = replace(self.normalisation, mean=images.mean, std=images.std)
        return _made(size, self.recipe, images.crop, rule, images.interpolation)

    def with_augmentation(self, randaugment: str | None, erasing: float | None) -> "Pipeline":
        """The same with another policy ("none": without one) and chance of erasing; None: as it is."""
        recipe = self.recipe
        if randaugment is not None:
            recipe = replace(recipe, policy=None if randaugment == "none" else randaugment)
        if erasing is not None:
            recipe = replace(recipe, erasing=erasing)
        return _made(self.size, recipe, self.crop, self.normalisation, self.interpolation)


def pipeline(size: int, augmentation: str, crop: float) -> Pipeline:
    """The pipeline for images of `size` pixels; `crop`: the share of the resized side that evaluation keeps.

    Raises UserError for an augmentation that has no such name.
    """
    if augmentation not in AUGMENTATIONS:
        raise unknown("data.augmentation", augmentation, AUGMENTATIONS)
    return _made(size, AUGMENTATIONS[augmentation], crop)


def _made(
    size: int, recipe: Recipe, crop: float, rule: Normalisation = IMAGENET, interpolation: str = "bicubic"
) -> Pipeline:
    from timm.data.transforms_factory import create_transform  # takes seconds to import

    common = {"input_size": size, "use_prefetcher": True, "mean": rule.mean, "std": rule.std}  # uint8 comes out
    clean = create_transform(is_training=False, interpolation=interpolation, crop_pct=crop, **common)
    augmented = create_transform(
        is_training=True,
        scale=recipe.scale,
        color_jitter=None,  # type: ignore[arg-type]
        auto_augment=recipe.policy,
        interpolation="random",
        **common,
    )
    erase = eraser(recipe.erasing) if recipe.erasing else None
    return Pipeline(size, clean, augmented, erase, recipe, crop, rule, interpolation)  # type: ignore[arg-type]


def eraser(chance: float) -> Callable[[Tensor], object]:
    """Random erasing (Zhong et al. 2020) of normalised images (C, H, W) or (B, C, H, W) in place, by noise that
    is drawn on the CPU, so that it is the same on every device."""
    from timm.data.random_erasing import RandomErasing  # takes seconds to import

    return RandomErasing(chance, mode="pixel", max_count=1, device="cpu")


def seed_all(key: int) -> None:
    """Seed every generator that timm's transforms draw from. key: 64 bits."""
    random.seed(key)
    np.random.seed(key % 2**32)  # noqa: NPY002 (RandAugment draws from this one)
    torch.default_generator.manual_seed(key % 2**63)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever is seeded and drawn within leaves the process's generators as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
