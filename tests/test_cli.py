"""The command line: what a user can get wrong is one sentence and exit code 2, and what works says so in its exit code.

In this process, through `main`, so that exit codes are real; a few by a process of their own.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from report_store import make_store

from bench import cli
from bench.commands.list import Listed
from bench.core.spec import RunSpec
from bench.core.store import PHASES, Store
from bench.methods import METHODS
from bench.reports import figures

DS, US = "ds_mobilenet_micro8", "us_mobilenet_micro8"
RECORD_BYTES = 3073  # of the binary CIFAR files


class Said(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty directory, without a data directory of the user's and without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLICEBENCH_DATA", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture
def slicebench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.runs.estimate.BUDGET_S", 0.0)  # dry runs are timed once, roughly

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        assert isinstance(ended.value.code, int)
        said = capsys.readouterr()
        return Said(ended.value.code, said.out, said.err)

    return run


@pytest.fixture
def refused(slicebench):
    """The one sentence with which a command is refused."""

    def run(*arguments: object) -> str:
        said = slicebench(*arguments)
        lines = said.err.splitlines()
        assert (said.code, said.out, len(lines)) == (2, "", 1), said
        assert lines[0].startswith("slicebench: ")
        return lines[0].removeprefix("slicebench: ")

    return run


@pytest.fixture
def tables_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a report's time."""
    for name in ("write_accuracy_madds", "write_accuracy_latency", "write_routing"):
        monkeypatch.setattr(figures, name, lambda *_: [])


def spec_file(*specs: Any) -> str:
    Path("specs.json").write_text(json.dumps(specs))
    return "specs.json"


def everything_below(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


# What can be wrong with the words of a command.


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("rnu quickstart", "no such command 'rnu'; did you mean 'run'?"),
        ("run", "missing argument 'recipe'; see slicebench run --help"),
        ("run quickstart more", "got unexpected extra argument(s) (more); see slicebench run --help"),
        ("run quickstart --sed 1", "no such option: --sed (Possible options: --seeds, --set)"),
        ("run quickstart --data", "option '--data' requires an argument"),
        ("run quickstart --seeds 0", "invalid value for '--seeds': 0 is not in the range x>=1"),
        ("run quickstart --seeds three", "invalid value for '--seeds': 'three'"),
        ("run quickstart --executor slurm", "invalid value for '--executor': 'slurm' is not one of 'ray', 'serial'"),
        ("run quickstart --device tpu", "invalid value for '--device': 'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        ("run quickstart --executor serial --address a:1", "--address names a Ray cluster"),
        ("run quickstart --plugin mine.py", "plugin mine.py is not a file"),
        ("list", "missing argument 'what'; choose from: methods, models, datasets, recipes, metrics, reported"),
        ("list methodes", "invalid value for 'what': 'methodes' is not one of 'methods', 'models'"),
        ("profile", "missing argument 'model'; see slicebench profile --help"),
    ],
)
def test_a_command_that_is_not_one(refused, words, sentence):
    assert refused(*words.split()).startswith(sentence)


def test_no_words_at_all_are_answered_with_the_help(slicebench):
    said = slicebench()
    assert (said.code, said.err) == (2, "")
    assert "compute can be cut" in said.out
    assert slicebench("--help").code == slicebench("run", "-h").code == 0


