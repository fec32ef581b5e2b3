"""A first look at photographs in class folders: ten classes of ImageNet on two cores.

Set SLICEBENCH_WORKERS to the processes that may decode images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.recipes.arms import GATE, over_seeds


def imagenet10_smoke(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """DS-Net, US-Net and networks trained alone on ten classes of ImageNet at 64x64, on two cores.

    Needs any ten (or other number of) classes of ImageNet in class folders below `imagenet` in the data directory. It
    shows that the loader and all three methods work on photographs in files; so few epochs on so few images are far
    from what the methods reach. With 150 training images a class and 500 test images the widest networks had 34.6 to
    35.4 % top-1 at seed 0, all points at least 25.0 %, chance 10 %.
    """
    run = partial(
        RunSpec,
        data=DataSpec("imagenet", "subset", image_size=64, augmentation="light"),
        train=TrainSpec(epochs=5, batch_size=64, lr=0.1, warmup_epochs=0.5, label_smoothing=0.0),
        profile=ProfileSpec(batch_sizes=(1,), rounds=7, warmup=2),
    )
    gate = {**GATE, "gate_epochs": 1}
    specs = [
        run("ds_net", "ds_mobilenet_micro64", options=gate),
        run("us_net", "us_mobilenet_micro64", options={"random_widths": 1}),
        run("uniform", "ds_mobilenet_micro64", options={"choices": (0, 3)}),
    ]
    return over_seeds(specs, seeds)
