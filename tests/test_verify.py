"""`slicebench verify`: what it passes, and a table of lies with what catches each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bench import cli
from bench.core.files import sha256
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.core.store import Store, digest
from bench.executors.serial import run_all
from bench.methods import completed
from bench.reports.consistent import check_store

FINAL = "checkpoints/final.safetensors"
GATED, RANDOM, ALONE = "ds_net", "random_gate", "uniform"


def specs() -> list[RunSpec]:
    common: dict[str, Any] = {
        "data": DataSpec(train_images=120),
        "train": TrainSpec(epochs=1, batch_size=60, lr=0.15),
        "profile": ProfileSpec((2,), rounds=1, warmup=0),
    }
    model, runs = "ds_mobilenet_micro8", []
    for seed in (0, 1):
        options = {"gate_epochs": 1, "routing": [[0, 3]]}
        gated = completed(RunSpec(GATED, model, options=options, seed=seed, **common))
        runs.append(gated)
        runs.append(completed(RunSpec(RANDOM, model, seed=seed, init_from=gated.run_id, **common)))
        runs.append(completed(RunSpec(ALONE, model, options={"choices": [0]}, seed=seed, **common)))
    return runs


@pytest.fixture(scope="module")
def true_results(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("true")
    assert run_all(specs(), root, None).ok
    return root


@pytest.fixture
def results(true_results, tmp_path) -> Path:
    shutil.copytree(true_results, tmp_path / "results")
    return tmp_path / "results"


def folder(root: Path, method: str = GATED, seed: int = 0) -> Path:
    (spec,) = (spec for spec in specs() if (spec.method, spec.seed) == (method, seed))
    return root / "runs" / spec.run_id


def change(file: Path, how: Callable[[dict], Any]) -> None:
    """Change a phase and seal it again, as somebody would who knows how digests are made."""
    body = json.loads(file.read_text())
    how(body)
    body["digest"] = digest(body["records"], body["results"])
    file.write_text(json.dumps(body))


def record(body: dict, metric: str, point: int = 0) -> dict:
    return [each for each in body["records"] if each["metric"] == metric][point]


def point(body: dict) -> dict:
    return next(iter(body["results"]["points"].values()))


def change_images(root: Path, how: Callable[[dict[str, np.ndarray]], Any], method: str = GATED) -> None:
    """Change the per-image file, and its digest in the evaluation."""
    file = folder(root, method) / "per_image.safetensors"
    with safe_open(file, "np") as opened:
        about = opened.metadata()
    tensors = {key: value.copy() for key, value in load_file(file).items()}
    how(tensors)
    save_file(tensors, file, about)
    change(file.with_name("eval.json"), lambda body: body["results"]["per_image"].update(sha256=sha256(file)))


def set_value(metric: str, value: Any) -> Callable[[dict], Any]:
    return lambda body: record(body, metric).update(value=value)


def scale(metric: str, factor: float) -> Callable[[dict], Any]:
    return lambda body: record(body, metric).update(value=record(body, metric)["value"] * factor)


def detail(metric: str, key: str, value: Any) -> Callable[[dict], Any]:
    return lambda body: record(body, metric)["details"].update({key: value})


def told(key: str, value: Any) -> Callable[[dict], Any]:
    return lambda body: point(body).update({key: value})


def proof(key: str, value: Any) -> Callable[[dict], Any]:
    return lambda body: point(body)["executed_proof"].update({key: value})


EVAL: dict[str, tuple[Callable[[dict], Any], str]] = {
    "170 %": (set_value("top1", 1.7), "value of top1"),
    "a negative accuracy": (set_value("top1", -0.1), "value of top1"),
    "half a point more": (scale("top1", 1.01), "top1 of"),
    "perfect": (set_value("top1", 1.0), "top1 of"),
    "more correct images": (detail("top1", "correct", 597), "correct of"),
    "1,000 multiply-adds": (set_value("madds", 1000), "madds of"),
    "no multiply-adds": (set_value("madds", 0), "value of madds"),
    "negative multiply-adds": (set_value("madds", -5), "value of madds"),
    "one percent fewer multiply-adds": (scale("madds", 0.99), "madds of"),
    "a smaller minimum": (detail("madds", "min", 1), "madds min"),
    "a smaller maximum": (detail("madds", "max", 1), "madds max"),
    "a shared front that costs more than the whole": (told("front_madds", 10**9), "front_madds of"),
    "a shared front of nobody knows what": (told("front_madds", "half"), "front_madds of"),
    "another median": (detail("madds", "p50", 1), "madds p50"),
    "fewer parameters": (scale("params_active", 0.5), "params_active of"),
    "no parameters stored": (set_value("params_stored", 0), "value of params_stored"),
    "fewer stored than used": (set_value("params_stored", 5), "params_active of"),
    "more images": (lambda body: record(body, "top1").update(n=10_000), "n of top1"),
    "no images": (lambda body: record(body, "top1").update(n=0), "value of top1"),
    "another seed": (lambda body: record(body, "top1").update(seed=7), "seed of top1"),
    "another model": (lambda body: record(body, "top1").update(model="ds_mobilenet_v1"), "model of top1"),
    "another method": (lambda body: record(body, "top1").update(method="us_net"), "method of top1"),
    "another dataset": (lambda body: record(body, "top1").update(dataset="imagenet/official@1"), "dataset of top1"),
    "another split": (lambda body: record(body, "top1").update(split="digits/official@1:train"), "split of top1"),
    "another split everywhere": (lambda body: body["results"].update(split="digits/official@1:validation"), "split"),
    "another unit": (lambda body: record(body, "top1").update(unit="percent"), "content"),
    "an unknown metric": (lambda body: record(body, "top1").update(metric="top0"), "content"),
    "a record of another run": (lambda body: record(body, "top1").update(run_id="ds_net-0"), ""),
    "a value that is text": (set_value("top1", "high"), "content"),
    "a record twice": (lambda body: body["records"].append(dict(record(body, "top1"))), "there twice"),
    "a record less": (lambda body: body["records"].remove(record(body, "madds")), "records of"),
    "a point without records": (
        lambda body: body["results"]["points"].update(best=dict(point(body))),
        "points with records",
    ),
    "a point that training does not know": (
        lambda body: body["results"]["points"].update(best=body["results"]["points"].popitem()[1]),
        "points",
    ),
    "a static point that decides": (told("kind", "static"), "kind of"),
    "a histogram of one's own": (told("routing", {"0": 597}), "routing of"),
    "a routing space without what was taken": (told("routing_space", [[1, 2]]), "routing_space of"),
    "a control that is none": (told("control", {"of": "us_net-000000000000", "role": "random"}), "control.of"),
    "no proof": (told("executed_proof", None), "executed_proof"),
    "an empty proof": (told("executed_proof", {}), "executed_proof"),
    "a proof of a few images": (proof("images", 3), "images that the proof"),
    "a proof of other routes": (proof("networks", {"9": 5}), "executed_proof"),
    "a proof of smaller networks": (
        lambda body: point(body)["executed_proof"].update(
            networks={route: count - 1 for route, count in point(body)["executed_proof"]["networks"].items()}
        ),
        "multiply-adds of route",
    ),
    "a proof of no form": (proof("forms", []), "forms that the proof"),
    "another file of scores": (lambda body: body["results"]["per_image"].update(sha256="0" * 64), "per_image.sha256"),
    "a file elsewhere": (lambda body: body["results"]["per_image"].update(file="../../x"), "per_image.file"),
    "other test images": (lambda body: body["results"]["digests"].update(test="0" * 64), "digest of the split"),
    "no versions": (lambda body: body["environment"].pop("versions"), "environment.versions"),
    "negative seconds": (lambda body: body["timing"].update(seconds=-1.0), "timing"),
    "no results of points": (lambda body: body["results"].pop("points"), ""),
    "no headline": (lambda body: point(body).pop("headline"), ""),
}


@pytest.mark.parametrize("lie", EVAL)
def test_a_lie_in_an_evaluation(results, lie):
    how, caught = EVAL[lie]
    change(folder(results) / "eval.json", how)
    expect(results, folder(results).name, caught)


def expect(root: Path, run_id: str, caught: str) -> None:
    """The run is found out, by a problem that names the field; what does not stand on it still holds."""
    findings = check_store(root)
    problems = [str(problem) for problem in findings[run_id].problems]
    assert any(caught in problem for problem in problems), problems
    assert findings[folder(root, ALONE, 0).name].problems == []


IMAGES: dict[str, tuple[Callable[[dict[str, np.ndarray]], Any], str]] = {
    "a hundred more solved images": (lambda t: t["dynamic0-3/score"].__setitem__(slice(0, 400), 1), "top1 of"),
    "scores above one": (lambda t: t.update({"dynamic0-3/score": np.full(597, 1.5, np.float32)}), "score of"),
    "scores that are no numbers": (lambda t: t.update({"dynamic0-3/score": np.full(597, np.nan, np.float32)}), "score"),
    "half of the images": (
        lambda t: t.update({k: v[:300] for k, v in t.items() if k in ("dynamic0-3/score", "dynamic0-3/route")}),
        "n of",
    ),
    "cheaper routes": (lambda t: t.update({"dynamic0-3/madds": t["dynamic0-3/madds"] // 2}), "madds of"),
    "all images go to one network": (
        lambda t: t.update({"dynamic0-3/routes": np.full_like(t["dynamic0-3/routes"], 2)}),
        "routing",
    ),
    "no routes": (lambda t: t.pop("dynamic0-3/routes"), ""),
    "no scores": (lambda t: t.pop("dynamic0-3/score"), ""),
}


@pytest.mark.parametrize("lie", IMAGES)
def test_a_lie_in_the_scores_of_the_images(results, lie):
    how, caught = IMAGES[lie]
    change_images(results, how)
    expect(results, folder(results).name, caught)


def copy_seed(root: Path) -> None:
    """Seed 1 is seed 0 under another name."""
    one, two = folder(root, ALONE, 0), folder(root, ALONE, 1)
    for file in ("train.json", "eval.json", "profile.json"):
        text = (one / file).read_text().replace(one.name, two.name).replace('"seed": 0', '"seed": 1')
        (two / file).write_text(text)
        change(two / file, lambda body: None)
    shutil.copy(one / "per_image.safetensors", two)
    reown(two / "per_image.safetensors", two.name)
    change(
        two / "eval.json",
        lambda body: body["results"]["per_image"].update(sha256=sha256(two / "per_image.safetensors")),
    )


def reown(file: Path, run_id: str) -> None:
    with safe_open(file, "np") as opened:
        about = json.loads(opened.metadata()["slicebench"]) | {"run_id": run_id}
    save_file(load_file(file), file, {"slicebench": json.dumps(about, sort_keys=True)})


def in_profile(how: Callable[[dict], Any]) -> Callable[[Path], None]:
    return lambda root: change(folder(root) / "profile.json", how)


def in_train(how: Callable[[dict], Any]) -> Callable[[Path], None]:
    return lambda root: change(folder(root) / "train.json", how)


def other_weights(root: Path) -> None:
    file = folder(root) / "checkpoints" / "final.safetensors"
    with safe_open(file, "np") as opened:
        about = opened.metadata()
    tensors = load_file(file)
    tensors[next(iter(tensors))] += 1
    save_file(tensors, file, about)


def linked(root: Path) -> None:
    file = folder(root) / "eval.json"
    file.rename(root / "eval.json")
    file.symlink_to(root / "eval.json")


def unsealed(root: Path) -> None:
    file = folder(root) / "eval.json"
    file.write_text(file.read_text().replace('"n": 597', '"n": 598'))


FOLDER: dict[str, tuple[Callable[[Path], Any], str]] = {
    "numbers changed by hand": (unsealed, "do not match its digest"),
    "other weights": (other_weights, "digest of checkpoint final"),
    "weights of another run": (
        lambda root: shutil.copy(
            folder(root, seed=1) / "checkpoints" / "final.safetensors",
            folder(root) / "checkpoints" / "final.safetensors",
        ),
        "digest of checkpoint final",
    ),
    "a link": (linked, "a link or a special file"),
    "another spec": (
        lambda root: shutil.copy(folder(root, seed=1) / "spec.json", folder(root) / "spec.json"),
        "describes",
    ),
    "a spec that is no JSON": (lambda root: (folder(root) / "spec.json").write_text("[" * 100_000), "content"),
    "an evaluation that is no JSON": (lambda root: (folder(root) / "eval.json").write_text("{"), "content"),
    "scores that are no file of arrays": (
        lambda root: (folder(root) / "per_image.safetensors").write_bytes(b"x" * 100),
        "",
    ),
    "a latency of nothing": (in_profile(set_value("latency_ms", 0)), "value of latency_ms"),
    "a negative latency": (in_profile(set_value("latency_ms", -3.0)), "value of latency_ms"),
    "a faster throughput": (in_profile(scale("images_per_s", 2)), "images_per_s"),
    "a latency of another point": (
        in_profile(lambda body: record(body, "latency_ms").update(point="best")),
        "point of latency_ms",
    ),
    "a latency at another batch size": (in_profile(detail("latency_ms", "batch", 64)), "batch of latency_ms"),
    "a checkpoint elsewhere": (
        in_train(lambda body: body["results"]["checkpoints"].update({"../../../x": "0" * 64})),
        "name of a checkpoint",
    ),
    "a point less after training": (in_train(lambda body: body["results"].update(points=[])), "points"),
}


@pytest.mark.parametrize("lie", FOLDER)
def test_a_lie_in_the_folder(results, lie):
    how, caught = FOLDER[lie]
    how(results)
    expect(results, folder(results).name, caught)


def test_a_seed_that_is_a_copy(results):
    copy_seed(results)
    findings = check_store(results)
    problems = [str(problem) for problem in findings[folder(results, ALONE, 1).name].problems]
    assert any("scores is those of" in problem for problem in problems), problems
    assert any("checkpoints is those of" in problem for problem in problems), problems


def test_seeds_of_other_versions(results):
    def older(body: dict) -> None:
        body["environment"]["versions"]["torch"] = "1.0"

    change(folder(results, ALONE, 1) / "eval.json", older)
    findings = check_store(results)
    problems = [str(p) for run in (0, 1) for p in findings[folder(results, ALONE, run).name].problems]
    assert any("version of torch" in problem for problem in problems), problems


def test_so_many_lies():
    assert len(EVAL) + len(IMAGES) + len(FOLDER) + 2 >= 60


def test_true_results_hold_also_without_checkpoints(results):
    assert [str(p) for each in check_store(results).values() for p in each.problems] == []
    shutil.rmtree(folder(results) / "checkpoints")
    findings = check_store(results)[folder(results).name]
    assert findings.problems == []
    assert "checkpoint final: its digest cannot be compared" in findings.missing


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(map(str, words)))
    return int(ended.value.code or 0)


def test_the_command_executes_runs_again(results, capsys, tmp_path):
    names = [folder(results, method).name for method in (GATED, RANDOM, ALONE)]
    assert command("verify", *names, "--execute", "--results", results, "--json", tmp_path / "said.json") == 0
    said = json.loads((tmp_path / "said.json").read_text())["runs"]
    assert {run_id: about["tier"] for run_id, about in said.items()} == dict.fromkeys(names, "verified")
    assert "Not shown by this" in capsys.readouterr().out


def test_a_lie_that_agrees_with_itself_is_found_by_executing(results, capsys):
    """Ten more images solved, with every number that follows from it."""

    def solve(tensors: dict[str, np.ndarray]) -> None:
        wrong = np.flatnonzero(tensors["uniform0/score"] == 0)[:10]
        tensors["uniform0/score"][wrong] = 1

    change_images(results, solve, ALONE)
    file = folder(results, ALONE) / "per_image.safetensors"
    solved = int(load_file(file)["uniform0/score"].sum())

    def follow(body: dict) -> None:
        record(body, "top1").update(value=solved / 597)
        record(body, "top1")["details"].update(correct=solved)

    change(folder(results, ALONE) / "eval.json", follow)
    assert command("verify", folder(results, ALONE).name, "--results", results) == 0
    assert command("verify", folder(results, ALONE).name, "--execute", "--results", results) == 1
    assert "score and route of 10 images of uniform0" in capsys.readouterr().out


def test_a_missing_checkpoint_is_not_verifiable_here(results, capsys):
    shutil.rmtree(folder(results, ALONE) / "checkpoints")
    assert command("verify", folder(results, ALONE).name, "--execute", "--results", results) == 0
    said = capsys.readouterr().out
    assert f"{folder(results, ALONE).name}: consistent" in said
    assert "not verifiable here" in said


@pytest.mark.slow
def test_training_again_gives_the_same(results):
    assert command("verify", folder(results, ALONE).name, "--rerun", 1, "--results", results) == 0


def test_runs_that_are_not_there(results, capsys):
    assert command("verify", "us_net-000000000000", "--results", results) == 2
    assert command("verify", "--results", results / "nothing") == 2
    assert capsys.readouterr().err.count("slicebench: ") == 2


def test_a_store_is_not_written(results):
    store = Store(results, writable=False)
    before = {file: file.stat().st_mtime_ns for file in store.root.rglob("*")}
    check_store(results)
    assert {file: file.stat().st_mtime_ns for file in store.root.rglob("*")} == before