# What can be wrong with a recipe or a spec. Nothing is created, not even the results directory.


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ("quickstrat", "unknown recipe 'quickstrat'; did you mean 'quickstart'? known: "),
        ("nowhere.json", "the spec file nowhere.json cannot be read: No such file or directory"),
        ("nowhere.py:table", "the recipe file nowhere.py does not exist"),
        ("nowhere.py", "name the function of nowhere.py too: nowhere.py:FUNCTION"),
    ],
)
def test_a_recipe_that_is_not_there(refused, tmp_path, recipe, sentence):
    assert refused("run", recipe).startswith(sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{nope", "the spec file specs.json is not JSON: Expecting property name"),
        (b"\xff\xfe", "the spec file specs.json is not JSON: 'utf-8' codec"),
        (b"[]", "the spec file specs.json holds no spec"),
        (b"[7]", "specs.json, spec 1: a spec must be an object, not 7"),
        (b'{"model": "x"}', "specs.json, spec 1: method is missing"),
        (b'{"method": "a", "method": "b"}', "the spec file specs.json is not JSON: the key 'method' is given twice"),
    ],
)
def test_a_spec_file_that_is_not_one(refused, tmp_path, content, sentence):
    Path("specs.json").write_bytes(content)
    assert refused("run", "specs.json").startswith(sentence)
    assert [path.name for path in tmp_path.iterdir()] == ["specs.json"]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"method": "ds_nett"}, "unknown method 'ds_nett'; did you mean 'ds_net'?"),
        ({"model": "ds_mobilenet_micr8"}, f"unknown model 'ds_mobilenet_micr8'; did you mean '{DS}'?"),
        ({"sed": 1}, "specs.json, spec 1: unknown key 'sed'; did you mean 'seed'?"),
        ({"train": {"epoch": 1}}, "specs.json, spec 1: unknown key in train 'epoch'; did you mean 'epochs'?"),
        ({"seed": "1"}, 'specs.json, spec 1: seed must be an integer, not "1"'),
        ({"threads": 0}, "specs.json, spec 1: threads must be an integer, at least 1, not 0"),
        ({"device": "tpu"}, "specs.json, spec 1: device must be one of cpu, cuda, not 'tpu'"),
        ({"device": "cuda"}, "a CUDA device was asked for, but torch sees none here; use --device cpu"),
        ({"options": {"random_width": 1}}, "unknown option of ds_net 'random_width'; did you mean 'random_widths'?"),
        ({"options": {"random_widths": "1"}}, "options.random_widths of ds_net must be an integer, not "),
        ({"data": {"name": "digit"}}, "unknown dataset 'digit'; did you mean 'digits'?"),
        ({"data": {"protocol": "mine"}}, "unknown protocol of digits 'mine'; known: official"),
        ({"data": {"train_images": 10**6}}, "train_images must be between 1 and the 900 of digits/official@1"),
        ({"train": {"batch_size": 901}}, "batch size 901 is larger than the 900 images of digits/official@1:train"),
        ({"model": US}, "ds_net serves ds_mobilenet_det_micro, "),
        (
            {"method": "uniform", "model": "ds_vit_micro32"},
            "ds_vit_micro32 cannot take images of 8 x 8: this Vision Transformer reads",
        ),
        ({"method": "random_gate"}, "random_gate works on another run's checkpoint; name it with init_from"),
        ({"init_from": "ds_net-0"}, "which is not among the runs and has no complete train phase in results"),
        # budgets that no sub-network meets
        ({"method": "us_net", "model": US, "options": {"widths": [0.33]}}, "no sub-network has width 0.33: "),
        ({"method": "uniform", "options": {"choices": [9]}}, "no sub-network 9: this space has choices 0 to 3"),
        ({"options": {"routing": [[0, 4]]}}, f"ds_net on {DS}: cannot route to choice 4: "),
        ({"options": {"routing": [[]]}}, "cannot route to choice none: "),
        ({"method": "pruning", "options": {"budgets": [0.0]}}, "budgets of pruning must be above 0, not 0.0"),
        ({"method": "pruning", "options": {"budgets": [1.5]}}, "budgets of pruning must be at most 1, not 1.5"),
        ({"method": "pruning", "options": {"budgets": [0.001]}}, f"pruning on {DS}: budget 0.001 is out of reach: "),
        # options that no run can meet
        ({"options": {"routing": [[2, 0]]}}, f"ds_net on {DS}: routing space [2, 0] must list each option once, "),
        ({"options": {"random_widths": -1}}, "options.random_widths of ds_net must be at least 0, not -1"),
        ({"options": {"gate_epochs": -1}}, "options.gate_epochs of ds_net must be at least 0, not -1"),
    ],
)
def test_a_spec_that_cannot_run(refused, tmp_path, spec, sentence):
    assert sentence in refused("run", spec_file({"method": "ds_net", "model": DS} | spec), "--dry-run")
    assert [path.name for path in tmp_path.iterdir()] == ["specs.json"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("epochs", "--set takes key=value, not 'epochs'"),
        ("=3", "--set takes key=value, not '=3'"),
        ("epoch=1", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("finetune_epoch=1", "unknown key 'finetune_epoch'; did you mean 'finetune_epochs'?"),
        ("trian.epochs=1", "unknown section 'trian'; did you mean 'train'?"),
        ("train.epoch=1", "unknown key in train 'epoch'; did you mean 'epochs'?"),
        ("options.width=1", "unknown key in options 'width'; did you mean 'widths'?"),
        ("train=3", "'train' is a whole section; set one of its keys, such as train.epochs"),
        ("epochs=many", 'train.epochs must be an integer, not "many"'),
        ("epochs=-1", "train.epochs must be an integer, at least 0, not -1"),
        ("widths=[0.33]", f"us_net on {US}: no sub-network has width 0.33"),
        ("device=cuda", "a CUDA device was asked for, but torch sees none here; use --device cpu"),
        ("data.name=cifar10", "cifar10 needs a data directory: --data DIR with cifar-10-batches-bin or "),
    ],
)
def test_a_setting_that_does_not_fit(refused, tmp_path, setting, sentence):
    assert refused("run", "quickstart", "--seeds", 1, "--set", setting).startswith(sentence)
    assert list(tmp_path.iterdir()) == []


