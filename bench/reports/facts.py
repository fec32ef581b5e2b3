"""What reports are told by those who know methods, models and data, which they do not import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.core.spec import DataSpec, RunSpec


class Card(NamedTuple):
    """A method as its own docstrings tell of it.

    idea: paragraphs. ours, unknown: the sentences that say what is this suite's own, and what no source says. options:
    its settings.
    """

    name: str
    kind: str
    paper: str
    what: str
    idea: Sequence[str] = ()
    ours: Sequence[str] = ()
    unknown: Sequence[str] = ()
    options: str = ""


class TestImages(NamedTuple):
    """The test images of a dataset, in the order of the per-image scores.

    classes: names. targets: the class of each image; empty where images have none. picture: of one image, a data URI.
    """

    classes: Sequence[str]
    targets: Sequence[int]
    picture: Callable[[int], str]


def _not_looked_for(data: DataSpec, digest: str) -> TestImages | str:
    return "The images were not looked for; slicebench report shows them where its data directory holds them."


@dataclass(frozen=True)
class Facts:
    """families: the family of each model. cards: of every method. test_images: of a dataset whose test split has this
    digest, or a sentence that says why they cannot be shown. needs_plugin: whether a run's method, model or dataset is
    there only with a file of the user's. is_suites: whether a method of that name is one of the suite's own."""

    families: Mapping[str, str] = field(default_factory=dict)
    cards: Sequence[Card] = ()
    test_images: Callable[[DataSpec, str], TestImages | str] = _not_looked_for
    needs_plugin: Callable[[RunSpec], bool] = lambda spec: False
    is_suites: Callable[[str], bool] = lambda method: True
