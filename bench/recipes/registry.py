"""Recipes: functions from seeds to the specs of a comparison. Each says what to expect of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, unknown
from bench.core.registry import Registry, load_plugin
from bench.core.settings import parse_specs_file, with_settings
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec

Recipe = Callable[[Sequence[int]], list[RunSpec]]

RECIPES = Registry(
    "recipe",
    {
        "quickstart": "bench.recipes.registry:quickstart",
        "cifar10_smoke": "bench.recipes.registry:cifar10_smoke",
        "cifar10": "bench.recipes.registry:cifar10",
        "digits_all": "bench.recipes.digits:digits_all",
        "digits_families": "bench.recipes.families:digits_families",
        "cifar10_families": "bench.recipes.families:cifar10_families",
        "ablation_distillation": "bench.recipes.ablations:ablation_distillation",
        "ablation_distillation_cifar10": "bench.recipes.ablations:ablation_distillation_cifar10",
        "ablation_gate": "bench.recipes.ablations:ablation_gate",
        "ablation_bn": "bench.recipes.ablations:ablation_bn",
        "ablation_sandwich": "bench.recipes.ablations:ablation_sandwich",
        "ablation_routing": "bench.recipes.ablations:ablation_routing",
        "ablation_mvco": "bench.recipes.ablations:ablation_mvco",
        "channel_order": "bench.recipes.order:channel_order",
        "tiny_imagenet_smoke": "bench.recipes.photographs:tiny_imagenet_smoke",
        "imagenet_ds_mbnet": "bench.recipes.photographs:imagenet_ds_mbnet",
        "imagenet_ds_resnet": "bench.recipes.photographs:imagenet_ds_resnet",
        "imagenet_ds_vit": "bench.recipes.photographs:imagenet_ds_vit",
        "cifar10_transfer": "bench.recipes.photographs:cifar10_transfer",
        "cifar100_transfer": "bench.recipes.photographs:cifar100_transfer",
        "bccd": "bench.recipes.detection:bccd",
        "voc_animals": "bench.recipes.detection:voc_animals",
        "voc_ds_mbnet": "bench.recipes.detection:voc_ds_mbnet",
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
        TrainSpec(epochs=10, batch_size=60, lr=0.15, warmup_epochs=2),
        "micro8",
        ProfileSpec(batch_sizes=(1, 64), rounds=11, warmup=2),
        {"routing": BUDGETS, "gate_epochs": 4, "gate_lr": 20.0},
        {"finetune_epochs": 6},
    )


def cifar10_smoke(seeds: Sequence[int] = (0, 1)) -> list[RunSpec]:
    """The first table on a fixed subset of 10,000 CIFAR-10 images (protocol holdout): under 20 minutes on two cores.

    It shows that everything works on real photographs; its accuracies are far from what the methods reach when trained
    for long on all images. Two seeds keep it within its time; ranks need `--seeds 3`.
    """
    return comparison(
        seeds,
        DataSpec("cifar10", "holdout", 10_000),
        TrainSpec(epochs=3, batch_size=64, lr=0.1, warmup_epochs=0.5),
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
    """Apply a change to every spec and let children name their parents' new run_ids; what has become equal counts once.

    The order is kept; a child may stand in front of its parent.
    """
    given = {spec.run_id: spec for spec in specs}
    new: dict[str, RunSpec] = {}

    def renew(spec: RunSpec) -> RunSpec:
        if spec.run_id not in new:
            parent = renew(given[spec.init_from]).run_id if spec.init_from in given else spec.init_from
            new[spec.run_id] = change(replace(spec, init_from=parent))
        return new[spec.run_id]

    return list({(after := renew(spec)).run_id: after for spec in specs}.values())


def with_overrides(specs: Sequence[RunSpec], settings: Mapping[str, str]) -> list[RunSpec]:
    """The specs with `--set key=value` applied to each one that has the key.

    A key of the run, its data, training or profile applies to all, but `init_from` and `weights` only to runs that
    start from no other one; an option to the runs of the methods that have it.

    Raises:
        UserError: a key that none of the specs has (naming the nearest), or a value that it cannot take.
    """
    from bench.methods import method_of

    options = {spec.method: {f.name for f in fields(method_of(spec.method).Options)} for spec in specs}
    every_option = set().union(*options.values())
    settings = _as_lists(settings, every_option)
    for key in settings:
        _check_key(key, every_option)

    def change(spec: RunSpec) -> RunSpec:
        foreign = every_option - options[spec.method]
        mine = {key: value for key, value in settings.items() if _option_of(key) not in foreign}
        if spec.init_from is not None:
            mine = {key: value for key, value in mine.items() if key not in ("init_from", "weights")}
        return with_settings(spec, mine, options[spec.method])

    return changed(specs, change)


def _as_lists(settings: Mapping[str, str], options: set[str]) -> dict[str, str]:
    """The settings, `budget=0.5` as `budgets=[0.5]` where methods have the list alone."""
    if "budget" in options or "budgets" not in options:
        return dict(settings)
    names = {"budget": "budgets", "options.budget": "options.budgets"}
    return {names.get(key, key): f"[{value}]" if key in names else value for key, value in settings.items()}


SECTIONS = {"data": DataSpec, "train": TrainSpec, "profile": ProfileSpec}
COMMON = {f.name for kind in (RunSpec, *SECTIONS.values()) for f in fields(kind)}
"""Bare keys that every run has, sections included."""


def _check_key(key: str, options: set[str]) -> None:
    """Raise `UserError` for a key that no run has; where one does, `with_settings` says the rest."""
    section, dot, name = key.partition(".")
    if dot and section == "options" and name not in options:
        raise unknown("key in options", name, options)
    if not dot and key not in COMMON | options:
        raise unknown("key", key, (COMMON | options) - {*SECTIONS, "options"})


def _option_of(key: str) -> str | None:
    """The option that a setting's key names; None where it is a key that every run has."""
    section, dot, name = key.partition(".")
    if dot:
        return name if section == "options" else None
    return None if key in COMMON else key