# Data, results and devices that are not there.


def cifar(truncated: str | None = None) -> Path:
    """Files of the binary layout with the right sizes (holes, where the disk knows them); one cut short."""
    folder = Path("data") / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        size = 10_000 * RECORD_BYTES - (1000 if name == truncated else 0)
        with open(folder / f"{name}.bin", "wb") as file:
            file.truncate(size)
    return folder.parent


def test_a_data_directory_that_is_not_there(refused, tmp_path, monkeypatch):
    assert refused("run", "cifar10_smoke").startswith("cifar10 needs a data directory: --data DIR with ")
    assert refused("run", "cifar10_smoke", "--data", "none").startswith("cifar10: none does not exist; download ")
    monkeypatch.setenv("SLICEBENCH_DATA", str(tmp_path))
    assert refused("run", "cifar10_smoke").startswith(f"cifar10: {tmp_path} has no cifar-10-batches-bin or ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["data_batch_5", "data_batch_2"])
def test_a_truncated_cifar_file(refused, name):
    sentence = refused("run", "cifar10_smoke", "--data", cifar(truncated=name))
    assert re.match(rf"cifar10: data/\S+/{name}.bin is truncated after 9,999 records of 3,073 bytes and ", sentence)
    assert not Path("results").exists()


@pytest.mark.parametrize("results", ["file", "file/below"])
@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_a_file_where_the_results_should_go(refused, monkeypatch, results, more):
    monkeypatch.setattr("bench.executors.ray.run_all", lambda *_, **how: pytest.fail("something was run"))
    Path("file").write_text("precious")
    words = ["run", "quickstart", "--seeds", 1, "--results", results, *more]
    assert f"the results directory {results} cannot be written" in refused(*words)
    assert Path("file").read_text() == "precious"


def test_cuda_without_a_device(refused, monkeypatch):
    monkeypatch.setattr("bench.commands.run.execute", lambda *_: pytest.fail("something was run"))
    assert refused("run", "quickstart", "--device", "cuda") == (
        "a CUDA device was asked for, but torch sees none here; use --device cpu"
    )


@pytest.mark.parametrize(
    ("words", "device"), [([], "cuda"), (["--device", "cpu"], "cpu"), (["--set", "device=cpu"], "cpu")]
)
def test_a_gpu_is_used_where_there_is_one(slicebench, monkeypatch, words, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    lines = slicebench("run", "quickstart", "--dry-run", "--seeds", 1, *words).out.splitlines()[2:-1]
    assert {line.split()[-4] for line in lines} == {device}


@pytest.mark.ray
def test_a_cluster_that_does_not_answer(refused):
    assert "no Ray cluster can be joined at 127.0.0.1:1" in refused(
        "run", spec_file({"method": "uniform", "model": DS}), "--address", "127.0.0.1:1"
    )


# Looking before running.


def test_a_dry_run_lists_the_runs_and_creates_nothing(slicebench, tmp_path):
    said = slicebench("run", "quickstart", "--dry-run")
    *runs, total = said.out.splitlines()[2:]
    assert "hours of training are left, one run after the other: estimated here on cpu" in total
    assert (said.code, said.err, len(runs)) == (0, "", 27)
    assert all(line.endswith("train, eval, profile") for line in runs)
    assert all("batch_size=60 lr=0.15 warmup_epochs=2" in line for line in runs), "what is not by default"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("hours", "words"), [(None, ", without 3 that could not be timed"), (1.5, "")])
def test_a_dry_run_says_how_many_runs_it_could_not_time(slicebench, monkeypatch, hours, words):
    """Of six a seed two are controls, which train nothing."""
    monkeypatch.setattr("bench.runs.estimate._hours", lambda spec, data: hours if spec.method == "pruning" else 1.0)
    total = slicebench("run", "quickstart", "--dry-run").out.splitlines()[-1]
    assert f"hours of training are left, one run after the other{words}: estimated here" in total


def test_a_dry_run_says_what_is_left(slicebench, tmp_path):
    store = Store(tmp_path / "results")
    whole, half = (RunSpec("uniform", DS, seed=seed) for seed in (0, 1))
    for spec, phases in ((whole, PHASES), (half, PHASES[:1])):
        store.open_run(spec)
        for phase in phases:
            store.write(spec.run_id, phase, {})
    before = everything_below(tmp_path / "results")
    said = slicebench("run", spec_file(whole.to_json(), half.to_json()), "--dry-run")
    assert [line.split("  ")[-1].strip() for line in said.out.splitlines()[2:-1]] == [
        "nothing: complete",
        "eval, profile",
    ]
    assert said.out.splitlines()[-1].startswith("0.00 hours of training are left")
    assert everything_below(tmp_path / "results") == before


def test_settings_reach_the_runs_that_have_them(slicebench):
    plain = slicebench("run", "quickstart", "--dry-run", "--seeds", 1).out.splitlines()[2:-1]
    words = ["--set", "epochs=1", "--set", "random_widths=1"]
    changed = slicebench("run", "quickstart", "--dry-run", "--seeds", 1, *words).out.splitlines()[2:-1]
    assert len(plain) == len(changed) == 9
    assert all(line.split()[4] == "1" for line in changed)
    assert not {line.split()[0] for line in plain} & {line.split()[0] for line in changed}


# Running.

PLUGIN = """
import torch
from bench.methods import METHODS, Method
from bench.points import StaticPoint


class Linear(Method):
    name, kind = "linear", "static"

    def points(self, run):
        torch.manual_seed(run.spec.seed)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        return [StaticPoint("linear", network, 640)]


class Failing(Method):
    name, kind = "failing", "static"

    def train(self, run):
        raise RuntimeError("no luck")


METHODS.add("linear", Linear)
METHODS.add("failing", Failing)
"""


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))  # for this test only
    Path("mine.py").write_text(PLUGIN)
    return "mine.py"


