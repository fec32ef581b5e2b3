"""What is said of a run to tell it from the others of its method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench.core.spec import RunSpec
from bench.reports.runs import Run, settings_of


def variants(runs: Sequence[Run]) -> dict[str, str]:
    """For each config_id, what sets it apart from the other configs of its method: "epochs=20, random_widths=1".

    Settings at their default are not named, nor what a run and its parent have in common; so it is empty where a method
    was run in one way only, and for the plain one of several ways. A control says of which method it is, where there
    are controls of several. A run that was stopped after a few steps, or that evaluates its authors' weights, says so
    first, in every table and figure.
    """
    families: dict[tuple, dict[str, dict[str, Any]]] = {}
    parents: dict[tuple, set[str]] = {}
    for run in runs:
        spec = run.spec
        family = (spec.method, spec.model, spec.data.name, spec.data.protocol)
        parent = run.settings.get("parent.method", "") if run.control else ""
        parents.setdefault(family, set()).add(parent)
        families.setdefault((*family, parent), {})[run.config_id] = run.settings
    labels = {}
    for (*family, parent), configs in families.items():
        several = len(parents[tuple(family)]) > 1
        for config, label in _labels(configs).items():
            labels[config] = ", ".join(filter(None, (f"of {parent}" if parent and several else "", label)))
    return labels | {
        run.config_id: ", ".join(filter(None, (run.mark, labels[run.config_id]))) for run in runs if run.mark
    }


def _labels(family: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    keys = sorted({key for settings in family.values() for key in settings})
    spelled = {config: {key: json.dumps(settings.get(key)) for key in keys} for config, settings in family.items()}
    differing = [key for key in keys if len({values[key] for values in spelled.values()}) > 1]
    defaults = settings_of(RunSpec("any", "any"), {})
    usual = {key: defaults.get(key.removeprefix("parent.")) for key in keys}
    labels = {}
    for config, settings in family.items():
        expected = usual
        if "parent.method" in differing:  # not all have such a parent: it is told by how it differs from its child
            as_parent = {f"parent.{key}": value for key, value in settings.items() if key != "method"}
            expected = usual | {key: value for key, value in as_parent.items() if key in usual}
        named = [key for key in differing if key in settings and settings[key] != expected[key]]
        labels[config] = ", ".join(f"{short(key)}={spelled[config][key].strip(chr(34))}" for key in named)
    return labels


def short(key: str) -> str:
    """A dotted key without its section: "train.epochs" is "epochs", "parent.train.epochs" "parent.epochs"."""
    sections = ("train", "data", "profile", "options")
    return ".".join(part for part in key.split(".") if part not in sections)