def resolve(text: str, seeds: Sequence[int] | None) -> list[RunSpec]:
    """The specs that RECIPE names: a recipe's name, `path/to/file.py:function`, or a JSON file of specs.

    Raises:
        UserError: an unknown name, a file or function that is not there or fails, one that takes no seeds where there
            are some, one that returns something else than specs, or a bad spec file.
    """
    if text.endswith(".json"):
        if seeds is not None:
            raise UserError("a JSON file names its own seeds; leave --seeds out")
        return parse_specs_file(text)
    recipe = _from_file(text) if file_of(text) else RECIPES.get(text)
    given = () if seeds is None else (seeds,)
    try:
        inspect.signature(recipe).bind(*given)
    except TypeError as error:
        wrong = "takes no seeds; leave --seeds out" if given else "needs seeds; add --seeds N"
        raise UserError(f"recipe {text} {wrong}") from error
    specs = recipe(*given)
    if not isinstance(specs, list | tuple) or not all(isinstance(spec, RunSpec) for spec in specs):
        raise UserError(f"recipe {text} must return a list of RunSpec, not {type(specs).__name__} {specs!r:.60}")
    if not specs:
        raise UserError(f"recipe {text} holds no spec")
    return specs if isinstance(specs, list) else list(specs)  # an ablation also says what it compares


def file_of(text: str) -> str | None:
    """The Python file of a recipe given as `path/to/file.py:function`; None for any other."""
    path = text.rpartition(":")[0] if ":" in text else text
    return path if path.endswith(".py") else None


def _from_file(text: str) -> Callable[..., Any]:
    """The function that `path/to/file.py:function` names; what goes wrong in it is told in one sentence."""
    path, _, name = text.rpartition(":")
    if not path:
        raise UserError(f"name the function of {text} too: {text}:FUNCTION")
    if not Path(path).is_file():
        raise UserError(f"the recipe file {path} does not exist")
    function = getattr(load_plugin(path), name, None)
    if not callable(function):
        raise UserError(f"{path} has no function {name!r}")

    @functools.wraps(function)
    def recipe(*given: Any) -> Any:
        try:
            return function(*given)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"recipe {text} failed: {type(error).__name__}: {error}") from error

    return recipe


def placed(specs: Sequence[RunSpec], device: str | None, local: bool = True) -> list[RunSpec]:
    """The specs as they will run: each on its device, its options checked and those at their default dropped.

    Args:
        device: "cpu" or "cuda" for all; "auto": where a spec says cpu, CUDA if there is one; None: as the specs say.
        local: runs stay on this machine, so a CUDA device must be here.

    Raises:
        UserError: there is no such device, or a spec that its method refuses.
    """
    import torch

    from bench.methods import completed

    available = torch.cuda.is_available()

    def place(spec: RunSpec) -> RunSpec:
        wanted = {None: spec.device, "auto": "cuda" if available else spec.device}.get(device, device)
        if wanted == "cuda" and local and not available:
            raise UserError("a CUDA device was asked for, but torch sees none here; use --device cpu")
        return completed(replace(spec, device=str(wanted)))

    return changed(specs, place)
