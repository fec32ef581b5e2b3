"""The figure of where a network's time goes (`slicebench profile MODEL --explain`)."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.core.errors import UserError
from bench.reports.style import RC


def explained_figure(values: dict[str, Any], path: Path) -> None:
    """Two panels a batch size: each stage's share of multiply-adds beside its share of time, and the ladder's line.

    Raises:
        UserError: the file cannot be written.
    """
    with mpl.rc_context(RC):
        parts = values["batches"]
        figure = Figure(figsize=(9.2, 3.4 * len(parts)), layout="constrained")
        panels = figure.subplots(len(parts), 2, squeeze=False)
        for (shares, line), part in zip(panels, parts, strict=True):
            _draw_shares(shares, part)
            _draw_line(line, part)
        figure.suptitle(
            f"{values['model']}, {values['choice']}, {values['image_size']} x {values['image_size']}", x=0.01, ha="left"
        )
        try:
            figure.savefig(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be written: {error}") from error


def _draw_shares(axes: Any, part: dict[str, Any]) -> None:
    stages = part["stages"]
    total = sum(stage["madds"] for stage in stages)
    places = range(len(stages))
    axes.barh([place - 0.2 for place in places], [100 * stage["madds"] / total for stage in stages], 0.4,
              color="#56B4E9", label="multiply-adds")  # fmt: skip
    axes.barh([place + 0.2 for place in places], [100 * stage["share"] for stage in stages], 0.4,
              color="#D55E00", label="time")  # fmt: skip
    axes.set_yticks(list(places), [stage["name"] for stage in stages])
    axes.invert_yaxis()
    axes.set_xlabel("share of the whole network (%)")
    axes.set_title(f"stages by their output, batch {part['batch']}", loc="left")
    axes.legend(loc="lower right")


def _draw_line(axes: Any, part: dict[str, Any]) -> None:
    madds, ms = zip(*part["ladder"], strict=True)
    millions = [count / 1e6 for count in madds]
    axes.plot(millions, ms, "o", color="#0072B2")
    ends = [0, max(millions)]
    axes.plot(ends, [part["intercept"] + part["slope"] * end for end in ends], color="#8C8C8C", linewidth=1)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("million multiply-adds per image")
    axes.set_ylabel("ms per batch")
    axes.set_title(
        f"{part['intercept']:.2f} ms + {part['slope']:.4f} ms per million, off by {100 * part['error']:.1f} %",
        loc="left",
    )
