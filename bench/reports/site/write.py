"""The site's files: templates filled in, scripts and styles copied beside them. Nothing is fetched when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.core.files import write_atomic
from bench.core.metrics import METRICS
from bench.reports.differences import DIFFERENCE
from bench.reports.facts import Facts
from bench.reports.gates import AGAINST
from bench.reports.layout import NAMES, Column, Page, Section, Stamp, make_folder
from bench.reports.leaderboard import NOTE, RANKS_NOTE
from bench.reports.rows import rows_of
from bench.reports.site.board import Board, Store, boards

HERE = Path(__file__).parent
VENDORED = json.loads((HERE / "vendor" / "manifest.json").read_text(encoding="utf-8"))
"""Name, version, licence and source of each library, and the SHA-256 of its files."""
MOST_PLAIN = 1000
"""Rows of the leaderboard that are also there without scripts; the rest are in the CSV file."""


EARLY = {column.name for column in (*DIFFERENCE, *AGAINST)}
"""Columns that say what a gate is worth: they stand right after the names, where a window of 1280 pixels shows them."""
SITE_NOTES = {
    NOTE: """
Cheapest first. The score is the mean over the seeds. The 95 % interval says where the mean score would lie with other
seeds and other images of the same kind; with one seed it covers other images alone. MAdds are multiply-adds of
convolutions and matrix products, mean over the images, gates included; a point is named by what decides and by its
share of those of the costliest row of its model. Controls look at no image. More columns, such as every point's own
name and the standard deviation over seeds, are chosen below the table.
""",
    RANKS_NOTE: """
A rank is the range of places that the data leave open: from one plus the number of rows that are surely better, to the
number of rows less those that are surely worse; tied with: how many rows are neither. Surely means that the paired
difference over seeds and images is significant at 5 % after Holm's correction over all pairs of rows of this page: all
its ranges hold at once, but in one page of twenty. Fewer than three seeds get none. Among the columns that can be
chosen: the least difference in percentage points that so many seeds could show, in a single comparison with a row that
varies as much; whether no row of at most the same MAdds is surely better; and the range among the rows of at most 25,
50 or 75 % of the largest MAdds.
""",
}
"""What the leaderboard's notes say here, where it has other columns than in the tables."""


def write_site(folder: Path, stamp: Stamp, store: Store, pages: Sequence[Page], facts: Facts) -> list[Path]:
    """index.html, a page for each test split, methods.html, numbers.html and assets/; returns their paths.

    pages: the tables, of which each page shows those of its split, and the index the others.
    """
    shown = boards(store, facts, folder)
    used = {run.spec.method for run in store.runs}
    common = {"stamp": stamp.line, "boards": shown, "sections": _sections, "most_plain": MOST_PLAIN}
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"inline": inline, "code": code, "for_site": for_site}

    def fill(template: str, name: str, **values: Any) -> Path:
        text = environment.get_template(template).render(common | {"here": name} | values)
        return _write(folder / name, text.encode())

    others = [page for page in pages if not any(_sections(page, board) for board in shown) and page.name != "reported"]
    quoted = [section for page in pages if page.name == "reported" for section in page.sections]
    judged = {run.spec.data.name for run in store.runs}
    of_these = [section for section in quoted if rows_of(section.frame)[0]["dataset"] in judged]
    written = [
        fill(
            "index.html",
            "index.html",
            pages=others,
            quoted=[page for page in pages if page.name == "reported"],
            of_these=of_these,
            elsewhere=sum(len(section.frame) for section in quoted) - sum(len(section.frame) for section in of_these),
        ),
        fill(
            "methods.html", "methods.html", cards=sorted(facts.cards, key=lambda card: card.name not in used), used=used
        ),
        fill("numbers.html", "numbers.html", pages=pages, metrics=METRICS.values(), vendored=VENDORED),
    ]
    for board in shown:
        named = {page.name: page for page in pages if _sections(page, board)}
        named |= {name: _worth_first(named[name]) for name in ("controls", "gates") if name in named}
        studies = [page for page in named.values() if page.is_study]
        written.append(fill("dataset.html", f"{board.name}.html", board=board, pages=named, studies=studies))
    for file in sorted((HERE / "assets").iterdir()):
        written.append(_write(folder / "assets" / file.name, file.read_bytes()))
    for library in VENDORED:
        for name, digest in library["files"].items():
            content = (HERE / "vendor" / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise RuntimeError(f"{name} is not the file of {library['name']} {library['version']}")
            written.append(_write(folder / "assets" / name, content))
    return written


def _sections(page: Page, board: Board) -> list[Section]:
    """The tables of a page that are about one split, or its dataset."""

    def is_here(section: Section) -> bool:
        row = rows_of(section.frame)[0]
        return row["split"] == board.split if "split" in row else row.get("dataset") == board.dataset

    return [section for section in page.sections if is_here(section)]


def _worth_first(page: Page) -> Page:
    """A page whose columns of differences and verdicts stand right after the names."""
    names = {column.name for column in NAMES} | {"control"}

    def place(column: Column) -> int:
        return 0 if column.name in names else 1 if column.name in EARLY else 2

    sections = [replace(section, columns=sorted(section.columns, key=place)) for section in page.sections]
    return replace(page, sections=sections)


def inline(data: Any) -> Markup:
    """JSON that may stand in a script element, whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def for_site(note: str) -> str:
    """A note of a table in the site's words: its columns, and where to look for more."""
    said = SITE_NOTES.get(note, note).replace("(see failures.md)", "(see the first page)")
    return said.replace("stands in detection.md", "stands under More tables")


def code(text: str) -> Markup:
    """A sentence of a docstring, with what stands between backticks as code."""
    parts = str(text).split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if k % 2 else part for k, part in enumerate(parts))


def _write(path: Path, content: bytes) -> Path:
    make_folder(path.parent)
    write_atomic(path, content)
    return path
