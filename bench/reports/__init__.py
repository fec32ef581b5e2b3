"""Reports: everything in `tables/`, `figures/` and `site/`, generated from the store and never edited. No torch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.reports.facts import Facts
    from bench.reports.layout import Chosen


def generate(
    results_root: str | Path,
    out_root: str | Path,
    command: str,
    *,
    ranks: bool = True,
    chosen: Chosen | None = None,
    facts: Facts | None = None,
) -> list[Path]:
    """Write all tables and figures of a results directory, and its site, below `out_root`; returns their paths.

    `command` is what the first line of every table names. Equal records give equal bytes, but for the latency files
    and the site. Without `ranks` rows are not compared with all others, for stores of very many rows. `chosen`: the
    rows and columns of the tables in Markdown and LaTeX. `facts`: what the site says of methods, models and images.
    Files of an earlier report that have nothing to show any more are removed. Raises UserError when there are no runs,
    a file of the store is damaged, the ranks need more memory than is free, or the disk refuses.
    """
    from bench.reports.facts import Facts
    from bench.reports.layout import Chosen
    from bench.reports.report import write_all  # pandas and matplotlib: not for those who only list reported rows

    chosen, facts = chosen or Chosen(), facts or Facts()
    with plain_strings():
        return write_all(Path(results_root), Path(out_root), command, ranks=ranks, chosen=chosen, facts=facts)


def plain_strings() -> AbstractContextManager[None]:
    """Within it, frames hold text as Python does: pyarrow, where it is installed, refuses half characters."""
    import pandas as pd

    return pd.option_context("mode.string_storage", "python")
