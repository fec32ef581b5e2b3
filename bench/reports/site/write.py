"""The site's files: templates filled in, scripts and styles copied beside them. Nothing is fetched when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.core.files import write_atomic
from bench.core.metrics import METRICS
from bench.reports.facts import Facts
from bench.reports.layout import Page, Section, Stamp, make_folder
from bench.reports.rows import rows_of
from bench.reports.site.board import Board, Store, boards

HERE = Path(__file__).parent
VENDORED = json.loads((HERE / "vendor" / "manifest.json").read_text(encoding="utf-8"))
"""Name, version, licence and source of each library, and the SHA-256 of its files."""
MOST_PLAIN = 1000
"""Rows of the leaderboard that are also there without scripts; the rest are in the CSV file."""


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
    environment.filters |= {"inline": inline, "code": code}

    def fill(template: str, name: str, **values: Any) -> Path:
        text = environment.get_template(template).render(common | {"here": name} | values)
        return _write(folder / name, text.encode())

    others = [page for page in pages if not any(_sections(page, board) for board in shown)]
    written = [
        fill("index.html", "index.html", pages=others, failures=[page for page in pages if page.name == "failures"]),
        fill(
            "methods.html", "methods.html", cards=sorted(facts.cards, key=lambda card: card.name not in used), used=used
        ),
        fill("numbers.html", "numbers.html", pages=pages, metrics=METRICS.values(), vendored=VENDORED),
    ]
    for board in shown:
        named = {page.name: page for page in pages if _sections(page, board)}
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


def inline(data: Any) -> Markup:
    """JSON that may stand in a script element, whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def code(text: str) -> Markup:
    """A sentence of a docstring, with what stands between backticks as code."""
    parts = str(text).split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if k % 2 else part for k, part in enumerate(parts))


def _write(path: Path, content: bytes) -> Path:
    make_folder(path.parent)
    write_atomic(path, content)
    return path
