"""The series of a figure: one for each config, with a look of its own and an entry in the legend."""

import math
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.reports.rows import groups_of, rows_of, select
from bench.reports.style import FRONT_COLOR, MARKERS, Look, looks_of

DYNAMIC_SIZE, STATIC_SIZE = 8, 5
MOST = 40
"""Configs that a figure names; the points of those beyond are grey dots."""
MARGIN = 0.5  # inches above and below a legend, a title included


@dataclass(frozen=True)
class Series:
    """How one config is drawn: fixed networks joined by a line, dynamic points large, controls hollow or dotted."""

    config_id: str
    label: str
    look: Look
    dynamic: bool
    control: bool

    @property
    def drawing(self) -> dict:
        """What curve and legend entry have in common, as matplotlib's keywords."""
        hollow = self.control and not self.dynamic
        return {
            "color": self.look.color,
            "marker": self.look.marker,
            "markersize": DYNAMIC_SIZE if self.dynamic else STATIC_SIZE,
            "markerfacecolor": "white" if hollow else self.look.color,
            "markeredgecolor": self.look.color,
            "linestyle": "none" if self.dynamic else ":" if self.control else "-",
            "linewidth": 1.1,
        }


def series_of(points: pd.DataFrame) -> list[Series]:
    """One series for each config, MOST at most: dynamic methods first, controls last, each by name.

    Configs of one method share its colour and differ in their marker; model and variant are named where they differ.
    """
    looks = looks_of(list(points["method"]))
    models = {method: set(group["model"]) for (method,), group in groups_of(points, "method")}
    drawn: dict[str, int] = {}
    found = []
    for (method, model, variant, config_id), group in groups_of(points, "method", "model", "variant", "config_id"):
        look, number = looks[method], drawn.setdefault(method, 0)
        drawn[method] += 1
        if number:
            look = look._replace(marker=MARKERS[(MARKERS.index(look.marker) + number) % len(MARKERS)])
        dynamic, control = "dynamic" in set(group["kind"]), any(group["control"])
        kind = "control" if control else "dynamic" if dynamic else "static"
        names = [method, model if len(models[method]) > 1 else "", variant]
        label = f"{', '.join(name for name in names if name)} ({kind})".replace("$", r"\$")  # no mathematics
        found.append(Series(config_id, label, look, dynamic, control))
    front = set(select(points, on_front=True)["config_id"]) if len(found) > MOST else set()
    kept = sorted(found, key=lambda series: (series.config_id not in front, series.control, not series.dynamic))[:MOST]
    return sorted(kept, key=lambda series: (series.control, not series.dynamic, series.label))


def draw(axes: Axes, series: Series, points: pd.DataFrame, x: str, x_std: str | None = None) -> None:
    """Those of the points that are of this config: accuracy in percent over the column `x`, deviations as bars."""
    # In order of cost whatever the axis, so that a noisy timing does not redraw which network is next to which.
    rows = rows_of(select(points, config_id=series.config_id).sort_values(by="madds_mean"))
    if not rows:
        return
    axes.errorbar(
        [row[x] for row in rows],
        [100 * row["score_mean"] for row in rows],
        xerr=_bars([row[x_std] for row in rows]) if x_std else None,
        yerr=_bars([100 * row["score_std"] for row in rows]),
        elinewidth=0.8,
        zorder=4 if series.dynamic else 3,
        **series.drawing,
    )


def draw_rest(axes: Axes, series: list[Series], points: pd.DataFrame, x: str) -> None:
    """The points of all configs that have no series, unnamed."""
    rest = points[~points["config_id"].isin([one.config_id for one in series])]
    axes.plot(rest[x], 100 * rest["score_mean"], linestyle="none", marker=".", color=FRONT_COLOR, zorder=2)


def _bars(spread: list[float]) -> list[float] | None:
    """Error bars; none where there is no spread to show."""
    values = [0.0 if math.isnan(value) else value for value in spread]
    return values if any(values) else None


def draw_front(axes: Axes, front: pd.DataFrame, x: str) -> None:
    """The Pareto front as a staircase: what is reached with at most so much."""
    front = front.sort_values(by=x)
    axes.step(front[x], 100 * front["score_mean"], where="post", color=FRONT_COLOR, linewidth=2.5, zorder=1)


def legend(figure: Figure, series: list[Series], front: bool = False) -> None:
    """Outside the data, on the right; the figure grows to hold it."""
    handles = [Line2D([], [], label=_wrapped(one.label), **one.drawing) for one in series]
    if front:
        handles.append(Line2D([], [], color=FRONT_COLOR, linewidth=2.5, label="Pareto front of all rows"))
    box = figure.legend(handles=handles, loc="outside right upper")
    figure.draw_without_rendering()  # how large it is, is known then
    needed = box.get_window_extent().height / figure.dpi + MARGIN
    figure.set_figheight(max(figure.get_figheight(), needed))


def legend_width(series: list[Series]) -> float:
    """About how many inches the legend takes beside the data."""
    return 0.6 + 0.067 * max(len(line) for one in series for line in _wrapped(one.label).split("\n"))


def _wrapped(label: str, width: int = 34) -> str:
    """A long label on several lines, broken at its commas, so that it leaves the data their room."""
    lines = [""]
    for part in label.split(", "):
        lines += [part] if lines[-1] and len(lines[-1]) + len(part) > width else []
        if lines[-1] != part:
            lines[-1] += (", " if lines[-1] else "") + part
    return ",\n".join(lines)