def tiny(method: str, **changes: Any) -> dict[str, Any]:
    return {"method": method, "model": DS, "profile": {"rounds": 2, "warmup": 0, "batch_sizes": [1]}, **changes}


@pytest.mark.usefixtures("tables_only")
def test_a_failed_run_is_written_down_and_the_others_go_on(slicebench, plugin):
    words = ["run", spec_file(tiny("failing"), tiny("linear")), "--plugin", plugin, "--executor", "serial"]
    said = slicebench(*words)
    (failed,) = Path("results/runs").glob("failing-*")
    assert said.code == 1
    assert said.out.startswith("phases: 3 ran, 1 failed, 2 skipped\n")
    assert "| linear" in said.out
    assert said.err.splitlines() == [
        f"slicebench: {failed.name}/train failed: RuntimeError: no luck",
        f"slicebench: {failed.name}/eval was skipped: needs {failed.name}/train, which was not completed",
        f"slicebench: {failed.name}/profile was skipped: needs {failed.name}/eval, which was not completed",
        "slicebench: tracebacks are in results/runs/*/error.json",
    ]
    assert json.loads((failed / "error.json").read_text())["message"] == "no luck"
    assert failed.name in Path("results/tables/failures.md").read_text()
    again = slicebench(*words)  # nothing is done twice, and what failed is tried again
    assert (again.code, again.out.splitlines()[0]) == (1, "phases: 3 complete already, 1 failed, 2 skipped")


