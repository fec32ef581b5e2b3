"""Recipes by name: functions from seeds to the specs of a comparison. Each says what to expect of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.registry import Registry, load_plugin
from bench.core.settings import parse_specs_file
from bench.core.spec import RunSpec

RECIPES = Registry(
    "recipe",
    {
        "quickstart": "bench.recipes.digits:quickstart",
        "cifar10_smoke": "bench.recipes.cifar:cifar10_smoke",
        "cifar10": "bench.recipes.cifar:cifar10",
        "cifar10_core": "bench.recipes.core:cifar10_core",
        "cifar100_core": "bench.recipes.core:cifar100_core",
        "cifar10_pp": "bench.recipes.core:cifar10_pp",
        "imagenet10_core": "bench.recipes.core:imagenet10_core",
        "cifar10_gates": "bench.recipes.core:cifar10_gates",
        "cifar10_more": "bench.recipes.core:cifar10_more",
        "voc07_core": "bench.recipes.detection:voc07_core",
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
        "imagenet10_smoke": "bench.recipes.photographs:imagenet10_smoke",
        "imagenet_ds_mbnet": "bench.recipes.papers:imagenet_ds_mbnet",
        "imagenet_ds_resnet": "bench.recipes.papers:imagenet_ds_resnet",
        "imagenet_ds_vit": "bench.recipes.papers:imagenet_ds_vit",
        "imagenet_us_net": "bench.recipes.papers:imagenet_us_net",
        "imagenet_nested_vit": "bench.recipes.papers:imagenet_nested_vit",
        "imagenet_thinking_vit": "bench.recipes.papers:imagenet_thinking_vit",
        "imagenet_pruning": "bench.recipes.papers:imagenet_pruning",
        "official_ds_mbnet": "bench.recipes.official:official_ds_mbnet",
        "official_us_mobilenet": "bench.recipes.official:official_us_mobilenet",
        "official_thinking_vit": "bench.recipes.official:official_thinking_vit",
        "official_hydravit": "bench.recipes.official:official_hydravit",
        "pretrained": "bench.recipes.anyone:pretrained",
        "finetune": "bench.recipes.anyone:finetune",
        "cifar10_transfer": "bench.recipes.cifar:cifar10_transfer",
        "cifar100_transfer": "bench.recipes.cifar:cifar100_transfer",
        "bccd": "bench.recipes.detection:bccd",
        "voc_animals": "bench.recipes.detection:voc_animals",
        "voc_ds_mbnet": "bench.recipes.detection:voc_ds_mbnet",
    },
    group="slicebench.recipes",
)


def resolve(text: str, seeds: Sequence[int] | None, settings: dict[str, str] | None = None) -> list[RunSpec]:
    """The specs that RECIPE names: a recipe's name, `path/to/file.py:function`, or a JSON file of specs.

    Args:
        settings: of `--set`; those that the recipe's function has a parameter for are passed to it, as text, and taken
            out here.

    Raises:
        UserError: an unknown name, a file or function that is not there or fails, one that takes no seeds where there
            are some, one that returns something else than specs, or a bad spec file.
    """
    if text.endswith(".json"):
        if seeds is not None:
            raise UserError("a JSON file names its own seeds; leave --seeds out")
        return parse_specs_file(text)
    recipe = _from_file(text) if file_of(text) else RECIPES.get(text)
    arguments = () if seeds is None else (seeds,)
    try:
        inspect.signature(recipe).bind(*arguments)
    except TypeError as error:
        wrong = "takes no seeds; leave --seeds out" if arguments else "needs seeds; add --seeds N"
        raise UserError(f"recipe {text} {wrong}") from error
    named = [key for key in list(inspect.signature(recipe).parameters)[1:] if key in (settings or {})]
    specs = recipe(*arguments, **{key: (settings or {}).pop(key) for key in named})
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
    def recipe(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"recipe {text} failed: {type(error).__name__}: {error}") from error

    return recipe
