"""What the site says of methods, models and images: gathered from the code and the data that are at hand."""

from __future__ import annotations

import ast
import base64
import importlib.util
import io
import re
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.registry import Entry
from bench.core.spec import DataSpec, RunSpec
from bench.methods.registry import MethodEntry
from bench.reports.facts import Card, Facts, TestImages

PICTURE = 64  # pixels: what an image is made smaller to, if it is larger
OURS = re.compile(r"\b(ours|our own|suite's own|this suite|is own|our reading|our design)\b", re.IGNORECASE)
UNKNOWN = re.compile(r"\b(unknown|not known|not public|not published|does not say|no source)\b", re.IGNORECASE)


def facts_at_hand(data_root: Path | None) -> Facts:
    """Families of all models, cards of all methods, the test images that the data directory holds, and what of the runs
    is the suite's own."""
    from bench.methods import METHODS
    from bench.models import PRESETS

    families = {name: PRESETS.get(name).family.name for name in PRESETS.names()}
    return Facts(
        families,
        [_card(METHODS, name) for name in METHODS.names()],
        cache(partial(_test_images, data_root)),
        _needs_plugin,
        lambda method: method in METHODS and isinstance(METHODS.entry(method), MethodEntry),
    )


def _needs_plugin(spec: RunSpec) -> bool:
    """See `Facts.needs_plugin`. What a plugin adds is an object; tables and installed packages only name theirs."""
    from bench.data import DATASETS
    from bench.methods import METHODS
    from bench.models import PRESETS, SUITES

    named = all(
        name in registry and isinstance(registry.entry(name), str | Entry)
        for registry, name in ((METHODS, spec.method), (DATASETS, spec.data.name))
    )
    return not (named and (spec.model in SUITES or PRESETS.made(spec.model)))


def _card(registry: Any, name: str) -> Card:
    """A method's card, from the docstrings of its file, its class and its settings; nothing of it is imported."""
    entry: Any = registry.entry(name)
    if isinstance(entry, MethodEntry):
        module, _, attribute = entry.target.partition(":")
        place = importlib.util.find_spec(module)
        source = Path(place.origin).read_text(encoding="utf-8") if place and place.origin else ""
        what = entry.what
    else:  # a plugin's class
        method: Any = registry.get(name)
        file = getattr(sys.modules.get(method.__module__), "__file__", None)
        source, attribute = Path(file).read_text(encoding="utf-8") if file else "", method.__name__
        what, entry = "", method
    about, own, options = docstrings(ast.parse(source), attribute)
    paragraphs = [" ".join(part.split()) for text in (about, own) for part in text.split("\n\n") if part.strip()]
    said = list(_sentences(paragraphs))
    return Card(
        name,
        entry.kind,
        entry.paper,
        what or (paragraphs[0] if paragraphs else ""),
        paragraphs,
        [one for one in said if OURS.search(one)],
        [one for one in said if UNKNOWN.search(one)],
        options,
    )


def docstrings(module: ast.Module, attribute: str) -> tuple[str, str, str]:
    """The docstrings of a module, of one of its classes, and of that class's `Options`; empty where there are none."""
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    method = classes.get(attribute)
    named = [
        statement.value.id
        for statement in (method.body if method else [])
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name)
        if any(isinstance(target, ast.Name) and target.id == "Options" for target in statement.targets)
    ]
    texts = [module, method, classes.get(named[0]) if named else None]
    about, own, options = ((ast.get_docstring(node) or "") if node else "" for node in texts)
    return about, own, options


def _sentences(paragraphs: list[str]) -> Iterator[str]:
    for paragraph in paragraphs:
        yield from re.split(r"(?<=[.;:])\s+(?=[A-Z])", paragraph)


def _test_images(data_root: Path | None, data: DataSpec, digest: str) -> TestImages | str:
    """See `Facts.test_images`."""
    from bench.data import load

    try:
        dataset = load(data, data_root)
        split = dataset.open_test()
        if split.digest != digest:
            return f"The data directory holds other test images of {data.name} than those of these records."
    except UserError as error:
        return f"The test images are not at hand: {error}."
    targets = getattr(split, "targets", [])
    classes = dataset.classes if dataset.task == "classification" else ()
    return TestImages(classes, targets if classes else [], partial(_picture, split))


def _picture(split: Any, place: int) -> str:
    """One image of a split as the data URI of a small PNG."""
    from PIL import Image

    images: Any = split.images
    if callable(images):  # files, read when they are asked for
        read: Any = images([place])
        image = read[0]
    else:
        pixels = images[place]
        peak = getattr(getattr(split, "normalisation", None), "peak", 255.0)
        shown = (pixels * (255.0 / peak)).astype("uint8")
        image = Image.fromarray(shown[..., 0] if shown.shape[-1] == 1 else shown)
    image.thumbnail((PICTURE, PICTURE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
