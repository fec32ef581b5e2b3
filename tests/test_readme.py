"""What the README and its pages say holds: the method runs; commands, options, files and targets exist."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.recipes.registry import RECIPES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
DOCUMENTS = {"README.md": README, "CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")} | {
    f"docs/{name}": text for name, text in PAGES.items()
}
COMMANDS = ("run", "report", "compare", "verify", "profile", "export", "draw", "list")


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def slicebench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.mark.slow
def test_the_method_of_the_page_runs_and_stands_in_the_leaderboard(tmp_path):
    (source,) = blocks("python", PAGES["adding_a_method.md"])
    (tmp_path / "my_method.py").write_text(source, encoding="utf-8")
    settings = ["--set", "epochs=1", "--set", "profile.rounds=2", "--executor", "serial", "--results", "out"]
    result = slicebench(
        "run", "my_method.py:table", "--plugin", "my_method.py", "--seeds", "1", *settings, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "smallest" in (tmp_path / "out" / "tables" / "leaderboard.md").read_text(encoding="utf-8")


def test_the_method_of_the_page_is_short_and_that_of_the_notebook():
    (source,) = blocks("python", PAGES["adding_a_method.md"])
    assert source == (ROOT / "notebooks" / "smallest.py").read_text(encoding="utf-8")
    assert len([line for line in source.splitlines() if line.strip()]) < 30


def synopses() -> dict[str, str]:
    """The synopsis of each subcommand on the page of the command line."""
    page = PAGES["command_line.md"]
    (synopsis,) = (block for block in blocks("", page) if block.startswith("slicebench run RECIPE"))
    lines = re.split(r"^(?=slicebench )", synopsis, flags=re.MULTILINE)
    return {line.split()[1]: line for line in lines if line}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_the_page_are_those_of_the_help(command, tmp_path):
    result = slicebench(command, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    options = set(re.findall(r"^[│| *]*(--[a-z-]+)", result.stdout, re.MULTILINE)) - {"--help"}
    assert options
    assert set(re.findall(r"--[a-z-]+", synopses()[command])) == options


def test_every_subcommand_has_a_synopsis(tmp_path):
    listed = re.findall(r"^│ ([a-z]+) ", slicebench("--help", cwd=tmp_path).stdout, re.MULTILINE)
    assert set(listed) == set(synopses()) == set(COMMANDS)


def test_every_link_leads_somewhere():
    for name, text in DOCUMENTS.items():
        links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
        assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == [], name


def test_every_page_is_linked_from_the_readme():
    assert set(re.findall(r"\]\(docs/([^)#]+)\)", README)) == set(PAGES)


def test_every_file_that_is_named_exists():
    """What runs write (results/tables and the like) is not in the repository."""
    for name, text in DOCUMENTS.items():
        paths = re.findall(r"`((?:bench|baselines|tests|notebooks|docs|results/reported)[\w/]*(?:\.\w+|/)?)`", text)
        missing = [path for path in paths if not (ROOT / path).exists() and not importlib.util.find_spec(path)]
        assert missing == [], name


def test_every_command_that_is_shown_names_what_there_is():
    text = "\n".join(DOCUMENTS.values())
    shown = re.findall(r"^slicebench ([a-z]+)|`slicebench ([a-z]+)", text, re.MULTILINE)
    assert {first or second for first, second in shown} <= set(COMMANDS)
    recipes = re.findall(r"slicebench run ([a-z0-9_]+)(?![\w./:])", text)
    assert len(recipes) > 4
    assert set(recipes) <= set(RECIPES.names())
    modules = re.findall(r"python -m ([a-z_.]+)", text)
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


def test_every_make_target_of_the_documents_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {target for text in DOCUMENTS.values() for target in re.findall(r"`make ([a-z]+)", text)} <= targets


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r'^step "tests" make test$', script, re.MULTILINE)
    assert "make quickstart\nmake test" in README


def test_the_constraints_name_no_place():
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in constraints if not re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.+]+", line)] == []
