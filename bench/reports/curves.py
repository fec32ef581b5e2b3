"""Each method's accuracy-MAdds curve in a few numbers, with intervals over seeds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from bench.reports.rows import groups_of
from bench.statistics.intervals import SeedSummary
from bench.statistics.tradeoff import Curve, area_under_curve, common_range, hypervolume, over_seeds, score_at

BUDGETS = (0.25, 0.5, 0.75)
"""Fractions of the MAdds of the split's costliest point at which accuracies are read off the curves."""
REFERENCE = 1.1
"""The hypervolume's reference: this many times the MAdds of the split's costliest point, and no accuracy."""

CURVE = ["dataset", "split", "metric", "model", "method", "variant", "config_id"]


def curves_frame(observed: pd.DataFrame) -> pd.DataFrame:
    """Long form: one row for each curve (the points of one config) and measure.

    observed: as by `observations`. Columns: CURVE, points, measure, madds_low, madds_high (the range of an area; twice
    the budget of an accuracy; twice the reference of a hypervolume), and mean, std, n, low, high over the seeds, as
    fractions. An area is the mean accuracy over the logarithm of the MAdds between the two; a hypervolume the dominated
    share of the box from no MAdds to the reference and from no accuracy to 1. nan where a seed's curve does not get
    down to the budget.
    """
    rows = []
    for _, group in groups_of(observed, "split"):
        curves = {key: _by_seed(curve) for key, curve in groups_of(group, *CURVE)}
        several = [c for by_seed in curves.values() for c in by_seed if len(np.unique(np.asarray(c[0]))) > 1]
        costliest = max(float(madds) for madds in group["madds_mean"])
        for key, by_seed in curves.items():
            points = max(len(np.asarray(costs)) for costs, _ in by_seed)
            for measured in _measures(by_seed, costliest, common_range(several)):
                rows.append(dict(zip(CURVE, key, strict=True)) | {"points": points} | measured)
    return pd.DataFrame(rows)


def _by_seed(curve: pd.DataFrame) -> list[Curve]:
    return [(seed["madds_mean"].to_numpy(), seed["score"].to_numpy()) for _, seed in groups_of(curve, "seed")]


def _measures(by_seed: list[Curve], costliest: float, span: tuple[float, float] | None) -> Iterator[dict[str, Any]]:
    """Every measure of one curve; the area only where there are several points and a range common to all curves."""
    for fraction in BUDGETS:
        budget = fraction * costliest
        found = over_seeds(by_seed, lambda costs, scores, at=budget: float(score_at(costs, scores, at)[0]))
        yield _row("accuracy", budget, budget, found)
    if span and all(len(np.asarray(costs)) > 1 for costs, _ in by_seed):
        found = over_seeds(by_seed, lambda costs, scores: area_under_curve(costs, scores, *span))
        yield _row("area", *span, found)
    limit = REFERENCE * costliest
    yield _row("hypervolume", limit, limit, over_seeds(by_seed, lambda c, s: hypervolume(c, s, (limit, 0.0)) / limit))


def _row(measure: str, low: float, high: float, found: SeedSummary) -> dict[str, Any]:
    spread = {"mean": found.mean, "std": found.std, "n": found.n, "low": found.low, "high": found.high}
    return {"measure": measure, "madds_low": low, "madds_high": high, **spread}