@pytest.mark.usefixtures("tables_only")
def test_a_run_that_succeeds_says_so(slicebench, plugin):
    words = ["run", spec_file(tiny("linear")), "--plugin", plugin, "--executor", "serial", "--results", "out"]
    said = slicebench(*words)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("phases: 3 ran\n")
    assert "\n# Leaderboard\n" in said.out
    assert {line.strip() for line in said.out.splitlines()} >= {
        "out/tables/leaderboard.md",
        "out/tables/leaderboard.csv",
    }
    assert not Path("results").exists()
    assert slicebench(*words).out.startswith("phases: 3 complete already\n")


STUDY = f"""
from bench.core.ablation import Ablation, Arms
from bench.core.spec import ProfileSpec, RunSpec

BRIEF = ProfileSpec((1,), 2, 0)


def study(seeds=(0, 1)):
    models = {{"full method": {DS!r}, "another network": {US!r}}}
    arms = {{words: [RunSpec("linear", m, profile=BRIEF, seed=s) for s in seeds] for words, m in models.items()}}
    return Ablation([Arms(arms)])
"""


@pytest.mark.usefixtures("tables_only")
def test_an_ablation_of_a_users_own_gets_its_table(slicebench, plugin):
    Path("study.py").write_text(STUDY)
    words = ["run", "study.py:study", "--plugin", plugin, "--executor", "serial"]
    assert slicebench(*words, "--dry-run").code == 0
    assert not Path("results").exists()
    said = slicebench(*words, "--set", "epochs=1")
    assert (said.code, said.err) == (0, "")
    (note,) = Path("results/ablations").glob("study.*.json")
    (group,) = json.loads(note.read_text())["groups"]
    assert {run for arm in group["arms"].values() for run in arm} == {f.name for f in Path("results/runs").iterdir()}
    table = Path("results/tables/ablation_study.md").read_text()
    assert "| another network | model=us_mobilenet_micro8 | linear" in table
    assert "fewer than 3 seeds" in table


def test_ctrl_c_is_one_sentence_and_130(slicebench, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.commands.run.execute", interrupted)
    said = slicebench("run", spec_file(tiny("uniform")))
    assert (said.code, said.out) == (130, "")
    assert said.err.strip() == "slicebench: interrupted; run the same command again to go on"


# Reports.


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "results")


def test_a_report_of_nothing(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    for where in ("empty", "missing"):
        assert refused("report", "--results", where) == (
            f"there are no runs in {where}; make some with: slicebench run RECIPE --results {where}"
        )
    assert not (tmp_path / "missing").exists()


@pytest.mark.usefixtures("tables_only")
def test_a_report_does_not_depend_on_where_the_results_lie(slicebench, store, tmp_path):
    said = slicebench("report")
    assert (said.code, said.err) == (0, "")
    assert "# Leaderboard" in said.out
    assert "  results/tables/leaderboard.md" in said.out.splitlines()
    here = everything_below(tmp_path / "results" / "tables")
    (tmp_path / "results").rename(tmp_path / "elsewhere")
    assert slicebench("report", "--results", "elsewhere", "--out", "out").code == 0
    assert everything_below(tmp_path / "out" / "tables") == here
    first = here["leaderboard.md"].decode().splitlines()[0]
    assert re.fullmatch(r"<!-- generated by: slicebench report; records sha256: [0-9a-f]{64} -->", first)
    assert slicebench("report", "--results", "elsewhere", "--out", "out", "--no-ranks").code == 0
    unranked = Path("out/tables/leaderboard.md").read_text()
    assert unranked.startswith("<!-- generated by: slicebench report --no-ranks; ")


def cut_short(text: str) -> str:
    return text[: len(text) // 2]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (cut_short, "not JSON ("),
        (lambda text: text.replace('"correct": ', '"correct": 1'), "its records or results do not match"),
        (lambda text: "[]", "not a JSON object"),
        (lambda text: text.replace('"ds_net-', '"ds_nut-'), "its run_id is 'ds_nut-"),
    ],
)
@pytest.mark.usefixtures("tables_only")
def test_a_damaged_record_is_named_and_the_others_are_shown(slicebench, store, tmp_path, damage, why):
    file = sorted((tmp_path / "results" / "runs").glob("ds_net-*/eval.json"))[0]
    file.write_text(damage(file.read_text()))
    before = everything_below(tmp_path / "results" / "runs")
    with pytest.warns(UserWarning, match="1 runs are set apart, for what failures.md says") as warned:
        assert slicebench("report").code == 0
    assert f"runs/{file.parent.name}/eval.json: content is {why}" in str(warned[0].message)
    assert everything_below(tmp_path / "results" / "runs") == before
    assert "us_net" in Path("results/tables/leaderboard.md").read_text()


