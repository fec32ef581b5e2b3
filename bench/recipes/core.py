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

from bench.core.ablation import Ablation, Arms
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.recipes.ablations import FULL
from bench.recipes.arms import GATE, GATED, on_checkpoint, over_seeds, with_controls

SEEDS = (0, 1, 2)
PROFILE = ProfileSpec(batch_sizes=(1, 64), rounds=11, warmup=2)
TRAIN = TrainSpec(epochs=12, batch_size=128, lr=0.1, warmup_epochs=1, weight_decay=5e-4)
CIFAR10, CIFAR100 = DataSpec("cifar10"), DataSpec("cifar100")
DYNAMIC, UNIVERSAL, SWITCHABLE = (f"{kind}_resnet_basic_micro32" for kind in ("ds", "us", "s"))
FINETUNING = 4
"""Epochs, of all, in which a pruned network, or one that learns to skip, is trained further."""
FRONT: Mapping[str, Any] = {"shared_front": True}
GATES: Mapping[str, Any] = {**GATE, **FRONT, "routing": ((0, 1), (0, 2), (1, 3)), "gate_epochs": 2}
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
        *with_cascade(on_cifar10("us_net", UNIVERSAL, **FRONT), ENDS),
        *with_cascade(on_cifar10("s_net", SWITCHABLE, **FRONT), ENDS),
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


TOKENS = TrainSpec(
    epochs=16, batch_size=128, lr=1e-3, warmup_epochs=2, weight_decay=0.05, optimizer="adamw", clip_grad=1.0
)
TOKEN_GATES: Mapping[str, Any] = {**GATE, "routing": ((0, 1), (1, 2, 3)), "gate_epochs": 2}
IB: Mapping[str, Any] = {"distillation": "bootstrap", "multi_view": False}
MVCO: Mapping[str, Any] = {"distillation": "bootstrap", "multi_view": True}


def cifar10_pp(seeds: Sequence[int] = SEEDS) -> Ablation:
    """DS-Net++ on all of CIFAR-10 (protocol official): DS-ViT++ with MvCo and with plain IB, cascades and controls.

    Transformers of 2.9 to 10.9 M multiply-adds, 16 epochs by AdamW. On the first seed also the same basic blocks as in
    `cifar10_core` with filters and kernels to choose (DS-CNN++), and HydraViT's nested transformer with a cascade.
    About 2.5 hours of one core a seed, and 3 more for the first.
    """
    full = run_of(CIFAR10, TOKENS, "ds_net_pp", "ds_vit_micro32", **TOKEN_GATES, **MVCO)
    plain = replace(full, options={**full.options, **IB})
    arms = {
        words: over_seeds(with_controls(run, "fixed_choice"), seeds)
        for words, run in {"full method (MvCo)": full, "MvCo off: plain IB": plain}.items()
    }
    kernels = {**GATE, **FRONT, "routing": ((0, 4), (4, 7)), "gate_epochs": 2}
    filters = on_cifar10("ds_net_pp", "ds_resnet_basic_pp_micro32", **kernels)
    heads = run_of(CIFAR10, TOKENS, "nested_vit", "nested_vit_micro32", scheme="hydravit")
    first = [*with_cascade(filters, {"chains": ((0, 4), (4, 7))}, *GATED), *with_cascade(heads, ENDS)]
    beside = [spec for run in (full, plain) for spec in over_seeds(with_cascade(run, ENDS, *GATED), seeds)]
    return Ablation([Arms(arms)], [*beside, *over_seeds(first, seeds[:1])])


def imagenet10_core(seeds: Sequence[int] = SEEDS[:1]) -> list[RunSpec]:
    """DS-Net, a cascade on its checkpoint, controls, and networks trained alone at the two ends of the ladder, on ten
    classes of ImageNet at 64x64 pixels.

    Ten classes, n = 500, not ImageNet: 150 training images a class say little about what the methods reach there. 60
    epochs of the basic blocks of `cifar10_core`, about half an hour of one core.
    """
    data = DataSpec("imagenet", "subset", image_size=64, augmentation="light")
    run = partial(run_of, data, replace(TRAIN, epochs=60, batch_size=64, warmup_epochs=3))
    dynamic = run("ds_net", "ds_resnet_basic_micro64", **{**GATES, "gate_epochs": 10})
    alone = run("uniform", "ds_resnet_basic_micro64", choices=(0, 3))
    return over_seeds([*with_cascade(dynamic, CHAINS, *GATED), alone], seeds)


def cifar10_gates(seeds: Sequence[int] = SEEDS) -> Ablation:
    """How gates are taught and what they choose between, on the supernets of `cifar10_core`, which stay as they are:
    run it in the results of that recipe. A few minutes of one core an arm and seed.

    A space of all four widths, and one of the two ends, show what goes wrong: SGS teaches the first option or the last.
    """
    full = CIFAR10_DYNAMIC
    variants: dict[str, Mapping[str, Any]] = {
        "no SGS": {"sgs_weight": 0.0},
        "no penalty of multiply-adds": {"madds_weight": 0.0},
        "twenty times the penalty": {"madds_weight": 10.0},
        "labels of SGS smoothed by 0.1, gates averaged": {"sgs_smoothing": 0.1, "gate_ema": 0.997},
        "scalar head": {"gate_head": "scalar"},
    }
    same = {FULL: [full], **{words: [full, regated(full, **options)] for words, options in variants.items()}}
    wide = regated(full, routing=((0, 1, 2, 3), (0, 3)))
    spaces = {FULL: [full], "wider routing spaces": [full, wide]}
    groups = [
        Arms({words: over_seeds(runs, seeds) for words, runs in same.items()}),
        Arms({words: over_seeds(runs, seeds) for words, runs in spaces.items()}, "dynamic0-2-budget0.8"),
    ]
    again = [wide, *(runs[-1] for runs in same.values())]
    controlled = [spec for run in (full, *again) for spec in with_controls(run, *GATED)]
    return Ablation(groups, over_seeds(controlled, seeds))


def regated(run: RunSpec, **options: Any) -> RunSpec:
    """The gates of a run trained again in another way, on its own supernet: nothing else is trained."""
    return replace(run, options={**run.options, **options}, init_from=run.run_id, train=replace(run.train, epochs=0))


def cifar10_more(seeds: Sequence[int] = SEEDS) -> list[RunSpec]:
    """What `cifar10_core` and `cifar10_pp` leave out, trained as there: pruning by Taylor's criterion, MatFormer and
    Scala, and two ways in which a transformer saves by image. About 3 hours of one core a seed."""
    nested = partial(run_of, CIFAR10, TOKENS, "nested_vit", "nested_vit_micro32")
    token = partial(run_of, CIFAR10, TOKENS)
    budgets = (0.8, 0.65, 0.5)
    taylor = run_of(CIFAR10, shorter(TRAIN), "pruning", DYNAMIC, finetune_epochs=FINETUNING, criterion="taylor")
    specs = [
        taylor,
        nested(scheme="matformer", rungs=(0, 1, 3)),
        nested(scheme="scala"),
        token("thinking_vit", "ds_vit_micro32", budgets=budgets),
        token("token_prune", "ds_vit_micro32", budgets=budgets),
    ]
    return over_seeds(specs, seeds)
