"""Recipes on photographs in class folders: ten classes of ImageNet on two cores, and the papers' full-size recipes.

The full ones were not run here. Their hyper-parameters are those of the released configuration of DS-Net where it has
them (METHODS 6) and otherwise our choice, said in each docstring. `--set train.max_steps=2` shows that all of it works;
what comes out is then marked "not trained here". Set SLICEBENCH_WORKERS to the processes that may decode images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.recipes.arms import ADJACENT, GATE, GATED, over_seeds, with_controls

IMAGENET = DataSpec("imagenet")
OFFICIAL = TrainSpec(epochs=150, batch_size=512, lr=0.08, weight_decay=1e-4, warmup_epochs=5, label_smoothing=0.1)
"""Stage I of the released configuration. timm added ten epochs at the last rate; this schedule ends with its cosine."""

MOBILENET_BUDGETS = ((0, 1, 2, 3), (5, 6, 7, 8), (10, 11, 12, 13))
"""The first is the routing space of the released code; the two for larger budgets are ours, as many options each."""


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


def imagenet_ds_mbnet(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """DS-MBNet on ImageNet at 224x224 with the released hyper-parameters, three budgets, with controls. Not run here.

    Expected: the released checkpoint, which has no gate, reaches 70.1 % top-1 at 133 M multiply-adds and 74.6 % at
    565 M as static sub-networks (README of DS-Net). Dynamic accuracy: not known. Hardware and hours: its README trains
    stage I on 8 GPUs in about 2 days; ours, one GPU a run, not known. Batch 512, SGD with Nesterov momentum, stage I
    lr 0.08 for 150 epochs of which 5 warm up, stage II lr 0.08 and weight decay 0.01 for 30 epochs, labels of SGS
    smoothed by 0.1 and gates averaged with decay 0.997: as released. Ours: the gate's input is standardised, and beside
    its largest logit it decides at a mean cost of 90 % of each routing space's costliest network.
    """
    gate = {
        "routing": MOBILENET_BUDGETS,
        "budgets": (0.9,),
        "gate_epochs": 30,
        "gate_lr": 0.08,
        "gate_weight_decay": 0.01,
        "sgs_smoothing": 0.1,
        "gate_ema": 0.997,
    }
    dynamic = RunSpec("ds_net", "ds_mobilenet_v1", IMAGENET, OFFICIAL, options=gate)
    return over_seeds(with_controls(dynamic, *GATED), seeds)


DS_RESNET50 = RunSpec(
    "ds_net",
    "ds_resnet50",
    IMAGENET,
    replace(OFFICIAL, lr=0.2),
    options={"routing": ADJACENT[1:], "budgets": (0.8, 0.65), "gate_epochs": 10, "gate_lr": 0.05},
)


def imagenet_ds_resnet(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """DS-ResNet-50 on ImageNet at 224x224, two budgets, with controls. Not run here.

    No configuration of it is public: stage I as for DS-MBNet but lr 0.2, and stage II with lr 0.05 for 10 epochs, are
    our choice. Expected accuracy, hardware and hours: not known.
    """
    return over_seeds(with_controls(DS_RESNET50, *GATED), seeds)


def imagenet_ds_vit(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """DS-ViT++ (DeiT-S) on ImageNet at 224x224, two budgets, with controls. Not run here.

    Nothing but its dimensions and techniques is public, so the hyper-parameters are our choice: those of DS-MBNet at lr
    0.05, by SGD, where transformers are usually trained by AdamW. Expected accuracy, hardware and hours: not known.
    """
    gate = {"routing": ADJACENT, "budgets": (0.8, 0.65), "gate_epochs": 10, "gate_lr": 0.05}
    dynamic = RunSpec("ds_net_pp", "ds_vit_s", IMAGENET, replace(OFFICIAL, lr=0.05, warmup_epochs=10), options=gate)
    return over_seeds(with_controls(dynamic, *GATED), seeds)
