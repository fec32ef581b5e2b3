"""Reports: everything in `tables/` and `figures/`, generated from the store and never edited. Needs no torch."""

from pathlib import Path


def generate(results_root: str | Path, out_root: str | Path, command: str, *, ranks: bool = True) -> list[Path]:
    """Write all tables and figures of a results directory below `out_root`; returns their paths.

    `command` is what the first line of every table names. Equal records give equal bytes, but for the latency files.
    Without `ranks` rows are not compared with all others, for stores of very many rows.
    Files of an earlier report that have nothing to show any more are removed. Raises UserError when there are no runs,
    a file of the store is damaged, the ranks need more memory than is free, or the disk refuses.
    """
    from bench.reports.report import write_all  # pandas and matplotlib: not for those who only list reported rows

    return write_all(Path(results_root), Path(out_root), command, ranks=ranks)
