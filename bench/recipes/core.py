"""The recipes of the evidence: networks trained long enough on two cores to say something, and what is asked of them.

Every method of a recipe has equal epochs, fine-tuning included, and equal augmentation; gates are trained beside, on
networks that stay as they are. Each dynamic row has its controls. The campaigns that ran them, with the plan that was
written before, stand in `results/campaigns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.recipes.arms import GATE, GATED, on_checkpoint, over_seeds, with_controls

SEEDS = (0, 1, 2)
PROFILE = ProfileSpec(batch_sizes=(1, 64), rounds=11, warmup=2)
TRAIN = TrainSpec(epochs=12, batch_size=128, lr=0.1, warmup_epochs=1, weight_decay=5e-4)
CIFAR10, CIFAR100 = DataSpec("cifar10"), DataSpec("cifar100")
DYNAMIC, UNIVERSAL, SWITCHABLE = (f"{kind}_resnet_basic_micro32" for kind in ("ds", "us", "s"))
FINETUNING = 4
"""Epochs, of all, in which a pruned network, or one that learns to skip, is trained further."""
GATES: Mapping[str, Any] = {**GATE, "routing": ((0, 1), (0, 2), (1, 3)), "gate_epochs": 2}
"""Pairs whose costs lie within twice: choices 0 to 3 cost 10.1, 13.4, 18.5 and 25.6 M multiply-adds."""
CHAINS: Mapping[str, Any] = {"chains": ((0, 2), (0, 3), (0, 1, 3)), "budgets": (0.75, 0.6, 0.5)}
ENDS: Mapping[str, Any] = {"chains": ((0, 3),), "budgets": (0.75, 0.6, 0.5)}


def with_cascade(run: RunSpec, cascade: Mapping[str, Any], *controls: str) -> list[RunSpec]:
    """A run of a supernet with its controls, and the cascade on its checkpoint with its own."""
    return [*with_controls(run, *controls), *with_controls(on_checkpoint(run, "slice_cascade", **cascade), *GATED)]


def run_of(data: DataSpec, train: TrainSpec, method: str, model: str, **options: Any) -> RunSpec:
    """A run of these recipes."""
    return RunSpec(method, model, data, train, PROFILE, options=options)


def shorter(train: TrainSpec) -> TrainSpec:
    """The training in front of the fine-tuning: both together are as long as the training of others."""
    return replace(train, epochs=train.epochs - FINETUNING)


on_cifar10 = partial(run_of, CIFAR10, TRAIN)
CIFAR10_DYNAMIC = on_cifar10("ds_net", DYNAMIC, **GATES)
CIFAR10_CASCADE = on_checkpoint(CIFAR10_DYNAMIC, "slice_cascade", **CHAINS)


def cifar10_core(seeds: Sequence[int] = SEEDS) -> list[RunSpec]:
    """DS-Net, US-Net, S-Net, networks trained alone and pruned ones on all of CIFAR-10 (protocol official), a cascade
    of slices on each supernet, and the controls of every gate and cascade.

    Residual networks of basic blocks, 10.1 to 25.6 M multiply-adds, 12 epochs. On the first seed also DS-Net on the
    labels alone, early exits and layer skipping. About 3.5 hours of one core a seed.
    """
    alone = on_cifar10("uniform", DYNAMIC)
    pruned = run_of(CIFAR10, shorter(TRAIN), "pruning", DYNAMIC, finetune_epochs=FINETUNING)
    specs = [
        alone,
        pruned,
        *with_cascade(CIFAR10_DYNAMIC, CHAINS, *GATED),
        *with_cascade(on_cifar10("us_net", UNIVERSAL), ENDS),
        *with_cascade(on_cifar10("s_net", SWITCHABLE), ENDS),
    ]
    labels = on_cifar10("ds_net", DYNAMIC, **GATES, distillation="none")
    skipping = run_of(CIFAR10, shorter(TRAIN), "layer_skip", DYNAMIC, gate_epochs=FINETUNING)
    beside = [*with_controls(labels, *GATED), on_cifar10("early_exit", DYNAMIC), skipping]
    first, *others = ([*over_seeds(specs, [seed])] for seed in seeds)
    return [*first, *over_seeds(beside, seeds[:1]), *(spec for some in others for spec in some)]


def cifar100_core(seeds: Sequence[int] = SEEDS) -> list[RunSpec]:
    """DS-Net, a cascade on its checkpoint, controls, and networks trained alone at the two ends of the ladder, on all
    of CIFAR-100 (protocol official). Trained as `cifar10_core`; about 1.7 hours of one core a seed."""
    run = partial(run_of, CIFAR100, TRAIN)
    alone = run("uniform", DYNAMIC, choices=(0, 3))
    return over_seeds([*with_cascade(run("ds_net", DYNAMIC, **GATES), CHAINS, *GATED), alone], seeds)
