"""Recipes: functions from seeds to the specs of a comparison. Each says what to expect of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from bench.core.errors import UserError, unknown
from bench.core.registry import Registry
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec, with_settings

Recipe = Callable[[Sequence[int]], list[RunSpec]]

RECIPES = Registry(
    "recipe",
    {
        "quickstart": "bench.recipes:quickstart",
        "cifar10_smoke": "bench.recipes:cifar10_smoke",
        "cifar10": "bench.recipes:cifar10",
    },
    group="slicebench.recipes",
)

BUDGETS = ((0, 1, 2, 3), (1, 2, 3), (2, 3))
"""Routing spaces of the micro presets: as DS-Net does, a budget is set by what the gate may choose (METHODS 5.3)."""


def comparison(
    seeds: Sequence[int],
    data: DataSpec,
    train: TrainSpec,
    size: str,
    profile: ProfileSpec,
    gate: Mapping[str, Any],
    finetune: Mapping[str, Any],
) -> list[RunSpec]:
    """Every method of the suite's first table on one dataset, each seed with its controls on its own checkpoint.

    Args:
        size: suffix of the model presets ("micro8").
        gate: options of stage II. finetune: options of pruning.
    """
    ds, us = f"ds_mobilenet_{size}", f"us_mobilenet_{size}"
    specs = []
    for seed in seeds:
        common: dict[str, Any] = {"data": data, "train": train, "profile": profile, "seed": seed}
        dynamic = RunSpec("ds_net", ds, options=dict(gate), **common)
        specs += [
            dynamic,
            RunSpec("random_gate", ds, init_from=dynamic.run_id, **common),
            RunSpec("fixed_choice", ds, init_from=dynamic.run_id, **common),
            RunSpec("us_net", us, **common),
            RunSpec("uniform", ds, **common),
            RunSpec("pruning", ds, options=dict(finetune), **common),
        ]
    return specs


def quickstart(seeds: Sequence[int] = (0, 1, 2)) -> list[RunSpec]:
    """The first table, on scikit-learn's handwritten digits: minutes on two cores, nothing to download."""
    return comparison(
        seeds,
        DataSpec("digits"),
        TrainSpec(epochs=14, batch_size=60, lr=0.15, warmup_epochs=2),
        "micro8",
        ProfileSpec(batch_sizes=(1, 64), rounds=11, warmup=2),
        {"routing": BUDGETS, "gate_epochs": 4, "gate_lr": 20.0},
        {"finetune_epochs": 8},
    )


def cifar10_smoke(seeds: Sequence[int] = (0, 1, 2)) -> list[RunSpec]:
    """The first table on a fixed subset of 10,000 CIFAR-10 images (protocol holdout): under 20 minutes on two cores.

    It shows that everything works on real photographs; its accuracies are far from what the methods reach when trained
    for long on all images.
    """
    return comparison(
        seeds,
        DataSpec("cifar10", "holdout", 10_000),
        TrainSpec(epochs=5, batch_size=128, lr=0.1, warmup_epochs=0.5),
        "micro32",
        ProfileSpec(batch_sizes=(1, 64), rounds=11, warmup=2),
        {"routing": BUDGETS, "gate_epochs": 1, "gate_lr": 20.0},
        {"finetune_epochs": 2},
    )


def cifar10(seeds: Sequence[int] = (0, 1, 2)) -> list[RunSpec]:
    """The first table on all CIFAR-10 training images (protocol official), 100 epochs: hours on a GPU, days without.

    Not run here; needs the official binary or python files below the data directory.
    """
    return comparison(
        seeds,
        DataSpec("cifar10", "official"),
        TrainSpec(epochs=100, batch_size=128, lr=0.1, warmup_epochs=5, weight_decay=5e-4),
        "micro32",
        ProfileSpec(),
        {"routing": BUDGETS, "gate_epochs": 20, "gate_lr": 1.0},
        {"finetune_epochs": 30},
    )


def changed(specs: Sequence[RunSpec], change: Callable[[RunSpec], RunSpec]) -> list[RunSpec]:
    """Apply a change to every spec, parents first, and let children name their parents' new run_ids."""
    renamed: dict[str, str] = {}
    results = []
    for spec in specs:
        linked = replace(spec, init_from=renamed.get(spec.init_from, spec.init_from)) if spec.init_from else spec
        new = change(linked)
        renamed[spec.run_id] = new.run_id
        results.append(new)
    return results


def with_overrides(specs: Sequence[RunSpec], settings: Mapping[str, str]) -> list[RunSpec]:
    """The specs with `--set key=value` applied to each one that has the key.

    A key of the run, its data, training or profile applies to all; an option to the runs of the methods that have it.

    Raises:
        UserError: a key that none of the specs has (naming the nearest), or a value that it cannot take.
    """
    from bench.methods import method_of

    options = {spec.method: {f.name for f in fields(method_of(spec.method).Options)} for spec in specs}
    every_option = set().union(*options.values()) if options else set()
    for key in settings:
        name = key.removeprefix("options.")
        if key.startswith("options.") and name not in every_option:
            raise unknown("key in options", name, every_option)

    def change(spec: RunSpec) -> RunSpec:
        mine = {k: v for k, v in settings.items() if not _foreign_option(k, every_option, options[spec.method])}
        return with_settings(spec, mine, options[spec.method])

    return changed(specs, change)


def _foreign_option(key: str, every: set[str], mine: set[str]) -> bool:
    """Whether a setting is an option of other methods only."""
    name = key.removeprefix("options.")
    bare = "." not in key and key in {f.name for f in fields(RunSpec)}
    section = "." in key and not key.startswith("options.")
    shared = "." not in key and any(key in {f.name for f in fields(s)} for s in (TrainSpec, DataSpec, ProfileSpec))
    return name in every and name not in mine and not (bare or section or shared)


def resolve(text: str, seeds: Sequence[int] | None) -> list[RunSpec]:
    """The specs that RECIPE names: a recipe's name, `path/to/file.py:function`, or a JSON file of specs.

    Raises:
        UserError: an unknown name, a file or function that is not there, or a bad spec file.
    """
    from bench.core.registry import load_plugin
    from bench.core.spec import parse_specs_file

    if text.endswith(".json"):
        if seeds is not None:
            raise UserError("a JSON file names its own seeds; leave --seeds out")
        return parse_specs_file(text)
    path, colon, function = text.rpartition(":")
    if colon and path.endswith(".py"):
        module = load_plugin(path)
        if not hasattr(module, function):
            raise UserError(f"{path} has no function {function!r}")
        recipe: Recipe = getattr(module, function)
    else:
        recipe = RECIPES.get(text)
    return recipe(seeds) if seeds is not None else recipe()  # type: ignore[call-arg]
