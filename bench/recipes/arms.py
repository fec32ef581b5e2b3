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
    """A run and the controls that work on its checkpoint: `with_controls(dynamic, *GATED)`.

    >>> runs = with_controls(RunSpec("ds_net", "ds_mobilenet_micro8"), *GATED)
    >>> [run.method for run in runs], runs[1].init_from == runs[0].run_id
    (['ds_net', 'random_gate', 'fixed_choice'], True)
    """
    return [run, *(on_checkpoint(run, control) for control in controls)]


def over_seeds(specs: Sequence[RunSpec], seeds: Sequence[int]) -> list[RunSpec]:
    """The specs once for each seed; runs that start from another start from that of their own seed.

    >>> runs = over_seeds(with_controls(RunSpec("ds_net", "ds_mobilenet_micro8"), "random_gate"), seeds=(0, 1, 2))
    >>> [run.seed for run in runs], runs[5].init_from == runs[4].run_id
    ([0, 0, 1, 1, 2, 2], True)
    """
    return [spec for seed in seeds for spec in changed(specs, lambda spec, seed=seed: replace(spec, seed=seed))]


def first_table(
    data: DataSpec,
    train: TrainSpec,
    ds: str,
    us: str,
    profile: ProfileSpec,
    gate: Mapping[str, Any],
    cascade: Mapping[str, Any],
    finetune_epochs: int,
) -> list[RunSpec]:
    """The methods of the suite's first table on one dataset, with the controls of the gates and of the cascade.

    Every network that is compared is trained for equally many epochs; the gates, whose network stays as it is, beside.

    Args:
        ds, us: the presets of DS-Net and US-Net.
        gate: options of stage II. cascade: options of the cascade on DS-Net's checkpoint.
        finetune_epochs: of pruning; they are part of its epochs.
    """
    run = partial(RunSpec, data=data, train=train, profile=profile)
    dynamic = run("ds_net", ds, options=dict(gate))
    pruned = replace(train, epochs=train.epochs - finetune_epochs)
    return [
        *with_controls(dynamic, *GATED),
        *with_controls(on_checkpoint(dynamic, "slice_cascade", **cascade), *GATED),
        run("us_net", us),
        run("uniform", ds),
        run("pruning", ds, train=pruned, options={"finetune_epochs": finetune_epochs}),
    ]


ADJACENT = ((0, 1), (1, 2), (2, 3))
"""Routing spaces of the micro presets: options that cost about twice as much as their neighbour at most. Where options
lie further apart, what SGS teaches, the first one or the last, wastes the better ones between."""
GATE: Mapping[str, Any] = {"routing": ADJACENT, "budgets": (0.8, 0.65), "gate_trunk": "separate", "gate_lr": 0.1}
"""How gates are built and trained in small recipes: found on the validation split of digits."""
