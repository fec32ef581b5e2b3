"""An archive of `slicebench submit` is what `slicebench verify` accepts, and nothing else is."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from bench.cli import exit_code
from bench.core.errors import UserError
from bench.core.store import Store
from bench.reports.submission import results_at, write_archive

DIGITS = Path(__file__).parent.parent / "results" / "campaigns" / "digits"


def run_of(method: str) -> str:
    return sorted(path.name for path in (DIGITS / "runs").glob(f"{method}-*"))[0]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Of a control, whose run starts from another, which may start from a third."""
    write_archive(DIGITS, run_of("random_gate"), tmp_path / "run.zip", weights=False, hub_dataset="someone/digits")
    return tmp_path / "run.zip"


def test_it_holds_the_run_and_what_it_starts_from(archive: Path, capsys):
    run_id, names = run_of("random_gate"), zipfile.ZipFile(archive).namelist()
    spec = json.loads((DIGITS / "runs" / run_id / "spec.json").read_text())
    files = {"spec.json", "train.json", "eval.json", "profile.json", "per_image.safetensors"}
    expected = {f"runs/{run}/{file}" for run in (run_id, spec["init_from"]) for file in files}
    assert expected <= set(names)
    assert exit_code(["verify", run_id, "--results", str(archive)]) == 0
    said = capsys.readouterr().out
    assert f"{run_id}: consistent" in said
    assert "which it starts from, is not here" not in said


def test_equal_runs_give_equal_archives(archive: Path, tmp_path: Path):
    write_archive(DIGITS, run_of("random_gate"), tmp_path / "again.zip", weights=False, hub_dataset="someone/digits")
    assert archive.read_bytes() == (tmp_path / "again.zip").read_bytes()


def test_the_hub_reads_its_results(archive: Path):
    run_id = run_of("random_gate")
    entries = yaml.safe_load(zipfile.ZipFile(archive).read(f".eval_results/{run_id}.yaml"))
    records = json.loads((DIGITS / "runs" / run_id / "eval.json").read_text())["records"]
    top1 = [round(100 * record["value"], 4) for record in records if record["metric"] == "top1"]
    assert [entry["value"] for entry in entries] == top1
    assert {(entry["dataset"]["id"], entry["dataset"]["task_id"]) for entry in entries} == {("someone/digits", "top1")}
    assert all(run_id in entry["notes"] for entry in entries)


def test_a_changed_archive_does_not_hold(archive: Path, tmp_path: Path, capsys):
    run_id, changed = run_of("random_gate"), tmp_path / "changed.zip"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(
                name, content.replace(b'"correct": ', b'"correct": 1') if name.endswith("eval.json") else content
            )
    assert exit_code(["verify", run_id, "--results", str(changed)]) == 1
    assert f"{run_id}: failed" in capsys.readouterr().out


def test_files_that_are_no_archives(tmp_path: Path):
    (tmp_path / "text").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("../../outside.json", "{}")
    for name, why in (("text", "no archive of slicebench submit"), ("empty.zip", "it holds no runs")):
        with pytest.raises(UserError, match=why), results_at(tmp_path / name):
            pass
    assert not (tmp_path.parent.parent / "outside.json").exists()


def test_what_cannot_be_submitted(tmp_path: Path):
    with pytest.raises(UserError, match="there is no run us_net-0123456789ab"):
        write_archive(DIGITS, "us_net-0123456789ab", tmp_path / "x.zip", weights=False, hub_dataset=None)
    with pytest.raises(UserError, match="cannot be written"):
        write_archive(DIGITS, run_of("us_net"), tmp_path / "no" / "x.zip", weights=False, hub_dataset=None)


def test_no_file_outside_the_run_is_put_into_an_archive(tmp_path: Path):
    """Whatever a train.json says its checkpoints are called."""
    run_id, secret = run_of("us_net"), tmp_path / "secret.safetensors"
    secret.write_text("private")
    shutil.copytree(DIGITS / "runs" / run_id, tmp_path / "results" / "runs" / run_id)
    store = Store(tmp_path / "results")
    body = store.read(run_id, "train")
    body["results"]["checkpoints"] = {"../../../../secret": "0" * 64}
    (store.path(run_id) / "train.json").unlink()
    store.write(run_id, "train", {key: body[key] for key in ("results", "timing")})
    with pytest.raises(UserError, match="which is no name of a file"):
        write_archive(store.root, run_id, tmp_path / "run.zip", weights=True, hub_dataset=None)
    assert not (tmp_path / "run.zip").exists()
