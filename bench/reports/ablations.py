"""The tables of ablations: variants against their full method, by what recipes wrote down."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from bench.core.ablation import Group
from bench.core.metrics import paired_metric
from bench.core.spec import RunSpec
from bench.reports.differences import DIFFERENCE, DIFFERENCE_NOTE, BySeed, Row, compared, verdicts
from bench.reports.frame import natural
from bench.reports.layout import (
    PERCENT,
    PERCENT_CSV,
    PLACE,
    SCORE,
    SEEDS,
    Column,
    Page,
    Section,
    count,
    name_column,
    number,
    signed,
)
from bench.reports.rows import rows_of
from bench.reports.runs import Run, settings_of
from bench.reports.variants import short

COLUMNS = [
    *PLACE,
    Column("model", None),
    Column("method", None),
    name_column("arm", "variant"),
    name_column("changed"),
    name_column("point"),
    name_column("against"),
    SEEDS,
    Column("metric", None),
    Column("score_mean", f"{SCORE} %", PERCENT, PERCENT_CSV, "score_percent"),
    Column("other_score", "full %", PERCENT, PERCENT_CSV, "full_score_percent"),
    *DIFFERENCE,
    Column("madds_mean", "MAdds/image", count, number),
    Column("other_madds", None, plain=number, header="full_madds"),
    Column("madds_change", "MAdds change %", signed(1, 100), PERCENT_CSV, "madds_change_percent"),
    Column("config_id", None),
    Column("against_config", None),
]
NOTE = """
Each variant against the full method of the same recipe, point by point. Dynamic points are what the gates reach; the
others are fixed sub-networks of the same supernet. Changed: the settings in which the variant's runs differ.
"""


def sections(
    groups: Sequence[Group], points: pd.DataFrame, runs: Sequence[Run], scores: Mapping[Row, BySeed]
) -> list[Section]:
    """What was evaluated of the groups of one recipe; the same comparison counts once, however often it was noted.

    points: as by `points_frame`; scores: as by `scores_by_row`. One section for each full method, with a row for each
    point of a variant: what names it, arm, changed, against, against_config, madds_change, and what `compared` and
    `verdicts` say. All runs of an arm's configs count, with whatever seeds they are there. Raises UserError when
    runs on one split were scored on different numbers of images.
    """
    by_id = {run.run_id: run for run in runs if "eval" in run.bodies}
    named = {(row["split"], row["config_id"], row["point"]): row for row in rows_of(points)}
    found: dict[str, Section] = {}
    for group in groups:
        arms = {words: [by_id[run_id] for run_id in ids if run_id in by_id] for words, ids in group.arms.items()}
        if not (full := next(iter(arms.values()))):
            continue
        own = {words: [run for run in arm if run not in full] for words, arm in arms.items()}  # some start from full's
        arms = {words: arm for words, arm in arms.items() if arm is full or own[words]}
        configs = {words: {run.spec.method: run.config_id for run in arm} for words, arm in arms.items()}
        pairs = list(_pairs(configs, group.reference, named))
        key = json.dumps([[words, *pair] for words, *pair in pairs])
        if key in found:
            continue
        lines = []
        for words, row, other in pairs:
            if pair := compared(scores[row], scores[other]):
                names = ("dataset", "split", "model", "method", "kind", "config_id", "point")
                line = {name: named[row][name] for name in names} | {"metric": paired_metric(named[row]["metric"])}
                line |= {"arm": words, "changed": _changed((own[words] or full)[0], full)}
                line |= {"against": other[2], "against_config": other[1]}
                lines.append(line | pair | {"madds_change": pair["madds_mean"] / pair["other_madds"] - 1})
        if lines:
            first = named[pairs[0][2]]
            is_crossed = any(line["point"] != line["against"] for line in lines)
            found[key] = Section(
                f"{first['split']}, {first['method']} on {first['model']}",
                pd.DataFrame(verdicts(lines)),
                [column for column in COLUMNS if column.name != "against" or is_crossed],
                f"Full method: {_full(full[0])}.",
            )
    return list(found.values())


def _pairs(
    arms: Mapping[str, Mapping[str, str]], reference: str | None, named: Mapping[Row, dict[str, Any]]
) -> Iterator[tuple[str, Row, Row]]:
    """(arm, a point of it, the full method's point that it is held against); of each arm: method -> config_id."""
    full = next(iter(arms.values()))
    for words, configs in arms.items():
        for method, config in configs.items():
            ours = [row for row in named if row[1] == config and method in full]
            for row in sorted(ours, key=lambda row: natural(row[2])):
                is_dynamic = named[row]["kind"] == "dynamic"
                other = (row[0], full[method], reference if reference and is_dynamic else row[2])
                if other in named and other != row:
                    yield words, row, other


def _changed(variant: Run, full: Sequence[Run]) -> str:
    """In what a variant differs from the full method; where it starts from its network, that alone is said of it."""
    started = variant.spec.init_from in {run.run_id for run in full}
    alone = replace(variant, settings=settings_of(replace(variant.spec, init_from=None), {})) if started else variant
    return changed_settings(alone, full[0]) + ", on the full method's network" * started


def changed_settings(variant: Run, full: Run) -> str:
    """In which settings a run differs from another: "gate_lr=2.0, gate_trunk=separate"."""
    ours, theirs = variant.settings, full.settings
    keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    return ", ".join(f"{short(key)}={_spelled(ours[key]) if key in ours else 'default'}" for key in keys)


def _spelled(value: Any) -> str:
    return json.dumps(value).strip('"')


def _full(run: Run) -> str:
    """The settings of the full method that are not the defaults of a spec, but for how it was timed."""
    defaults = settings_of(RunSpec(run.spec.method, run.spec.model), {})
    differing = {key: value for key, value in run.settings.items() if value != defaults.get(key)}
    named = {key: value for key, value in differing.items() if not key.startswith("profile.")}
    return ", ".join(f"{short(key)}={_spelled(value)}" for key, value in sorted(named.items()))


def ablations_pages(studies: Mapping[str, Sequence[Section]]) -> list[Page]:
    """A page for each recipe that has something to compare."""
    pages = []
    for recipe, parts in sorted(studies.items()):
        if parts:
            name = recipe.removeprefix("ablation_")
            title, whole = f"Ablation: {name.replace('_', ' ')}", pd.concat([p.frame for p in parts], ignore_index=True)
            pages.append(
                Page(f"ablation_{name}", title, [NOTE, DIFFERENCE_NOTE], parts, (whole, COLUMNS), is_study=True)
            )
    return pages
