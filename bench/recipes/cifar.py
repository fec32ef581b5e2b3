"""Recipes on CIFAR: the first table at its own size, and what the papers did with it at 224x224."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.recipes.arms import GATE, GATED, first_table, over_seeds, with_controls
from bench.recipes.papers import DS_RESNET50


def cifar10_smoke(seeds: Sequence[int] = (0, 1)) -> list[RunSpec]:
    """The first table on a fixed subset of 10,000 CIFAR-10 images (protocol holdout): under 20 minutes on two cores.

    It shows that everything works on real photographs; its accuracies are far from what the methods reach when trained
    for long on all images. Two seeds keep it within its time; ranks need `--seeds 3`.
    """
    specs = first_table(
        DataSpec("cifar10", "holdout", 10_000),
        TrainSpec(epochs=3, batch_size=64, lr=0.1, warmup_epochs=0.5),
        "ds_mobilenet_micro32",
        "us_mobilenet_micro32",
        ProfileSpec(batch_sizes=(1, 64), rounds=11, warmup=2),
        {**GATE, "gate_epochs": 1},
        {"chains": ((0, 1), (0, 3)), "budgets": (0.75, 0.5)},
        finetune_epochs=1,
    )
    return over_seeds(specs, seeds)


def cifar10(seeds: Sequence[int] = (0, 1, 2)) -> list[RunSpec]:
    """The first table on all CIFAR-10 training images (protocol official), 100 epochs: hours on a GPU, days without.

    Not run here; needs the official binary or python files below the data directory.
    """
    specs = first_table(
        DataSpec("cifar10", "official"),
        TrainSpec(epochs=100, batch_size=128, lr=0.1, warmup_epochs=5, weight_decay=5e-4),
        "ds_mobilenet_micro32",
        "us_mobilenet_micro32",
        ProfileSpec(),
        {**GATE, "gate_epochs": 20},
        {"chains": ((0, 1), (0, 3)), "budgets": (0.75, 0.5)},
        finetune_epochs=30,
    )
    return over_seeds(specs, seeds)


def _transfer(dataset: str) -> list[RunSpec]:
    """DS-ResNet-50 trained on ImageNet, then its weights with a new head on images of CIFAR enlarged to 224x224."""
    train = TrainSpec(epochs=70, batch_size=1024, lr=0.7, warmup_epochs=15, label_smoothing=0.1)
    data = DataSpec(dataset, image_size=224)
    child = replace(DS_RESNET50, data=data, train=train, init_from=DS_RESNET50.run_id)
    return [DS_RESNET50, *with_controls(child, *GATED)]


def cifar10_transfer(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """DS-ResNet-50 from ImageNet to CIFAR-10 at 224x224, with controls on the second run. Not run here.

    The paper transfers so, by hyper-parameters that are not public: 70 epochs of which 15 warm up, lr 0.7, batch 1024,
    and images enlarged to 224x224, are our choice. Expected accuracy, hardware and hours: not known.
    """
    return over_seeds(_transfer("cifar10"), seeds)


def cifar100_transfer(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """DS-ResNet-50 from ImageNet to CIFAR-100 at 224x224, with controls on the second run. Not run here.

    As `cifar10_transfer`, by the same choice of ours. Expected accuracy, hardware and hours: not known.
    """
    return over_seeds(_transfer("cifar100"), seeds)
