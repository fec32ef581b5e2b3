"""The generated figures: accuracy against MAdds, accuracy against latency, and where dynamic points send images."""

from pathlib import Path
from textwrap import fill

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.reports.frame import natural
from bench.reports.layout import metric_of
from bench.reports.rows import groups_of, rows_of, select
from bench.reports.series import Series, draw, draw_front, draw_rest, legend, legend_width, series_of
from bench.reports.style import RC, log_axis, save, slug

FORMS = ("extracted", "view")
"""The form whose latency is drawn: the first of these that a point was timed in, else any."""
MOST_ROUTES = 16


def write_accuracy_madds(folder: Path, points: pd.DataFrame) -> list[Path]:
    """One figure for each split: every row of the leaderboard, methods as curves, and the Pareto front of all rows."""
    written = []
    for (split,), group in groups_of(points, "split"):
        with mpl.rc_context(RC):
            series = series_of(group)
            figure = Figure(figsize=(5.8 + legend_width(series), 4.6), layout="constrained")
            axes = figure.add_subplot()
            for one in series:
                draw(axes, one, group, "madds_mean", "madds_std")
            draw_rest(axes, series, group, "madds_mean")
            draw_front(axes, select(group, on_front=True), "madds_mean")
            log_axis(axes, list(group["madds_mean"]))
            axes.set_xlabel("multiply-adds per image (MAdds, log scale)")
            axes.set_ylabel(f"{metric_of(group).axis} (%)")
            axes.set_title(_title(split, group).replace(", ", "\n", 1), loc="left")
            legend(figure, series, front=True)
            written += save(figure, folder, f"accuracy_madds_{slug(split)}")
    return written


def write_accuracy_latency(folder: Path, points: pd.DataFrame, latency: pd.DataFrame) -> list[Path]:
    """One figure for each split, with a panel for each device, number of threads and batch size."""
    if latency.empty:
        return []
    written = []
    timed = points.merge(_one_form(latency), on=["config_id", "point"], suffixes=("", "_timed"))
    for (split,), group in groups_of(timed, "split"):
        panels, series = list(groups_of(group, "device", "threads", "batch")), series_of(group)
        with mpl.rc_context(RC):
            figure = Figure(figsize=(0.4 + 3.7 * len(panels) + legend_width(series), 4.6), layout="constrained")
            grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
            for axes, (_, panel) in zip(grid, panels, strict=True):
                _draw_latency(axes, panel, series)
            grid[0].set_ylabel(f"{metric_of(group).axis} (%)")
            figure.suptitle(_title(split, group), x=0.01, ha="left", fontsize=RC["axes.titlesize"])
            legend(figure, series)
            written += save(figure, folder, f"accuracy_latency_{slug(split)}")
    return written


def _draw_latency(axes: Axes, panel: pd.DataFrame, series: list[Series]) -> None:
    for one in series:
        draw(axes, one, panel, "median_ms")
    draw_rest(axes, series, panel, "median_ms")
    log_axis(axes, list(panel["median_ms"]))
    axes.set_xlabel("median latency (ms per batch, log scale)")
    how, forms = rows_of(panel)[0], ", ".join(sorted(set(panel["form"])))
    busy = "\n(machine busy while timed)" if any(panel["busy"]) else ""
    threads = _plural(how["threads"], "thread")
    axes.set_title(f"batch {how['batch']}, {how['device']}, {threads}, {forms}{busy}", loc="left")


def write_routing(folder: Path, points: pd.DataFrame, observed: pd.DataFrame) -> list[Path]:
    """One figure for each split that has dynamic points: the share of images on each route, a panel for each point."""
    written = []
    for (split,), group in groups_of(select(points, kind="dynamic", control=False), "split"):
        names = ("model", "method", "variant", "point")
        rows = sorted(rows_of(group), key=lambda row: [natural(row[name]) for name in names])
        columns = min(2, len(rows))
        lines = -(-len(rows) // columns)
        with mpl.rc_context(RC):
            figure = Figure(figsize=(4.4 * columns, 0.5 + 2.4 * lines), layout="constrained")
            panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
            for axes in panels.flat[len(rows) :]:
                axes.set_visible(False)
            for axes, row in zip(panels.flat, rows, strict=False):
                _draw_routing(axes, row, select(observed, config_id=row["config_id"], point=row["point"]))
            for axes in panels[:, 0]:
                axes.set_ylabel("images (%)")
            panels[0, 0].set_ylim(0, 1.1 * panels[0, 0].get_ylim()[1])  # shared by all panels
            title = _title(split, group, "dots: single seeds")
            figure.suptitle(title, x=0.01, ha="left", fontsize=RC["axes.titlesize"])
            written += save(figure, folder, f"routing_{slug(split)}")
    return written


def _draw_routing(axes: Axes, row: dict, observed: pd.DataFrame) -> None:
    shares = _busiest(row["routing"])
    positions = range(len(shares))
    axes.bar(positions, [100 * share for share in shares.values()], color="#56B4E9", width=0.75)
    for routing, images in zip(observed["routing"], observed["images"], strict=True):
        heights = [100 * routing.get(route, 0) / images for route in shares if route != "other"]
        axes.plot(range(len(heights)), heights, linestyle="none", marker="o", markersize=3, color="black", alpha=0.6)
    axes.set_xticks(positions, list(shares), rotation=0 if len(shares) <= 8 else 60)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("route (choice taken at each gate)")
    name = fill(", ".join(name for name in (row["method"], row["variant"]) if name), 54)
    axes.set_title(f"{name}\n{row['point']}, mean {row['madds_mean']:,.0f} MAdds", loc="left")


def _busiest(routing: dict[str, float]) -> dict[str, float]:
    """The routes with the most images, in natural order, and the rest as "other" where there are many."""
    if len(routing) <= MOST_ROUTES:
        return routing
    kept = sorted(sorted(routing, key=lambda route: -routing[route])[: MOST_ROUTES - 1], key=natural)
    return {route: routing[route] for route in kept} | {"other": 1 - sum(routing[route] for route in kept)}


def _one_form(latency: pd.DataFrame) -> pd.DataFrame:
    """For each point and setting the row of its preferred form."""
    order = latency["form"].map(lambda form: FORMS.index(form) if form in FORMS else len(FORMS))
    ranked = latency.assign(order=order).sort_values(["order", "form"], kind="stable")
    return ranked.drop_duplicates(["config_id", "point", "device", "threads", "batch"])


def _title(split: str, rows: pd.DataFrame, spread: str = "bars: standard deviation over seeds") -> str:
    low, high = min(rows["seeds"]), max(rows["seeds"])
    seeds = _plural(low, "seed") if low == high else f"{low} to {high} seeds"
    return f"{split}, {rows_of(rows)[0]['images']:,} images, {seeds}" + (f" ({spread})" if high > 1 else "")


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
