"""The wheel, installed outside the checkout: it runs, reports, lists, and brings what the site needs."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from chromium import browser, executable

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    wanted = ("bench/", "baselines/", "results/reported/", "pyproject.toml", "setup.py", "README.md", "LICENSE")
    for name in filter(None, map(bytes.decode, names)):
        if name.startswith(wanted) and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=tree, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_every_file_that_the_code_reads(wheel: Path):
    inside = set(zipfile.ZipFile(wheel).namelist())
    site = {file.relative_to(ROOT).as_posix() for file in (ROOT / "bench/reports/site").rglob("*") if file.is_file()}
    assert {name for name in site if "__pycache__" not in name} <= inside
    rows = {file.name for file in (ROOT / "results" / "reported").glob("*.jsonl")}
    assert {f"bench/reports/quoted/{name}" for name in rows} <= inside
    assert not any(name.startswith(("tests/", "results/")) for name in inside)


@pytest.mark.slow
def test_it_works_in_an_empty_folder(wheel: Path, tmp_path: Path):
    """In an environment of its own, which sees the libraries of this one through a path file and this checkout not."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    zipfile.ZipFile(wheel).extractall(packages)
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

    def slicebench(*words: str) -> str:
        code = "import sys; from bench.cli import main; main(sys.argv[1:])"
        command = [home / "bin" / "python", "-c", code, *words]
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [home / "bin" / "python", "-c", "import bench; print(bench.__file__)"]
    found = subprocess.run(where, cwd=empty, env=environment, capture_output=True, text=True, check=True).stdout
    assert str(packages) in found
    assert "us_net" in slicebench("list", "reported")
    short = ["--seeds", "1", "--set", "epochs=1", "--set", "profile.rounds=2", "--executor", "serial"]
    assert "gate" in slicebench("run", "quickstart", *short)
    assert "reported.md" in slicebench("report")
    written = {str(file.relative_to(empty / "results")) for file in (empty / "results").rglob("*.*")}
    assert {"tables/reported.md", "tables/leaderboard.tex", "site/index.html", "site/assets/site.js"} <= written
    if executable():
        with browser(tmp_path / "profile") as page:
            page.open((empty / "results" / "site" / "digits-official-1-test.html").as_uri())
            page.wait("performance.getEntriesByName('table').length")
            assert page.evaluate("table.getData('active').length") > 10
            assert page.errors == []