@pytest.mark.usefixtures("tables_only")
def test_a_report_that_cannot_be_written(refused, store):
    Path("file").write_text("")
    assert refused("report", "--out", "file") == "cannot create file/tables: Not a directory"


# Profiles.


def test_the_profile_of_ds_mobilenet_is_the_published_one(slicebench):
    """METHODS 3.1 to the unit: 14 sub-networks and `largest` in both conventions, and what is stored."""
    from test_models_mobilenet import README_CONVENTION

    command = ["profile", "ds_mobilenet_v1", "--image-size", 224, "--choices", "all", "--json", "costs.json"]
    said = slicebench(*command)
    assert (said.code, said.err) == (0, "")
    assert "parameters stored with a gate of 4 options: 7,676,204 (batch-norm statistics excluded)" in said.out
    found = json.loads(Path("costs.json").read_text())
    nets = {net["name"]: net for net in found["subnetworks"]}
    assert list(nets) == [*(f"uniform{c}" for c in range(14)), "largest"]
    assert [nets[f"uniform{c}"]["madds_pool"] for c in range(14)] == README_CONVENTION
    assert (nets["uniform0"]["madds"], nets["uniform13"]["madds"]) == (132_004_224, 564_090_944)
    assert (nets["largest"]["madds"], nets["largest"]["madds_pool"]) == (817_617_376, 819_883_136)
    assert found["params_stored"] == {
        "supernet": 7_675_940, "gates": 1, "gate_options": 4, "gate": 264, "total": 7_676_204
    }  # fmt: skip
    assert found["image_size"] == 224
    assert all(f"{net['madds']:,}" in said.out and f"{net['madds_pool']:,}" in said.out for net in nets.values())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("ds_mobilenet_micr8", f"unknown model 'ds_mobilenet_micr8'; did you mean '{DS}'?"),
        (f"{DS} --choices 99", "no sub-network 99: this space has choices 0 to 3"),
        (f"{DS} --choices all,1", "--choices takes 'all', 'routable', 'spread:N' with N from 2, or indices"),
        (f"{DS} --batch 1 --time ²", "--time takes 'all', 'routable', 'spread:N' with N from 2, or indices and"),
        (f"{DS} --batch 0", "--batch takes whole numbers from 1 separated by commas, not '0'"),
        (f"{DS} --batch one", "--batch takes whole numbers from 1 separated by commas, not 'one'"),
        (f"{DS} --batch 99999999999 --choices 0", f"{DS} cannot be timed at batch 99999999999: not enough memory"),
        (f"{DS} --form onxx", "unknown form 'onxx'; did you mean 'onnx'? known: extracted, onnx, openvino, view"),
        (f"{DS} --time 0", "--time says which sub-networks are timed; say with --batch at which batch sizes"),
        ("ds_vit_micro8 --choices routable --batch 1", "256 sub-networks are more than the 64 that are timed together"),
        (f"{DS} --image-size 0", "invalid value for '--image-size': 0 is not in the range x>=1"),
        (f"{DS} --json no/costs.json", "no/costs.json cannot be written: no such directory"),
        (f"{DS} --json .", ". cannot be written: it is a directory"),
        ("ds_vit_micro8 --image-size 9", "ds_vit_micro8 cannot take images of 9 x 9: this Vision Transformer reads"),
        ("timm:nonsense", "timm has no model 'nonsense'"),
        ("timm:resnet19", "timm has no model 'resnet19'; did you mean 'resnet1"),
        ("timm:hf_hub:some/body", "timm has no model 'hf_hub:some/body'"),
        ("timm:resnet18 --choices 0", "timm:resnet18 has no sub-networks; leave --choices and --time out"),
        ("timm:resnet18 --form view", "timm:resnet18 is timed as it is, which is called extracted; leave --form out"),
        ("timm:vit_tiny_patch16_224 --image-size 100", "vit_tiny_patch16_224 cannot take images of 100 x 100: "),
    ],
)
def test_a_profile_that_cannot_be_made(refused, tmp_path, words, sentence):
    assert refused("profile", *words.split()).startswith(sentence)
    assert list(tmp_path.iterdir()) == []


