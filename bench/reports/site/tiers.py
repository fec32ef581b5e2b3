"""How far each row can be trusted, as badges with their dates."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.files import damaged
from bench.reports.consistent import check_store
from bench.reports.runs import Run

VERIFIED = "verify.json"
"""What `slicebench verify --execute --json RESULTS/verify.json` leaves in a results directory."""


class Tiers:
    """The tiers of the rows of a results directory, which is checked once. is_suites: as in `Facts`."""

    def __init__(self, root: Path, is_suites: Callable[[str], bool]) -> None:
        self.is_suites = is_suites
        try:
            self.findings = check_store(root)
        except UserError:
            self.findings = {}
        self.verified = _read(root / VERIFIED)

    def of(self, runs: Sequence[Run]) -> list[list[str]]:
        """[tier, date] of a row from its runs, the date empty where no record says it.

        One tier says where the numbers come from ("reproduced": a method of the suite, trained, judged here; "trained
        here": the same of a user's; "authors' weights"; "not trained here"), a second what was checked, of
        all its runs: "verified" (executed again, with equal scores), "consistent" (recomputed from its files), or "not
        consistent".
        """
        usual = "reproduced" if self.is_suites(runs[0].spec.method) else "trained here"
        origin = next((run.mark for run in runs if run.mark), usual).partition(",")[0]
        tiers = [[origin, max((_date(run.bodies["eval"]) for run in runs), default="")]]
        checks = [self.verified["runs"].get(run.run_id, {}) for run in runs]
        digests = [run.bodies["eval"].get("digest") for run in runs]
        if all(
            check.get("tier") == "verified" and check.get("digest") == digest
            for check, digest in zip(checks, digests, strict=True)
        ):
            tiers.append(["verified", self.verified["date"]])
        elif all(run.run_id in self.findings for run in runs):
            holds = not any(self.findings[run.run_id].problems for run in runs)
            tiers.append(["consistent" if holds else "not consistent", ""])
        return tiers


def _date(body: dict[str, Any]) -> str:
    return str((body.get("timing") or {}).get("date", ""))


def _read(file: Path) -> dict[str, Any]:
    """The findings of an earlier `verify`; none where there is no file. Raises UserError for a damaged one."""
    if not file.is_file():
        return {"date": "", "runs": {}}
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        return {"date": str(raw.get("date", "")), "runs": dict(raw["runs"])}
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(file, "it is not what slicebench verify --json writes") from error
