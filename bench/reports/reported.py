"""Numbers quoted from papers and other projects: `results/reported/*.jsonl`, one JSON object a line.

A reported row says where it stands and how its authors counted. It is never averaged with, ranked against,
or put into a column with what was measured here.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args, get_type_hints

import bench
from bench.core.errors import UserError, unknown
from bench.reports.layout import Column, Page, by, count, name_column

COLUMNS = [
    name_column("method"),
    name_column("model"),
    name_column("point"),
    Column("top1", "top-1 % (reported)", repr),
    Column("top5", "top-5 % (reported)", repr),
    Column("madds_printed", "MAdds (reported)"),
    Column("madds_exact", "MAdds (our count)", count),
    name_column("source"),
    name_column("table"),
    name_column("convention"),
    name_column("note"),
]
NOTE = """
Quoted, not measured here: what the named source prints, after its own training and counting. These numbers are never
ranked against, or put into a column with, those of the leaderboard.
"""

_UNITS = {"M": 10**6, "G": 10**9}
_COUNT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([MG])", re.ASCII)


@dataclass(frozen=True)
class ReportedRow:
    """One quoted result. Accuracies and errors are in percent, counts for one image.

    `madds` is what `madds_printed` says ("133M", "4.1G": the printed digits, with the unit of their column); both are
    None where the source prints no count. `madds_exact` is our own count of the same network, where there is one.
    `convention` says what the authors counted.
    """

    key: str
    method: str
    model: str
    dataset: str
    point: str
    top1: float
    source: str
    table: str
    convention: str
    note: str = ""
    madds: int | None = None
    madds_printed: str | None = None
    top5: float | None = None
    top1_error: float | None = None
    madds_exact: int | None = None


def reported_folder(results_root: Path) -> Path:
    """Where the reported rows lie: below the results directory, else in the package, else in its checkout."""
    checkout = Path(bench.__file__).parent.parent / "results" / "reported"
    places = (results_root / "reported", Path(__file__).parent / "quoted", checkout)
    return next((folder for folder in places if folder.is_dir()), checkout)


def load_reported(directory: str | Path) -> list[ReportedRow]:
    """All rows of all `*.jsonl` files in a directory, by file name and line.

    Raises UserError, naming file and line, for a row that is not JSON, lacks a key or has an unknown one,
    has a value of the wrong type, repeats a key, or contradicts itself (`problems`).
    """
    rows: dict[str, ReportedRow] = {}
    for file in sorted(Path(directory).glob("*.jsonl")):
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error
        for number, line in enumerate(lines, start=1):
            where = f"{file}, line {number}"
            row = _parse(line, where)
            if row.key in rows:
                raise UserError(f"{where}: the key {row.key!r} is there twice")
            if found := problems(row):
                raise UserError(f"{where}: {'; '.join(found)}")
            rows[row.key] = row
    return list(rows.values())


def problems(row: ReportedRow) -> list[str]:
    """What in a row contradicts something else in it; empty when nothing does."""
    found = [f"{name} is empty" for name in ("key", "source", "table", "convention") if not getattr(row, name)]
    found += _wrong_counts(row)
    if not 0 < row.top1 <= (100 if row.top5 is None else row.top5) <= 100:
        found.append(f"top1 {row.top1} and top5 {row.top5} are impossible")
    if row.top1_error is not None and Decimal(str(row.top1)) != 100 - Decimal(str(row.top1_error)):
        found.append(f"top1 {row.top1} is not 100 - {row.top1_error}")
    return found


def _wrong_counts(row: ReportedRow) -> list[str]:
    if row.madds is None or row.madds_printed is None:
        return [] if row.madds is row.madds_printed else ["madds and madds_printed belong together; one is missing"]
    if not _COUNT.fullmatch(row.madds_printed):
        return [f"madds_printed is {row.madds_printed!r}, not digits and M or G"]
    found = []
    if row.madds != printed_count(row.madds_printed):
        found.append(f"madds is {row.madds}, but {row.madds_printed} was printed")
    if row.madds_exact is not None and abs(row.madds_exact - row.madds) * 2 > _last_digit(row.madds_printed):
        found.append(f"madds_exact {row.madds_exact} does not round to {row.madds_printed}")
    return found


def printed_count(text: str) -> int:
    """The integer that "4.1G" or "569M" stands for. Raises ValueError for anything else."""
    match = _COUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a count such as 569M or 4.1G")
    return int(Decimal(match[1]) * _UNITS[match[2]])


def _last_digit(text: str) -> int:
    """What one step of the last printed digit is worth: 10**6 for 569M, 10**8 for 4.1G."""
    decimals = len(text[:-1].partition(".")[2])
    return _UNITS[text[-1]] // 10**decimals


def _parse(line: str, where: str) -> ReportedRow:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    if not isinstance(raw, dict):
        raise UserError(f"{where}: a reported row is a JSON object")
    known = [f.name for f in fields(ReportedRow)]
    for key in raw:
        if key not in known:
            raise UserError(f"{where}: {unknown('key', key, known)}")
    if missing := [f.name for f in fields(ReportedRow) if f.default is MISSING and f.name not in raw]:
        raise UserError(f"{where}: it lacks {', '.join(missing)}")
    for key, hint in get_type_hints(ReportedRow).items():
        if key in raw and not _fits(raw[key], hint):
            raise UserError(f"{where}: {key} cannot be {raw[key]!r}")
    return ReportedRow(**raw)


def _fits(value: Any, hint: Any) -> bool:
    kinds = get_args(hint) or (hint,)
    return not isinstance(value, bool) and isinstance(value, (*kinds, int) if float in kinds else kinds)


def reported_pages(rows: Sequence[ReportedRow]) -> list[Page]:
    """Numbers quoted from others, with where they stand and how they were counted; no page without any."""
    import pandas as pd

    if not rows:
        return []
    frame = pd.DataFrame([vars(row) for row in rows]).astype(object)
    return [Page("reported", "Reported by others", [NOTE], by("dataset", frame.where(frame.notna(), None), COLUMNS))]
