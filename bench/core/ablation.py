"""Which runs of a recipe are compared: a full method and its variants, kept in a file beside the runs.

    <root>/ablations/<recipe>.<digest>.json

A spec describes one run and cannot say what it is a variant of, so the recipe says it, and the command writes it down.
The digest is that of the first run of each arm: the same comparison with more seeds is the same file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.files import Damaged, damaged, read_json, remove_leftovers, write_json
from bench.core.names import is_label, is_run_id
from bench.core.spec import RunSpec

FOLDER = "ablations"
Finish = Callable[[Sequence[RunSpec]], list[RunSpec]]
"""From specs as a recipe gives them to specs as they run."""


@dataclass(frozen=True)
class Arms:
    """A full method and its variants.

    Attributes:
        arms: what each is in a few words, and its runs on all seeds. The first is the full method.
        reference: the point of the full method that every dynamic point is held against; None where each is held
            against the full method's point of the same name.
    """

    arms: Mapping[str, Sequence[RunSpec]]
    reference: str | None = None

    def mapped(self, finish: Finish) -> Arms:
        """The arms with their specs as they will run, without one whose runs settings have made those of another."""
        kept: dict[str, Sequence[RunSpec]] = {}
        for words, specs in self.arms.items():
            finished = finish(specs)
            if not any(all(spec in other for spec in finished) for other in kept.values()):
                kept[words] = finished
        return Arms(kept, self.reference)


class Ablation(list[RunSpec]):
    """The specs of a recipe, with what it compares. `beside`: specs that run too, but stand in no arm (controls)."""

    def __init__(self, groups: Sequence[Arms], beside: Iterable[RunSpec] = ()) -> None:
        self.groups = groups
        compared = [spec for group in groups for specs in group.arms.values() for spec in specs]
        super().__init__({spec.run_id: spec for spec in (*compared, *beside)}.values())


@dataclass(frozen=True)
class Group:
    """Arms as the file holds them: words to run_ids."""

    arms: dict[str, list[str]]
    reference: str | None


def groups_of(specs: Sequence[RunSpec], finish: Finish) -> list[Group]:
    """What a recipe compares, by the names under which its runs will lie in the store; nothing for an ordinary one.

    Arms are closed: a run that another starts from is in the same arm, so each arm can be finished by itself.
    """
    groups = specs.groups if isinstance(specs, Ablation) else ()
    mapped = [group.mapped(finish) for group in groups]
    return [
        Group({words: [spec.run_id for spec in specs] for words, specs in group.arms.items()}, group.reference)
        for group in mapped
        if len(group.arms) > 1
    ]


def write_ablation(root: Path, recipe: str, groups: Sequence[Group]) -> None:
    """Write down what a recipe compares, in one step; nothing for one that compares nothing.

    Args:
        recipe: as the user named it; of `path/to/file.py:function` the function counts.
    """
    if not groups:
        return
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", recipe.rpartition(":")[2]).lstrip("-")[:100]
    body = {"recipe": name, "groups": [vars(group) for group in groups]}
    firsts = json.dumps([[runs[0] for runs in group.arms.values()] for group in groups])
    file = root / FOLDER / f"{name}.{hashlib.sha256(firsts.encode()).hexdigest()[:12]}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(file.parent)
    except OSError as error:
        raise UserError(f"cannot create {file.parent}: {error.strerror}") from error
    write_json(file, body)


def read_ablations(root: Path, apart: Callable[[Path, Damaged], object] | None = None) -> dict[str, list[Group]]:
    """By recipe, all groups that were written down. A damaged file is handed to `apart` with its error; without that,
    the UserError, which names the file, is raised."""
    groups: dict[str, list[Group]] = {}
    for file in sorted((root / FOLDER).glob("*.json")):
        try:
            recipe, compared = _read(file)
        except Damaged as error:
            if apart is None:
                raise
            apart(file, error)
        else:
            groups.setdefault(recipe, []).extend(compared)
    return groups


def _read(file: Path) -> tuple[str, list[Group]]:
    body = read_json(file)
    try:
        recipe, groups = body["recipe"], [_group(raw) for raw in body["groups"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise damaged(file, f"it does not say what is compared ({error})") from error
    if not is_run_id(recipe):
        raise damaged(file, f"{recipe!r} is not the name of a recipe")
    return recipe, groups


def _group(raw: dict[str, Any]) -> Group:
    """Raises ValueError for what is no group: the names of its runs and of its point are names."""
    arms = {words: [str(run) for run in runs] for words, runs in raw["arms"].items()}
    names, reference = [run for runs in arms.values() for run in runs], raw["reference"]
    if not arms or not all(map(is_run_id, names)) or not (reference is None or is_label(reference)):
        raise ValueError("a group has arms, lists of run_ids by what each is, and a reference")
    return Group(arms, reference)
