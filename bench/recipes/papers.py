"""The papers' full-size recipes on ImageNet: hyper-parameters of published code where there is any. None was run here.

What each source says, and what differs here, stands in `bench/recipes/sources.py` and `docs/paper_recipes.md`. What no
code or page says is our choice, and the docstring says so. Every batch is that of all processes (`--set
train.workers=8` shares it between eight). A recipe shows that all of it works with `--set train.max_steps=2`; what
comes out is then marked "not trained here".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.core.spec import DataSpec, RunSpec, TrainSpec
from bench.recipes.arms import ADJACENT, GATED, over_seeds, with_controls

IMAGENET = DataSpec("imagenet")
MOBILE = DataSpec("imagenet", augmentation="light")
OFFICIAL = TrainSpec(epochs=150, batch_size=512, lr=0.08, weight_decay=1e-4, warmup_epochs=5, label_smoothing=0.1)
"""Stage I of DS-Net's released configuration. timm added ten epochs at the last rate; this schedule ends with its
cosine."""
DEIT = TrainSpec(
    epochs=300,
    batch_size=512,
    lr=5e-4,
    weight_decay=0.05,
    warmup_epochs=5,
    label_smoothing=0.1,
    optimizer="adamw",
    mixup=0.8,
    cutmix=1.0,
    random_erasing=0.25,
    randaugment="rand-m9-mstd0.5-inc1",
    drop_path=0.1,
    ema=0.99996,
)
"""DeiT's: HydraViT's and ThinkingViT's configurations have its values, and Scala's begins with them."""

MOBILENET_BUDGETS = ((0, 1, 2, 3), (5, 6, 7, 8), (10, 11, 12, 13))
"""The first is the routing space of the released code; the two for larger budgets are ours, as many options each."""


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

    Nothing but its dimensions and techniques is public, so the hyper-parameters are our choice: DeiT's, without the
    average of the weights that stage I keeps by itself as its teacher. Expected accuracy, hardware, hours: not known.
    """
    gate = {"routing": ADJACENT, "budgets": (0.8, 0.65), "gate_epochs": 10, "gate_lr": 0.05}
    dynamic = RunSpec("ds_net_pp", "ds_vit_s", IMAGENET, replace(DEIT, ema=0.0), options=gate)
    return over_seeds(with_controls(dynamic, *GATED), seeds)


def imagenet_us_net(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """US-MobileNetV1 on ImageNet at 224x224, evaluated at seven widths. Not run here.

    Expected: the release reaches 71.8 % top-1 at 568 M multiply-adds, 64.2 % at 149 M and 55.7 % at 41 M (README of
    slimmable_networks). Hours: not known; its configuration asks for 8 GPUs.
    """
    train = TrainSpec(
        epochs=250, batch_size=1024, lr=0.5, weight_decay=1e-4, label_smoothing=0.0, min_lr=0.0, schedule="linear"
    )
    widths = (0.25, 0.35, 0.5, 0.65, 0.75, 0.9, 1.0)
    return over_seeds([RunSpec("us_net", "us_mobilenet_v1", MOBILE, train, options={"widths": widths})], seeds)


def imagenet_nested_vit(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """Three nested transformers on ImageNet at 224x224: HydraViT (DeiT-B), Scala and MatFormer (DeiT-S). Not run here.

    Expected: Scala's README has, at 0.25 / 0.5 / 0.75 / 1 of the width after 100 epochs, 58.4 to 59.8 / 67.8 to 72.0 /
    73.1 to 75.6 / 76.1 to 76.7 % top-1, with a teacher that is not here, and by narrower heads where these are fewer.
    MatFormer published no code: as HydraViT is trained, our choice. Hours: HydraViT asks for 2 A100s.
    """
    scala = replace(DEIT, epochs=100, batch_size=1024, lr=4e-3, warmup_epochs=3, randaugment="rand-m1-mstd0.5-inc1")
    wide = replace(DEIT, batch_size=1024, lr=1e-3)
    ours = (("hydravit", "nested_vit_b", wide), ("scala", "nested_vit_s", scala), ("matformer", "nested_vit_s", wide))
    specs = [RunSpec("nested_vit", model, IMAGENET, train, options={"scheme": scheme}) for scheme, model, train in ours]
    return over_seeds(specs, seeds)


def imagenet_thinking_vit(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """ThinkingViT (DeiT-S, 3 then 6 heads) on ImageNet at 224x224, at the thresholds of its release. Not run here.

    Expected: the release reaches 81.4 % top-1 at 3.98 G and 73.5 % at 1.25 G multiply-adds as it counts them. It starts
    from a trained DeiT-Ti, this from random weights. Hardware and hours: not known.
    """
    options = {"heads": 3, "thresholds": (0.1, 0.3, 0.5, 0.8, 1.0, 1.4, 2.0), "budgets": ()}
    train = replace(DEIT, batch_size=1024, lr=1e-3)
    return over_seeds([RunSpec("thinking_vit", "ds_vit_s", IMAGENET, train, options=options)], seeds)


def imagenet_pruning(seeds: Sequence[int] = (0,)) -> list[RunSpec]:
    """timm's ResNet-50 on ImageNet pruned to half of its multiply-adds by the L1 norm, then fine-tuned. Not run here.

    The weights of timm are fetched, or lie in its cache. Fine-tuned as Torch-Pruning's script does, which ranks by
    its own criterion after 30 epochs of sparse learning. Expected accuracy, hardware and hours: not known.
    """
    from bench.models import PRESETS  # timm is imported by the name of a model
    from bench.models.weights import weights_of

    name = "timm:resnet50.tv_in1k"
    train = TrainSpec(epochs=0, batch_size=2048, lr=0.08, weight_decay=1e-4, label_smoothing=0.0, schedule="step")
    options = {"criterion": "l1", "budgets": (0.5,), "finetune_epochs": 90}
    run = RunSpec("pruning", name, MOBILE, train, options=options, weights=weights_of(PRESETS.get(name)))
    return over_seeds([run], seeds)
