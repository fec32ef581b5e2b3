"""The usage examples in docstrings run, and what a newcomer starts from has one."""

import doctest
import importlib
from pathlib import Path

import pytest

from bench.methods import METHODS

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for room in ("bench", "baselines")
    for path in (ROOT / room).rglob("*.py")
    if ">>> " in path.read_text()
)
ENTRY_POINTS = [
    "bench.core.spec:RunSpec",
    "bench.core.settings:with_settings",
    "bench.core.registry:Registry",
    "bench.core.record:Record",
    "bench.core.store:Store",
    "bench.data:load",
    "bench.slicing.choice:ChoiceSpace",
    "bench.slicing.extract:extract",
    "bench.slicing.dynamic:run_grouped",
    "bench.points:StaticPoint",
    "bench.points:subnetwork_point",
    "bench.tasks.task:task_of",
    "bench.methods.contract:Method",
    "bench.methods.registry:completed",
    "bench.evaluation.accuracy:evaluate",
    "bench.profilers.madds:executed_madds",
    "bench.profilers.meter:measure",
    "bench.recipes.arms:with_controls",
    "bench.recipes.arms:over_seeds",
    "bench.statistics.intervals:summarise",
    "bench.statistics.crossed:compare",
    "bench.statistics.crossed:row_interval",
    "bench.statistics.ranks:ranking",
    "bench.statistics.paired:paired_ratio",
    "bench.statistics.tradeoff:pareto_front",
    "bench.statistics.tradeoff:score_at",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, monkeypatch):
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))  # an example may add one, for itself
    result = doctest.testmod(importlib.import_module(name), verbose=False)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_an_entry_point_shows_how_it_is_used(entry):
    module, _, name = entry.partition(":")
    assert ">>> " in getattr(importlib.import_module(module), name).__doc__
