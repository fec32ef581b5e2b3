"""Two methods, runs or result directories against each other: at equal cost, and the cost of equal accuracy.

Each side is the set of its points. What it reaches at a budget is its best blind mixture of two of them (their upper
hull), whose expected score of each image is known, so that two sides are compared image by image and seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.core.errors import UserError, unknown
from bench.core.metrics import METRICS, paired_metric
from bench.reports.controls import on_the_hull
from bench.reports.differences import Scored, compared, scores_by_row
from bench.reports.latency import latency_frame
from bench.reports.rows import rows_of
from bench.reports.runs import Run, read_runs
from bench.reports.variants import variants
from bench.statistics.intervals import summarise
from bench.statistics.tradeoff import cost_to_reach

Key = tuple[str, str]
"""(config_id, point)"""
Setting = tuple[str, str, int, int]
"""Device, form, batch, threads."""


SAVED = "equal accuracy: MAdds saved"


class Side(NamedTuple):
    """points: by seed, each point's scores of the images and mean MAdds. latency: median ms of each point, by setting.
    digests: of the test images. metric: the name of the one that is compared."""

    name: str
    split: str
    metric: str
    digests: frozenset[str]
    points: Mapping[int, Mapping[Key, Scored]]
    latency: Mapping[Setting, Mapping[Key, float]]

    def priced(self, seed: int, cost: Mapping[Key, float] | None) -> dict[str, Scored]:
        """The points of a seed that have this cost; MAdds where None."""
        points = self.points[seed]
        if cost is None:
            return {" ".join(key): one for key, one in points.items()}
        return {" ".join(key): one._replace(madds=cost[key]) for key, one in points.items() if key in cost}


def side(text: str, results: Path) -> Side:
    """What a word of the command line stands for: a results directory, a run_id, a config_id, or a method.

    Controls count only where they are named themselves. Raises UserError for a word that stands for nothing, for
    several splits, or for a method in several configurations.
    """
    folder = Path(text)
    runs = [run for run in read_runs(folder if (folder / "runs").is_dir() else results) if run.points]
    if (folder / "runs").is_dir():
        chosen = [run for run in runs if run.control is None]
    else:
        chosen = [run for run in runs if text in (run.run_id, run.config_id, run.spec.method)]
        if not chosen:
            raise unknown("run, config_id or method", text, {n for r in runs for n in (r.spec.method, r.run_id)})
        names = {run.config_id: label or "defaults" for run in chosen for label in [variants(runs)[run.config_id]]}
        if len(names) > 1:
            listed = "; ".join(f"{config} ({label})" for config, label in sorted(names.items()))
            raise UserError(f"{text} was run in {len(names)} ways; name one by its config_id: {listed}")
    splits = {point.score.split for run in chosen for point in run.points.values()}
    if len(splits) != 1:
        raise UserError(f"{text} was judged on several splits ({', '.join(sorted(splits))}); name a run or a config_id")
    return _side(text, splits.pop(), chosen)


def _side(name: str, split: str, runs: Sequence[Run]) -> Side:
    points: dict[int, dict[Key, Scored]] = {}
    for (_, config, point), by_seed in scores_by_row(runs).items():
        for seed, scored in by_seed.items():
            points.setdefault(seed, {})[config, point] = scored
    latency: dict[Setting, dict[Key, float]] = {}
    for row in rows_of(latency_frame(runs)):
        setting = (row["device"], row["form"], row["batch"], row["threads"])
        latency.setdefault(setting, {})[row["config_id"], row["point"]] = row["median_ms"]
    digests = {run.bodies["eval"]["results"].get("digests", {}).get("test", "") for run in runs}
    headline = next(iter(runs[0].points.values())).headline.name
    return Side(name, split, paired_metric(headline), frozenset(digests - {""}), points, latency)


def comparison(first: Side, second: Side) -> tuple[str, list[dict[str, Any]]]:
    """One sentence, and a row for each budget that a point of either side sets.

    A row: what (is equal), at, difference, low, high (fractions), seeds, and the scores of both; rows of equal accuracy
    have the share of the second's MAdds that the first saves. Raises UserError for sides on other images, or without a
    seed in common.
    """
    if first.split != second.split or (first.digests and second.digests and first.digests != second.digests):
        raise UserError(f"{first.name} and {second.name} were not judged on the same images")
    seeds = sorted(first.points.keys() & second.points.keys())
    if not seeds:
        raise UserError(f"{first.name} and {second.name} share no seed, so nothing pairs them")
    rows = _at_equal(first, second, seeds, "MAdds/image", None, None)
    for setting in sorted(first.latency.keys() & second.latency.keys()):
        rows += _at_equal(first, second, seeds, _spelled(setting), first.latency[setting], second.latency[setting])
    rows += _at_equal_accuracy(first, second, seeds, rows)
    return _sentence(first, second, rows), rows


def _spelled(setting: Setting) -> str:
    device, form, batch, threads = setting
    return f"ms ({device}, {form}, batch {batch}, {threads} thread{'' if threads == 1 else 's'})"


def _at_equal(
    first: Side,
    second: Side,
    seeds: Sequence[int],
    what: str,
    cost_of_first: Mapping[Key, float] | None,
    cost_of_second: Mapping[Key, float] | None,
) -> list[dict[str, Any]]:
    """The difference at every cost of a point of either side that both can pay, cheapest first."""
    priced = [
        {seed: each.priced(seed, cost) for seed in seeds}
        for each, cost in ((first, cost_of_first), (second, cost_of_second))
    ]
    if not all(points for one in priced for points in one.values()):
        return []
    least = max(min(scored.madds for scored in points.values()) for one in priced for points in one.values())
    means = [np.mean([points[name].madds for points in one.values()]) for one in priced for name in _common(one)]
    # The mean over seeds of a gate's cost lies below what the costliest seed pays: nothing is bought below `least`.
    costs = [max(float(mean), least) for mean in means if mean >= 0.98 * least]
    budgets = sorted({f"{cost:.6g}": cost for cost in costs}.values())
    rows = []
    for budget in budgets:
        mixed = [
            {seed: mixture[0] for seed, points in one.items() if (mixture := on_the_hull(max(budget, least), points))}
            for one in priced
        ]
        if pair := compared(*mixed):
            names = {"what": f"equal {what}", "at": budget, "seeds": pair["seeds"]}
            scores = {"first": pair["score_mean"], "second": pair["other_score"]}
            rows.append(names | scores | {name: pair[name] for name in ("difference", "low", "high")})
    return rows


def _common(by_seed: Mapping[int, Mapping[str, Scored]]) -> list[str]:
    names = [set(points) for points in by_seed.values()]
    return sorted(set.intersection(*names))


def _at_equal_accuracy(
    first: Side, second: Side, seeds: Sequence[int], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The share of MAdds that the first saves at the accuracies that the second has at the budgets of `rows`.

    The interval is the t interval over seeds of the logarithm of the ratio; images have no part in it.
    """
    lines = []
    for level in sorted({row["second"] for row in rows if row["what"] == "equal MAdds/image"}):
        ratios = []
        for seed in seeds:
            spent = []
            for each in (first, second):
                points = list(each.points[seed].values())
                scores = [float(one.score.mean(dtype=np.float64)) for one in points]
                spent.append(cost_to_reach([one.madds for one in points], scores, level))
            ratios.append(math.log(spent[0] / spent[1]))
        if any(math.isnan(ratio) for ratio in ratios):
            continue  # a seed of one side does not get there
        ratio = summarise(ratios)
        saved: Callable[[float], float] = lambda logarithm: 1 - math.exp(logarithm)
        line = {"what": SAVED, "at": level, "seeds": len(seeds), "first": None, "second": None}
        lines.append(line | {"difference": saved(ratio.mean), "low": saved(ratio.high), "high": saved(ratio.low)})
    return lines


