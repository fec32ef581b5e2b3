"""Recipes of detection: blood cells, animals, and what the paper did on PASCAL VOC. Each says what to expect of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec

DYNAMIC, SLIMMABLE = "ds_mobilenet_det_micro", "us_mobilenet_det_micro"
WIDEST = 3
"""The step of the ladder of `ds_mobilenet_det_micro` that is its widest routable network."""
PROFILE = ProfileSpec(batch_sizes=(1, 16), rounds=7, warmup=2)


def detectors(
    seeds: Sequence[int],
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
    specs = []
    for seed in seeds:
        common: dict[str, Any] = {"data": data, "train": train, "profile": PROFILE, "seed": seed}
        dynamic = RunSpec("ds_net", DYNAMIC, options=dict(gate), **common)
        specs += [
            dynamic,
            RunSpec("random_gate", DYNAMIC, init_from=dynamic.run_id, **common),
            RunSpec("fixed_choice", DYNAMIC, init_from=dynamic.run_id, **common),
            RunSpec("us_net", SLIMMABLE, options={"widths": tuple(widths)}, **common),
            RunSpec("uniform", DYNAMIC, options={"choices": tuple(choices)}, **common),
            RunSpec("class_prior", DYNAMIC, **common),
        ]
    return specs


def bccd(seeds: Sequence[int] = (0, 1, 2)) -> list[RunSpec]:
    """Red cells, white cells and platelets in 205 photographs; tested on the authors' 72 (BCCD, 160x160 pixels)."""
    return detectors(
        seeds,
        DataSpec("voc", "BCCD"),
        TrainSpec(epochs=40, batch_size=16, lr=0.02, warmup_epochs=3, weight_decay=5e-4),
        {"routing": ((0, 1, 2, 3), (1, 2, 3)), "gate_epochs": 4, "gate_lr": 5.0, "random_widths": 1, "ema": 0.99},
    )