# Lists.


@pytest.mark.parametrize(
    ("what", "known"),
    [
        ("methods", ["ds_net", "us_net", "uniform", "pruning", "random_gate", "fixed_choice"]),
        ("models", ["ds_mobilenet_v1", DS, US]),
        ("datasets", ["digits", "cifar10", "cifar100", "imagenet", "tiny_imagenet", "folder"]),
        ("recipes", ["quickstart", "cifar10_smoke", "cifar10"]),
        ("metrics", ["top1", "madds", "params_stored", "latency_ms"]),
        ("reported", ["ds_net", "us_net"]),
    ],
)
def test_lists(slicebench, what, known):
    said = slicebench("list", what)
    names = [line.split()[0] for line in said.out.splitlines()[2:]]
    assert (said.code, said.err) == (0, "")
    assert set(known) <= set(names)


LISTED_WITHOUT = """
import sys
from bench.cli import exit_code

code = exit_code(sys.argv[1:])
heavy = sorted({"torch", "torchvision", "timm", "ray", "pandas", "matplotlib", "scipy", "sklearn"} & set(sys.modules))
sys.exit(code or f"imported: {heavy}" if heavy or code else 0)
"""


@pytest.mark.parametrize("words", ["--help", "run --help", *(f"list {what}" for what in Listed)])
def test_help_and_lists_import_nothing_that_takes_seconds(words):
    line = [sys.executable, "-c", LISTED_WITHOUT, *words.split()]
    said = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout


def test_a_method_is_listed_with_its_kind_its_paper_and_what_it_serves(slicebench):
    (line,) = (line for line in slicebench("list", "methods").out.splitlines() if line.startswith("us_net "))
    paper = "Yu & Huang, ICCV 2019, arXiv 1903.05134"
    assert re.split(r" {2,}", line)[:5] == ["us_net", "slimmable", "universally slimmable", "all", paper]


def test_models_of_timm_are_searched_by_a_pattern(slicebench):
    said = slicebench("list", "models", "timm:*mobilenetv3_small_1*")
    assert (said.code, said.err) == (0, "")
    rows = [line.split() for line in said.out.splitlines()[2:]]
    assert ["timm:mobilenetv3_small_100", "224", "lamb_in1k"] in rows
    assert all(re.fullmatch("timm:.*mobilenetv3_small_1.*", row[0]) for row in rows)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("models timm:*nonsense*", "timm has no model whose name matches '*nonsense*'; * stands for any letters"),
        ("models resnet", "a pattern searches the models of timm, as in: slicebench list models 'timm:*resnet*'"),
        ("methods timm:*", "a pattern searches the models of timm, as in: slicebench list models 'timm:*'"),
    ],
)
def test_a_pattern_that_finds_nothing(refused, words, sentence):
    assert refused("list", *words.split()) == sentence


def test_what_a_plugin_registers_is_listed(slicebench, plugin):
    """Also where its class has no docstring."""
    said = slicebench("list", "methods", "--plugin", plugin)
    assert said.code == 0
    assert re.search(r"^linear +static +all", said.out, re.MULTILINE)


# In a process of its own.


def command(*words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-W", "error", "-m", "bench", *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, **how)


def test_exit_codes_of_the_process():
    said = command("run", "quickstrat")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("slicebench: unknown recipe 'quickstrat'; did you mean 'quickstart'?")
    assert said.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error():
    line = f"{sys.executable} -m bench list reported | head -1"
    said = subprocess.run(line, shell=True, capture_output=True, text=True, check=True, env=os.environ)
    assert said.stdout.startswith("method")
    assert said.stderr == ""


def test_a_warning_of_ours_is_a_sentence_and_others_are_as_python_shows_them():
    ours = str(Path(cli.__file__).parent / "data" / "voc.py")
    assert cli.formatted("2 boxes have no area", UserWarning, ours, 7) == "slicebench: warning: 2 boxes have no area\n"
    assert "elsewhere.py:7: UserWarning: hm" in cli.formatted("hm", UserWarning, "/elsewhere.py", 7)
