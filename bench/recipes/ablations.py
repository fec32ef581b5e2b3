"""Ablations: the full method beside variants of it that each differ in one technique.

Every recipe on digits holds the same full method, DS-Net on `ds_mobilenet_micro8`, so its runs are trained once for all
of them. What is a variant of what is written down with the runs (`bench/core/ablation.py`), and the report makes a
table of the differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.core.ablation import Ablation, Arms
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.recipes.arms import GATED, over_seeds, with_controls
from bench.recipes.families import MOBILENET, MOBILENET_PP, VIT_PP, Family

FULL = "full method"
SEEDS = (0, 1, 2)
BRIEF = ProfileSpec(batch_sizes=(1,), rounds=3, warmup=1)

Options = Mapping[str, Any]


def variant(full: RunSpec, options: Options, model: str | None = None) -> RunSpec:
    """The full method with some options changed, on another model where one is named."""
    return replace(full, options={**full.options, **options}, model=model or full.model)


def on_digits(family: Family, gate_epochs: int, epochs: int | None = None) -> RunSpec:
    """A family on digits, for as many epochs as `digits_families` trains it where nothing else is said."""
    train = family.schedule(TrainSpec(batch_size=60), epochs)
    return family.dynamic(DataSpec("digits"), train, BRIEF, gate_epochs)


DIGITS = on_digits(MOBILENET, gate_epochs=10, epochs=30)
CIFAR10 = RunSpec(
    "ds_net",
    "ds_mobilenet_micro32",
    DataSpec("cifar10", "holdout", 3_000),
    TrainSpec(epochs=4, batch_size=64, lr=0.1, warmup_epochs=1),
    BRIEF,
    options={**MOBILENET.gate, "gate_epochs": 2},
)


def judged(runs: Mapping[str, RunSpec], seeds: Sequence[int]) -> Arms:
    """Arms that are judged by their fixed sub-networks (`fixed_choice`) too."""
    return Arms({words: over_seeds(with_controls(run, "fixed_choice"), seeds) for words, run in runs.items()})


def of_stage_one(full: RunSpec, seeds: Sequence[int], variants: Mapping[str, Options]) -> Ablation:
    """Variants in how the supernet comes about."""
    return Ablation([judged({FULL: full} | {words: variant(full, some) for words, some in variants.items()}, seeds)])


def of_gates(runs: Mapping[str, RunSpec], seeds: Sequence[int], reference: str | None = None) -> Ablation:
    """Variants in how images are routed: what shares the full method's supernet is compared by dynamic points alone,
    another network by its fixed sub-networks too. The controls on each checkpoint are for the table of gates."""
    full, arms = runs[FULL], {}
    for words, run in runs.items():
        own_network = run is full or run.model != full.model
        arms[words] = over_seeds(with_controls(run, *(["fixed_choice"] if own_network else [])), seeds)
    beside = [spec for run in runs.values() for spec in over_seeds(with_controls(run, *GATED), seeds)]
    return Ablation([Arms(arms, reference)], beside)


TEACHERS: dict[str, Options] = {
    "no distillation: the labels teach": {"distillation": "none"},
    "in-place distillation": {"distillation": "inplace"},
    "ensemble in-place bootstrapping": {"distillation": "ensemble_bootstrap"},
}


def ablation_distillation(seeds: Sequence[int] = SEEDS) -> Ablation:
    """Who teaches the sub-networks: in-place bootstrapping against three others, on digits.

    30 epochs, as the quickstart: after 10, who teaches counts for less than that the teacher itself is learning. With
    the other recipes on digits (but `ablation_mvco`) about 25 minutes on two cores, reckoned from single runs.
    """
    return of_stage_one(DIGITS, seeds, TEACHERS)


def ablation_distillation_cifar10(seeds: Sequence[int] = SEEDS) -> Ablation:
    """Who teaches the sub-networks, on a fixed subset of CIFAR-10 (protocol holdout).

    So short a training on so few images says which teacher helps at its beginning, not in the end. About eight minutes
    on two cores, reckoned from a single run.
    """
    return of_stage_one(CIFAR10, seeds, TEACHERS)


def ablation_sandwich(seeds: Sequence[int] = SEEDS) -> Ablation:
    """How many random sub-networks a step trains between the largest and the smallest: 2 against 0, 1 and 4, on digits.

    A step with fewer is cheaper; all arms take equally many steps.
    """
    counts = {"no random widths": 0, "one random width": 1, "four random widths": 4}
    return of_stage_one(DIGITS, seeds, {words: {"random_widths": count} for words, count in counts.items()})


def ablation_bn(seeds: Sequence[int] = SEEDS) -> Ablation:
    """Batch-norm recalibration on the whole calibration split against fewer images and none, on digits."""
    variants: dict[str, Options] = {
        "no recalibration: statistics of the training": {"recalibrate": False},
        "recalibration on 10 images": {"calibration_images": 10},
        "recalibration on 40 images": {"calibration_images": 40},
    }
    return of_stage_one(DIGITS, seeds, variants)


def ablation_gate(seeds: Sequence[int] = SEEDS) -> Ablation:
    """How the gate is built and taught: SGS, its hard samples, its head, its trunk, and the attention head, on digits.

    Without the attention head no block has channel attention, so the network is cheaper and a gate could share no
    trunk.
    """
    settings = {
        FULL: DIGITS,
        "no SGS": variant(DIGITS, {"sgs_weight": 0.0}),
        "hard samples: give up": variant(DIGITS, {"hard_samples": "give_up"}),
        "scalar head": variant(DIGITS, {"gate_head": "scalar"}),
        "the trunk of attention, as released": variant(DIGITS, {"gate_trunk": "shared"}),
        "no attention head": variant(DIGITS, {}, model="ds_mobilenet_plain_micro8"),
    }
    return of_gates(settings, seeds)


def ablation_routing(seeds: Sequence[int] = SEEDS) -> Ablation:
    """What the gate may choose: options that lie further apart against the two slimmest, on the same supernet, on
    digits.

    The paper sets its budgets so (METHODS 5.3), and these points differ in cost as well. A space of all four widths
    shows what goes wrong: SGS teaches the first or the last option, and the others lie above the line between them.
    """
    spaces = ((0, 1, 2, 3), (0, 3), (0, 1, 2), (1, 3))
    settings = {FULL: DIGITS, "another routing space": variant(DIGITS, {"routing": spaces})}
    return of_gates(settings, seeds, reference="dynamic0-1")


IB: Options = {"distillation": "bootstrap", "multi_view": False}
MVCO: Options = {"distillation": "bootstrap", "multi_view": True}
INPLACE: Options = {"distillation": "inplace", "multi_view": False}


def ablation_mvco(seeds: Sequence[int] = SEEDS) -> Ablation:
    """Who teaches the sub-networks: IB on and off, MvCo on and off, for DS-MobileNet++ and DS-ViT++ on digits.

    The full method of each family is what the abstract credits it with: IB for CNNs, MvCo for transformers. MvCo
    without IB does not exist: it is about what the EMA teacher sees. Each arm's sub-networks are evaluated without
    gates too (`fixed_choice`), for it is them that the arms teach differently. About 6.5 minutes on two cores, reckoned
    from the time of single steps.
    """
    off = "IB off: in-place distillation"
    families = [
        (MOBILENET_PP, {FULL + " (IB)": IB, off: INPLACE, "MvCo on": MVCO}),
        (VIT_PP, {FULL + " (MvCo)": MVCO, "MvCo off: plain IB": IB, off: INPLACE}),
    ]
    groups = []
    for family, teaching in families:
        base = on_digits(family, gate_epochs=2)
        groups.append(judged({words: variant(base, options) for words, options in teaching.items()}, seeds))
    return Ablation(groups)
