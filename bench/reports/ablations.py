"""Variants against their full method, by what recipes wrote down: differences with intervals and verdicts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.core.ablation import Group
from bench.core.errors import UserError
from bench.core.metrics import paired_metric
from bench.core.spec import RunSpec
from bench.reports.compare import Row, common_means, difference, madds_by_seed, scores_by_seed, verdicts
from bench.reports.frame import natural
from bench.reports.rows import rows_of
from bench.reports.runs import Run, settings_of, short
from bench.reports.scores import read_scores
from bench.statistics.significance import PairedBootstrap

Configs = dict[str, str]
"""Of one arm: method -> config_id."""


@dataclass(frozen=True)
class Section:
    """One full method and the differences of its variants from it, a row for each point (columns: `_line`)."""

    title: str
    full: str
    rows: pd.DataFrame


def sections(groups: Sequence[Group], points: pd.DataFrame, runs: Sequence[Run]) -> list[Section]:
    """What was evaluated of the groups of one recipe; the same comparison counts once, however often it was noted.

    points: as by `points_frame`. All runs of an arm's configs count, with whatever seeds they are there. Raises
    UserError when runs on one split were scored on different numbers of images.
    """
    found: dict[str, Section] = {}
    for group in groups:
        arms = {words: _evaluated(ids, runs) for words, ids in group.arms.items()}
        full = next(iter(arms.values()))
        if not full:
            continue
        first = full[0]
        named = {(row["config_id"], row["point"]): row for row in rows_of(points)}
        pairs = list(_pairs({words: _configs(arm) for words, arm in arms.items()}, group.reference, named))
        key = json.dumps([[words, *pair] for words, *pair in pairs])
        if pairs and key not in found:
            changed = {words: changed_settings(arm[0], first) for words, arm in arms.items() if arm}
            found[key] = Section(_title(named[pairs[0][2]]), _full(first), _lines(pairs, changed, named, runs))
    return [section for section in found.values() if not section.rows.empty]


def _evaluated(run_ids: Sequence[str], runs: Sequence[Run]) -> list[Run]:
    by_id = {run.run_id: run for run in runs if "eval" in run.bodies}
    return [by_id[run_id] for run_id in run_ids if run_id in by_id]


def _configs(arm: Sequence[Run]) -> Configs:
    return {run.spec.method: run.config_id for run in arm}


def _pairs(
    arms: Mapping[str, Configs], reference: str | None, named: Mapping[Row, dict[str, Any]]
) -> Iterator[tuple[str, Row, Row]]:
    """(arm, a point of it, the full method's point that it is held against)."""
    full = next(iter(arms.values()))
    for words, configs in arms.items():
        for method, config in configs.items():
            mine = [row for row in named if row[0] == config and method in full]
            for row in sorted(mine, key=lambda row: natural(row[1])):
                dynamic = named[row]["kind"] == "dynamic"
                other = (full[method], reference if reference and dynamic else row[1])
                if other in named and other != row:
                    yield words, row, other


def _lines(
    pairs: Sequence[tuple[str, Row, Row]],
    changed: Mapping[str, str],
    named: Mapping[Row, dict[str, Any]],
    runs: Sequence[Run],
) -> pd.DataFrame:
    held = {row for _, *both in pairs for row in both}
    configs = {config for config, _ in held}
    mine = [run for run in runs if run.config_id in configs and "eval" in run.bodies]
    scores = {run.run_id: read_scores(run) for run in mine}
    by_row = {row: scores_by_seed(row, mine, scores) for row in sorted(held)}
    costs = {row: madds_by_seed(row, mine, scores) for row in held}
    try:
        bootstrap = PairedBootstrap(by_row)
    except ValueError as error:
        raise UserError(f"the arms of an ablation cannot be compared: {error}") from error
    lines = []
    for words, row, other in pairs:
        if not by_row[row].keys() & by_row[other].keys():
            continue
        ours, theirs = common_means(by_row[row], by_row[other])
        madds, full_madds = common_means(costs[row], costs[other])
        pair = difference(bootstrap, row, other, ours - theirs)
        lines.append(
            {name: named[row][name] for name in ("dataset", "split", "model", "method", "kind", "config_id", "point")}
            | {"metric": paired_metric(named[row]["metric"]), "arm": words, "changed": changed[words]}
            | {"against": other[1], "against_config": other[0]}
            | {"score_mean": ours, "full_score": theirs, "seeds": pair.seeds, "difference": pair.difference}
            | {"low": pair.low, "high": pair.high, "p_value": pair.p_value}
            | {"madds_mean": madds, "full_madds": full_madds, "madds_change": madds / full_madds - 1}
        )
    return pd.DataFrame(verdicts(lines))


def changed_settings(variant: Run, full: Run) -> str:
    """In which settings a run differs from another: "gate_lr=2.0, gate_trunk=separate"."""
    ours, theirs = variant.settings, full.settings
    keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    return ", ".join(f"{short(key)}={_spelled(ours[key]) if key in ours else 'default'}" for key in keys)


def _spelled(value: Any) -> str:
    return json.dumps(value).strip('"')


def _title(row: Mapping[str, Any]) -> str:
    return f"{row['split']}, {row['method']} on {row['model']}"


def _full(run: Run) -> str:
    """The settings of the full method that are not the defaults of a spec, but for how it was timed."""
    defaults = settings_of(RunSpec(run.spec.method, run.spec.model), {})
    differing = {key: value for key, value in run.settings.items() if value != defaults.get(key)}
    named = {key: value for key, value in differing.items() if not key.startswith("profile.")}
    return ", ".join(f"{short(key)}={_spelled(value)}" for key, value in sorted(named.items()))
