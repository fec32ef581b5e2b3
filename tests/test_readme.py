"""What the README says holds: its method runs, its commands and targets exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = ("run", "report", "profile", "export", "list")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def slicebench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.mark.slow
def test_the_method_of_the_readme_runs_and_stands_in_the_leaderboard(tmp_path):
    (source,) = blocks("python")
    (tmp_path / "my_method.py").write_text(source, encoding="utf-8")
    settings = ["--set", "epochs=1", "--set", "profile.rounds=2", "--executor", "serial", "--results", "out"]
    result = slicebench(
        "run", "my_method.py:table", "--plugin", "my_method.py", "--seeds", "1", *settings, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "smallest" in (tmp_path / "out" / "tables" / "leaderboard.md").read_text(encoding="utf-8")


def test_the_method_of_the_readme_is_short_and_that_of_the_notebook():
    (source,) = blocks("python")
    assert source == (ROOT / "notebooks" / "smallest.py").read_text(encoding="utf-8")
    assert len([line for line in source.splitlines() if line.strip()]) < 30


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_the_readme_exists(command, tmp_path):
    (synopsis,) = (block for block in blocks("") if block.startswith("slicebench run RECIPE"))
    lines = re.split(r"^(?=slicebench )", synopsis, flags=re.MULTILINE)
    (mine,) = (line for line in lines if line.startswith(f"slicebench {command} "))
    result = slicebench(command, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    missing = [option for option in re.findall(r"--[a-z-]+", mine) if option not in result.stdout]
    assert missing == []


def test_every_make_target_of_the_documents_exists():
    documents = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", documents)) <= targets


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r'^step "tests" make test$', script, re.MULTILINE)
    assert "make quickstart\nmake test" in README


def test_the_constraints_name_no_place():
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in constraints if not re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.+]+", line)] == []
