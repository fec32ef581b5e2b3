"""What the sources of the full-size recipes say of their training, beside what these recipes do.

`python -m bench.recipes.sources > docs/paper_recipes.md` makes the page of the docs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.core.spec import RunSpec


@dataclass(frozen=True)
class Paper:
    """What a source says of a training.

    Attributes:
        run: which of the recipe's runs it is about. source: where the values stand.
        theirs: fields of `TrainSpec` with the source's values; one that is not here is said nowhere.
        differs: what else is another here, or no field says.
    """

    recipe: str
    run: int
    source: str
    theirs: Mapping[str, Any]
    differs: str


_HEADS = {
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup_epochs": 5,
    "min_lr": 1e-5,
    "label_smoothing": 0.1,
    "randaugment": "rand-m9-mstd0.5-inc1",
    "random_erasing": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
    "drop_path": 0.1,
    "clip_grad": 0.0,
    "ema": 0.99996,
}
_RELEASED = {
    "optimizer": "sgd",
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "warmup_epochs": 5,
    "min_lr": 1e-5,
    "label_smoothing": 0.1,
    "randaugment": "rand-m9-mstd0.5",
    "random_erasing": 0.2,
    "mixup": 0.0,
    "cutmix": 0.0,
}
PAPERS = (
    Paper(
        "imagenet_ds_mbnet", 0, "changlin31/DS-Net, mobilenetv1_bn_uniform.yml and ..._gate.yml",
        {"epochs": 150, "batch_size": 512, "lr": 0.08, **_RELEASED},
        "timm adds ten epochs at the last rate (160 and 40 in all). The gate's input is standardised here, and "
        "gates have budgets of their own beside the largest logit. Batch norm is recalibrated on held-out "
        "training images, each once; the release runs 1,001 batches with momentum, which leaves statistics of "
        "`largest` unset.",
    ),
    Paper(
        "imagenet_ds_resnet", 0, "none: no configuration is public", {},
        "Stage I as DS-MBNet's at another rate, stage II in 10 epochs: our choice.",
    ),
    Paper(
        "imagenet_ds_vit", 0, "none: no configuration is public", {},
        "DeiT's training: our choice. The teacher is the average of the weights, with stage I's own decay of 0.997.",
    ),
    Paper(
        "imagenet_us_net", 0, "JiahuiYu/slimmable_networks, apps/us_mobilenet_v1_train_val.yml",
        {
            "epochs": 250, "batch_size": 1024, "lr": 0.5, "optimizer": "sgd", "weight_decay": 1e-4,
            "schedule": "linear", "min_lr": 0.0, "warmup_epochs": 0.0, "mixup": 0.0, "cutmix": 0.0,
        },
        "Weight decay spares depthwise kernels there, here one-dimensional parameters alone. Colours are jittered"
        " (0.4) and lit there, not here. Its released file leaves in-place distillation off, which the paper has "
        "and this recipe too. Batch norm is calibrated on held-out training images, each once; there on 5 batches"
        " of 1,024.",
    ),
    Paper(
        "imagenet_nested_vit", 0, "ds-kiel/HydraViT, args_hydravit.yaml and README",
        {"epochs": 300, "batch_size": 1024, "lr": 1e-3, **_HEADS},
        "The batch is 512 a GPU on the two that its README asks for, the rate 0.0005 for 512 images. Colours are "
        "jittered (0.3) only where no RandAugment is on. timm adds ten epochs at the last rate.",
    ),
    Paper(
        "imagenet_nested_vit", 1, "BeSpontaneous/Scala-pytorch, run.sh and main_scala.py",
        {
            "epochs": 100, "batch_size": 1024, "lr": 4e-3, **_HEADS, "warmup_epochs": 3,
            "randaugment": "rand-m1-mstd0.5-inc1",
        },
        "A trained DeiT-S teaches its distillation token there; here nobody from outside. It narrows heads; here "
        "there are fewer of them, at five widths of heads instead of any sixteenth. The rate is 0.002 for 512 "
        "images.",
    ),
    Paper(
        "imagenet_nested_vit", 2, "none: no code is public", {}, "As HydraViT is trained, on DeiT-S: our choice.",
    ),
    Paper(
        "imagenet_thinking_vit", 0, "ds-kiel/ThinkingViT, args.yaml",
        {"epochs": 300, "lr": 1e-3, **_HEADS},
        "It starts from a trained DeiT-Ti there, from random weights here. The file has 512 images a process and "
        "0.0005 for 512; of how many processes is not said, two are our choice. The second round is really "
        "skipped here.",
    ),
    Paper(
        "imagenet_pruning", 0, "VainF/Torch-Pruning, reproduce/scripts/prune/imagenet/resnet50_group_sl.sh",
        {"batch_size": 2048, "lr": 0.08, "schedule": "step", "decay_epochs": 30, "optimizer": "sgd"},
        "90 epochs of fine-tuning in both. Its own group criterion after 30 epochs of sparse learning there; here"
        " the L1 norm of the published weights, at once. 2.04 G multiply-adds there, half of 4.09 G here.",
    ),
)  # fmt: skip
FIELDS = (
    "optimizer",
    "epochs",
    "batch_size",
    "lr",
    "schedule",
    "decay_epochs",
    "warmup_epochs",
    "min_lr",
    "weight_decay",
    "label_smoothing",
    "randaugment",
    "random_erasing",
    "mixup",
    "cutmix",
    "drop_path",
    "clip_grad",
    "ema",
)
"""Of `TrainSpec`, as they are shown."""


def in_effect(spec: RunSpec, name: str) -> Any:
    """A field's value, what the data's own augmentation says of it included."""
    from bench.data.transforms import AUGMENTATIONS

    value = getattr(spec.train, name)
    if value is None and name in ("randaugment", "random_erasing"):
        own = AUGMENTATIONS[spec.data.augmentation or "full"]
        return (own.policy or "none") if name == "randaugment" else own.erasing
    return value


def differences() -> str:
    """The page of the docs: for every run its source, each value here and there, and what else differs."""
    from tabulate import tabulate

    from bench.recipes.registry import resolve

    parts = [f"# The papers' recipes\n\n{_HEAD}"]
    for paper in PAPERS:
        spec = resolve(paper.recipe, range(1))[paper.run]
        rows = [(name, _text(in_effect(spec, name)), _text(paper.theirs.get(name, "not said"))) for name in FIELDS]
        if spec.train.schedule != "step":
            rows = [row for row in rows if row[0] != "decay_epochs"]
        table = tabulate(rows, ("train.", "here", "there"), tablefmt="github", disable_numparse=True)
        title = f"## {paper.recipe}: {spec.method} on {spec.model}"
        parts.append(f"{title}\n\nSource: {paper.source}.\n\n{table}\n\n{textwrap.fill(paper.differs, 120)}")
    return "\n\n".join(parts)


_HEAD = """What each full-size recipe trains with, and what its source says. Where a source says nothing, the value here
is our choice. None of them was run here at full length. This page is made by `python -m bench.recipes.sources`."""


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print(differences())