def span(row: Mapping[str, Any]) -> str:
    """The interval of a row, in percent or points; that of savings rests on seeds and is none with one."""
    if math.isnan(row["low"]):
        return "n/a"
    low = f"{100 * row['low']:+.2f}" if row["low"] > -10 else "below -1,000"  # of savings: ten times the MAdds
    return f"[{low}, {100 * row['high']:+.2f}]"


def at(row: Mapping[str, Any]) -> str:
    """The cost of a row; whole where it is large, so that it is what tables print."""
    return f"{row['at']:,.0f}" if row["at"] >= 1000 else f"{row['at']:.3g}"


def _sentence(first: Side, second: Side, rows: Sequence[Mapping[str, Any]]) -> str:
    """The middle row of each kind, in words; of the latencies the first alone."""
    kinds = list(dict.fromkeys(row["what"] for row in rows))
    timed = [kind for kind in kinds if kind not in ("equal MAdds/image", SAVED)]
    kinds = [kind for kind in kinds if kind not in timed[1:]]
    parts = []
    for kind in kinds:
        of_kind = [row for row in rows if row["what"] == kind]
        row = of_kind[len(of_kind) // 2]
        sure = "" if row["low"] > 0 or row["high"] < 0 else ", no difference shown"
        if math.isnan(row["low"]):
            interval, sure = "", " (one seed, so there is no interval)"
        else:
            interval = f" {span(row)}"
        if row["first"] is None:
            saved = row["difference"]
            amount = (
                f"saves {100 * saved:.1f} % of the MAdds" if saved > 0 else f"takes {-100 * saved:.1f} % more MAdds"
            )
            saving = f"{interval and ', saving' + interval}{sure}"
            parts.append(f"at {100 * row['at']:.2f} % {METRICS[second.metric].title} it {amount}{saving}")
        else:
            unit = kind.removeprefix("equal ")
            parts.append(f"{100 * row['difference']:+.2f} points{interval} at {at(row)} {unit}{sure}")
    if not parts:
        return f"{first.name} and {second.name} have no cost at which both run."
    seeds = rows[0]["seeds"]
    return f"{first.name} against {second.name}, {seeds} seed{'' if seeds == 1 else 's'}: {'; '.join(parts)}."
