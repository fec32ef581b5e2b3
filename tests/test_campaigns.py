"""Committed campaigns: their plan stands beside them, and their records regenerate their tables byte for byte."""

from pathlib import Path

import pytest

from bench.core.store import PHASES, Store
from bench.reports import generate
from bench.reports.consistent import check_store

CAMPAIGNS = Path(__file__).parents[1] / "results" / "campaigns"
NAMES = sorted(folder.parent.name for folder in CAMPAIGNS.glob("*/runs"))  # others are plans as yet


def tables(root: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (root / "tables").glob("*")}


def test_there_are_campaigns():
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_records_regenerate_the_tables(name, tmp_path):
    root = CAMPAIGNS / name
    generate(root, tmp_path, "slicebench report")
    committed, made = tables(root), tables(tmp_path)
    assert committed.keys() == made.keys()
    assert [file for file in made if made[file] != committed[file]] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_campaign_is_consistent(name):
    findings = check_store(CAMPAIGNS / name)
    assert [str(problem) for each in findings.values() for problem in each.problems] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_campaign_says_what_it_asks_and_what_it_found(name):
    root = CAMPAIGNS / name
    for file in ("PLAN.md", "FINDINGS.md"):
        assert len((root / file).read_text().split()) > 50, f"{file} says next to nothing"
    store = Store(root, writable=False)
    assert store.runs()
    for run_id in store.runs():
        assert all(store.has(run_id, phase) for phase in PHASES[:2]), f"{run_id} is not evaluated"
        assert not any((store.path(run_id) / "checkpoints").glob("*.partial.*"))


@pytest.mark.parametrize("name", NAMES)
def test_files_of_a_campaign_are_small(name):
    files = [file for file in (CAMPAIGNS / name).rglob("*") if not {"checkpoints", "site"} & set(file.parts)]
    large = {str(file): file.stat().st_size for file in files if file.is_file() and file.stat().st_size > 2**20}
    assert large == {}
