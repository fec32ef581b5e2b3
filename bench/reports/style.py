"""How figures look: settings, colours, ticks, and files without a date in them.

Nothing here is global: figures are drawn inside `matplotlib.rc_context(RC)` and without pyplot.
"""

import io
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.core.files import write_atomic
from bench.reports.layout import make_folder

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.hashsalt": "slicebench",  # ids in the SVG depend on nothing but the drawing
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # journals refuse the default
}


KINDS: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""The kinds of file of a figure, each with the metadata that would differ from day to day or machine to machine."""


class Look(NamedTuple):
    """Colour and marker of one method."""

    color: str
    marker: str


# Colours of Okabe and Ito (2008): told apart with every common colour vision. A method keeps its look in all figures.
LOOKS = {
    "ds_net": Look("#D55E00", "o"),
    "ds_net_pp": Look("#E69F00", "o"),
    "slice_cascade": Look("#D55E00", "*"),
    "us_net": Look("#0072B2", "s"),
    "s_net": Look("#56B4E9", "s"),
    "autoslim": Look("#CC79A7", "P"),
    "uniform": Look("#000000", "D"),
    "plain": Look("#000000", "s"),
    "pretrained": Look("#000000", "P"),
    "pruning": Look("#009E73", "^"),
    "random_gate": Look("#8C8C8C", "X"),
    "fixed_choice": Look("#B8860B", "v"),
    "sliced_order": Look("#8C8C8C", "^"),
    "class_prior": Look("#8C8C8C", "D"),
    "early_exit": Look("#009E73", "o"),
    "layer_skip": Look("#0072B2", "o"),
    "channel_gate": Look("#CC79A7", "o"),
    "token_prune": Look("#56B4E9", "o"),
    "thinking_vit": Look("#000000", "o"),
    "nested_vit": Look("#0072B2", "P"),
}
MARKERS = "osD^vPX*hp<>8"
FRONT_COLOR = "#C4C4C4"
_OTHERS = [
    Look(color, marker) for marker in "p*h8<>" for color in ("#CC79A7", "#56B4E9", "#E69F00", "#009E73", "#0072B2")
]
_TICKS = [
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 1.5, 2, 3, 4, 6, 8),
    (1, 1.2, 1.4, 1.6, 1.8, 2, 2.3, 2.6, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9),
]


def looks_of(methods: list[str]) -> dict[str, Look]:
    """A look for each method: its own, or for one without, the next that is free, in alphabetical order."""
    others = iter(_OTHERS * (1 + len(methods) // len(_OTHERS)))
    return {method: LOOKS[method] if method in LOOKS else next(others) for method in sorted(set(methods))}


def log_axis(axes: Axes, values: list[float], unit: str = "") -> None:
    """A logarithmic x axis around the values with at least four labelled ticks: "200 k", "1.5 M" with a unit."""
    low, high = min(values), max(values)
    margin = max((high / low) ** 0.06, 1.05)
    axes.set_xscale("log")
    axes.set_xlim(low / margin, high * margin)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(low / margin, high * margin)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human(value) + unit))


def _ticks(low: float, high: float) -> list[float]:
    """The coarsest ladder of round numbers that has four steps in the range."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ladders = [[step * 10.0**k for k in decades for step in steps if low <= step * 10.0**k <= high] for steps in _TICKS]
    return next((ladder for ladder in ladders if len(ladder) >= 4), ladders[-1])


def human(value: float) -> str:
    """1500000 as "1.5 M"."""
    for factor, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


def slug(text: str) -> str:
    """A split's id as part of a file name: "digits/official@1:test" is "digits-official-1-test"."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """The figure as PNG, SVG and PDF. Equal drawings give equal bytes: no date, no program name."""
    make_folder(folder)
    paths = []
    for kind, metadata in KINDS.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        paths.append(folder / f"{name}.{kind}")
        write_atomic(paths[-1], buffer.getvalue())
    return paths
