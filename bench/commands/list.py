"""`slicebench list`: what the suite knows, at once and without torch; `timm:PATTERN` asks timm, which takes seconds."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.commands.shared import Plugins, load_plugins
from bench.core.errors import UserError
from bench.core.registry import Entry, Registry

TIMM = "timm:"

Listed = StrEnum("Listed", "methods models datasets recipes metrics reported")
Row = dict[str, object]


def list_(
    what: Listed,
    pattern: Annotated[str | None, typer.Argument(help="models of timm by name, such as 'timm:*mobilenet*'")] = None,
    plugin: Plugins = None,
) -> None:
    """List what the suite knows; `list models 'timm:*mobilenet*'` searches the models of timm."""
    from tabulate import tabulate

    load_plugins(plugin)
    if pattern is None:
        rows = list(TABLES[what]())
    elif what is Listed.models and pattern.startswith(TIMM):
        rows = list(_timm(pattern.removeprefix(TIMM)))
    else:
        example = pattern if pattern.startswith(TIMM) else f"{TIMM}*{pattern}*"
        raise UserError(f"a pattern searches the models of timm, as in: slicebench list models '{example}'")
    typer.echo(tabulate(rows, headers="keys", disable_numparse=True))


def _methods() -> Iterable[Row]:
    from bench.methods import METHODS

    for name in METHODS.names():
        entry = METHODS.entry(name)
        method: Any = entry if isinstance(entry, Entry) else METHODS.get(name)  # a plugin's own class says the same
        trains, families = (", ".join(each) or "all" for each in (method.trains, method.families))
        what = _what(METHODS, name)
        facts = {"kind": method.kind, "trains": trains, "families": families, "paper": method.paper}
        yield {"method": name, **facts, "what": what}


def _models() -> Iterable[Row]:
    from bench.models import PRESETS

    for name in PRESETS.names():
        preset = PRESETS.get(name)
        size = f"{preset.channels} x {preset.image_size} x {preset.image_size}"
        facts = {"family": preset.family.name, "trains as": preset.trains_as, "task": preset.task, "images": size}
        yield {"model": name, **facts, "what": preset.what}


def _timm(pattern: str) -> Iterable[Row]:
    import timm

    names = timm.list_models(pattern)
    if not names:
        raise UserError(f"timm has no model whose name matches {pattern!r}; * stands for any letters")
    for name in names:
        weights = timm.models.get_pretrained_cfg(name)
        size = weights.input_size[-1] if weights else ""
        yield {"model": TIMM + name, "image size": size, "weights": (weights and weights.tag) or ""}


def _datasets() -> Iterable[Row]:
    from bench.data import DATASETS

    for name in DATASETS.names():
        yield {"dataset": name, "what": _what(DATASETS, name)}


def _recipes() -> Iterable[Row]:
    from bench.recipes.registry import RECIPES

    for name in RECIPES.names():
        yield {"recipe": name, "what": _first_sentence(RECIPES.get(name).__doc__)}


def _metrics() -> Iterable[Row]:
    from bench.core.metrics import METRICS

    for metric in METRICS.values():
        yield {"metric": metric.name, "unit": metric.unit, "better": metric.better, "what": metric.text}


def _reported() -> Iterable[Row]:
    from bench.reports.reported import load_reported, reported_folder

    for row in load_reported(reported_folder(Path("results"))):
        yield {
            "method": row.method,
            "model": row.model,
            "point": row.point,
            "MAdds": row.madds,
            "top-1 %": row.top1,
            "source": row.source,
        }


TABLES: dict[Listed, Callable[[], Iterable[Row]]] = {
    Listed.methods: _methods,
    Listed.models: _models,
    Listed.datasets: _datasets,
    Listed.recipes: _recipes,
    Listed.metrics: _metrics,
    Listed.reported: _reported,
}


def _what(registry: Registry, name: str) -> str:
    """What an entry is in a line: as its table says it, or the first sentence of an object that is imported already.
    Empty for one that would have to be imported."""
    entry: Any = registry.entry(name)
    if isinstance(entry, Entry):
        return entry.what
    return "" if isinstance(entry, str) else _first_sentence(entry.__doc__)


def _first_sentence(text: str | None) -> str:
    """The first sentence of a docstring, on one line and without its full stop."""
    paragraph = " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())
    return re.split(r"(?<!e\.g)\.(?: |$)", paragraph, maxsplit=1)[0]
