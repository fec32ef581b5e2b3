"""One run as it is read when a results directory is checked, and what was found wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.core.errors import one_line
from bench.core.spec import RunSpec
from bench.core.store import Store

PER_IMAGE = "per_image.safetensors"
CLOSE = 1e-9
"""Relative difference that rounding may leave between a record and its mean over the images."""


@dataclass(frozen=True)
class Problem:
    """One disagreement: a file below the results directory, a field, what it says and what follows from the rest."""

    file: str
    field: str
    said: Any
    expected: Any

    def __str__(self) -> str:
        return f"{self.file}: {self.field} is {shortened(self.said)}, not {shortened(self.expected)}"


@dataclass
class Findings:
    """What was found out about one run.

    Attributes:
        problems: disagreements. missing: what could not be looked at here, in words. notes: what is worth knowing.
        digest: that of the evaluation, as its file says it.
    """

    problems: list[Problem] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    digest: str = ""


class Inspection:
    """One run as it is read, and where what is wrong with it is written down.

    Attributes:
        whole: everything that lies there is compared; else what reports read, without weights, proofs and provenance.
        spec, bodies: what was read; None and nothing of what cannot be read.
    """

    def __init__(self, store: Store, run_id: str, whole: bool) -> None:
        self.store, self.run_id, self.folder, self.whole = store, run_id, store.root / "runs" / run_id, whole
        self.findings = Findings()
        self.spec: RunSpec | None = None
        self.error: dict[str, Any] | None = None
        self.bodies: dict[str, dict[str, Any]] = {}
        self.fingerprints: dict[str, str] = {}  # of what a seed must have of its own

    def wrong(self, file: str, name: str, said: Any, expected: Any) -> None:
        self.findings.problems.append(Problem(f"runs/{self.run_id}/{file}", name, said, expected))

    def equal(self, file: str, name: str, said: Any, expected: Any) -> None:
        """Write down that two values differ, numbers by more than rounding."""
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (said, expected))
        if not (math.isclose(said, expected, rel_tol=CLOSE, abs_tol=CLOSE) if numbers else said == expected):
            self.wrong(file, name, said, expected)


def environment_of(run: Inspection, phase: str) -> Mapping[str, Any]:
    return mapping(run.bodies[phase].get("environment"))


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def shortened(value: Any) -> str:
    """A value in at most 160 characters."""
    text = one_line(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
