"""What recipes are built of: a run with the controls on its checkpoint, the same over seeds, and the first table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec, changed

GATED = ("random_gate", "fixed_choice")
"""The controls of a network with gates."""


def on_checkpoint(run: RunSpec, method: str, **options: Any) -> RunSpec:
    """A run of another method on the checkpoint of `run`, on the same model and data."""
    return replace(run, method=method, options=options, init_from=run.run_id)


def with_controls(run: RunSpec, *controls: str) -> list[RunSpec]:
    """A run and the controls that work on its checkpoint: `with_controls(dynamic, *GATED)`."""
    return [run, *(on_checkpoint(run, control) for control in controls)]


def over_seeds(specs: Sequence[RunSpec], seeds: Sequence[int]) -> list[RunSpec]:
    """The specs once for each seed; runs that start from another start from that of their own seed."""
    return [spec for seed in seeds for spec in changed(specs, lambda spec, seed=seed: replace(spec, seed=seed))]


def first_table(
    data: DataSpec,
    train: TrainSpec,
    ds: str,
    us: str,
    profile: ProfileSpec,
    gate: Mapping[str, Any],
    finetune: Mapping[str, Any],
) -> list[RunSpec]:
    """The methods of the suite's first table, all trained alike on one dataset, with the controls of the gates.

    Args:
        ds, us: the presets of DS-Net and US-Net.
        gate: options of stage II. finetune: options of pruning.
    """
    run = partial(RunSpec, data=data, train=train, profile=profile)
    return [
        *with_controls(run("ds_net", ds, options=dict(gate)), *GATED),
        run("us_net", us),
        run("uniform", ds),
        run("pruning", ds, options=dict(finetune)),
    ]


BUDGETS = ((0, 1, 2, 3), (1, 2, 3), (2, 3))
"""Routing spaces of the micro presets: as DS-Net does, a budget is set by what the gate may choose (METHODS 5.3)."""
