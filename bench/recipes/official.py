"""Recipes that evaluate what authors published, on ImageNet or any of its classes: `--weights official:FORMAT=FILE`.

No weights are shipped or downloaded: the file is the user's. Images are resized to 256 by bicubic interpolation and
cropped to 224, as DS-Net does (METHODS 6), normalised by ImageNet's mean and deviation, whatever the authors
did. The formats were tested on weights and images that are made up; on the released files nothing was run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.recipes.arms import over_seeds

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.2, 1.4, 1.6, 2.0, 5.0)
"""Those of ThinkingViT's own table (METHODS 13)."""


def _evaluated(method: str, model: str, seeds: Sequence[int], **options: Any) -> list[RunSpec]:
    """One run without training, on all of ImageNet (`--set data.protocol=subset` for a part of it)."""
    train, profile = TrainSpec(epochs=0, batch_size=1), ProfileSpec(batch_sizes=(1, 64), rounds=7, warmup=2)
    return over_seeds([RunSpec(method, model, DataSpec("imagenet"), train, profile, options=options)], seeds)


def official_ds_mbnet(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """The fourteen sub-networks of DS-Net's release: `--weights official:ds_mbnet=DS_MBNet-70_1.pth.tar`.

    Expected: 70.1 % top-1 at 133 M multiply-adds to 74.6 % at 565 M (README of DS-Net). Not run here.
    """
    return _evaluated("pretrained", "ds_mobilenet_v1", seeds)


def official_us_mobilenet(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """US-MobileNetV1 at all 31 widths: `--weights official:us_mobilenet_v1=FILE`.

    Expected: the error rates of slimmable_networks' README (`results/reported`). Not run here.
    """
    return _evaluated("pretrained", "us_mobilenet_v1", seeds)


def official_thinking_vit(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """ThinkingViT, 3 heads, then 6, at the thresholds of its table: `--weights official:thinking_vit=FILE`.

    Expected: 81.44 % top-1 where all images take both rounds, 73.54 % where none does (its summary). Here the second
    round is skipped for images that are done, where the released evaluation runs it and selects. Not run here.
    """
    return _evaluated("thinking_vit", "ds_vit_s", seeds, budgets=(), thresholds=THRESHOLDS)


def official_hydravit(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """HydraViT at 3 to 12 heads: `--weights official:hydravit=FILE`.

    Expected: 73.0 % top-1 at 3 heads and 78.4 % at 6 are quoted of it (arXiv 2605.22677). Not run here.
    """
    return _evaluated("pretrained", "nested_vit_b", seeds)
