"""Recipes for anyone's networks and images: `--set models=timm:A,timm:B`, or what a plugin adds to `PRESETS`."""

from __future__ import annotations

from collections.abc import Sequence

from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.recipes.arms import over_seeds

PROFILE = ProfileSpec(batch_sizes=(1, 64), rounds=7, warmup=2)


def pretrained(seeds: Sequence[int] = (0,), models: str = "timm:resnet50,timm:deit_small_patch16_224") -> list[RunSpec]:
    """Networks with the weights that they come with, evaluated on ImageNet as their authors' configuration says.

    `--set models=timm:A,timm:B` names others; `--set data.protocol=subset` takes any class folders of ImageNet, whose
    rows of the classifiers are used. The weights of timm are fetched, or lie in its cache. Not run here.
    """
    from bench.models import PRESETS  # timm is imported by the name of a model
    from bench.models.weights import weights_of

    train = TrainSpec(epochs=0, batch_size=1)
    specs = [
        RunSpec("plain", name, DataSpec("imagenet"), train, PROFILE, weights=weights_of(PRESETS.get(name)))
        for name in models.split(",")
    ]
    return over_seeds(specs, seeds)


def finetune(seeds: Sequence[int] = (0,), models: str = "timm:resnet18") -> list[RunSpec]:
    """Networks trained on a folder of your own images, then pruned to 0.5 and 0.25 of their multiply-adds.

    `--set data.folder=NAME` names the folder, `--set models=timm:A,timm:B` the networks. They start from random
    weights, from `--weights timm:NAME` (fetched) or from a file, and train for 10 epochs; each pruned one for 5 more.
    """
    train = TrainSpec(epochs=10, batch_size=32, lr=0.02, warmup_epochs=1)
    specs = []
    for name in models.split(","):
        whole = RunSpec("plain", name, DataSpec("folder"), train, PROFILE)
        untrained = TrainSpec(epochs=0, batch_size=32, lr=0.02)
        cut = RunSpec("pruning", name, DataSpec("folder"), untrained, PROFILE, {"finetune_epochs": 5})
        specs += [whole, RunSpec(**{**vars(cut), "init_from": whole.run_id})]
    return over_seeds(specs, seeds)
