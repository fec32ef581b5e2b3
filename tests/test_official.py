"""Official checkpoints from the user's own file to rows of a tier of their own: names, origin, recipes end to end."""

import argparse
import hashlib
import json

import pytest
import torch
from golden_networks import fixture, state_of
from image_folders import CLASSES, write_folders
from safetensors.torch import save_file

from baselines.pretrained import Pretrained, require_authors_classes
from bench import cli
from bench.core.errors import UserError
from bench.core.settings import parse_spec
from bench.core.spec import DataSpec, RunSpec, TrainSpec
from bench.core.store import PHASES, Store
from bench.data import load
from bench.models import PRESETS
from bench.models.weights import find, given, keep, origin_of
from bench.recipes.registry import resolve
from bench.runs.evaluate import AUTHORS

RAW, EMA = torch.zeros(3), torch.ones(3)


def slicebench(*words):
    return cli.exit_code([str(word) for word in words])


@pytest.mark.parametrize(
    ("content", "taken", "value"),
    [
        ({"state_dict": {"a": RAW}, "state_dict_ema": {"module.a": EMA}}, "state_dict_ema", EMA),
        ({"state_dict": {"module.a": RAW}, "args": argparse.Namespace(lr=1)}, "state_dict", RAW),
        ({"model": {"module.a": RAW}}, "model", RAW),
        ({"module.a": RAW}, "the whole file", RAW),
    ],
)
def test_averaged_weights_are_preferred_and_the_record_says_which_were_taken(content, taken, value, tmp_path):
    torch.save(content, tmp_path / "theirs.pth.tar")
    weights = given(f"official:ds_mbnet={tmp_path / 'theirs.pth.tar'}")
    assert torch.equal(weights.state["a"], value)
    digest = hashlib.sha256((tmp_path / "theirs.pth.tar").read_bytes()).hexdigest()
    rest = {"beside": "state_dict"} if taken == "state_dict_ema" else {}
    assert weights.origin == {"file": digest, "taken": taken, **rest}
    keep(weights, tmp_path / "weights")
    (file,) = (tmp_path / "weights").iterdir()
    assert weights.name == f"official:ds_mbnet=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert torch.equal(find(weights.name, tmp_path / "weights")["a"], value)
    assert origin_of(weights.name, tmp_path / "weights") == weights.origin
    spec = RunSpec("pretrained", "ds_mobilenet_v1", weights=weights.name)
    assert parse_spec(spec.to_json()) == spec
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="are not those of their name"):
        find(weights.name, tmp_path / "weights")
    file.unlink()
    with pytest.raises(UserError, match="give their file with --weights official:ds_mbnet=FILE"):
        find(weights.name, tmp_path / "weights")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("official:scala=nowhere.pth", "official:scala cannot be read: its code cuts the rows of query, key and value"),
        ("official:ds_mbne=nowhere.pth", "unknown format of official weights 'ds_mbne'; did you mean 'ds_mbnet'"),
        ("official:ds_mbnet", "name the file of the weights too: official:ds_mbnet=FILE"),
        ("official:ds_mbnet=nowhere.pth", "there is no file of weights nowhere.pth"),
    ],
)
def test_what_cannot_be_given(text, says):
    with pytest.raises(UserError, match=says) as error:
        given(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "weights", ["official:Ds=sha256:" + 64 * "0", "official:ds_mbnet=file.pth", "official:ds_mbnet"]
)
def test_names_that_no_spec_may_hold(weights):
    with pytest.raises(UserError, match="weights must be timm:NAME or sha256:DIGEST"):
        RunSpec("pretrained", "ds_mobilenet_v1", weights=weights)


def test_what_is_evaluated_as_it_is_must_be_given_and_fit():
    net = PRESETS.get("us_mobilenet_micro8").build()
    name, untrained = "official:us_mobilenet_v1=sha256:" + 64 * "0", TrainSpec(epochs=0)
    for spec, says in (
        (RunSpec("pretrained", "us_mobilenet_v1", train=untrained), "needs --weights official:FORMAT=FILE"),
        (RunSpec("pretrained", "us_mobilenet_v1", weights=name), "train.epochs must be 0, not 10"),
        (
            RunSpec("pretrained", "us_mobilenet_v1", train=untrained, weights=name, options={"steps": (99,)}),
            "99",
        ),
    ):
        with pytest.raises(UserError, match=says):
            Pretrained().check(spec, net, 8)
    with pytest.raises(UserError, match="not all 10 of digits"):
        require_authors_classes(
            RunSpec("pretrained", "us_mobilenet_v1", train=untrained, weights=name), load(DataSpec())
        )


def test_the_second_round_is_not_evaluated_without_weights(tmp_path, capsys, monkeypatch):
    write_folders(tmp_path / "imagenet", train=20, val=1)
    words = ("--executor", "serial", "--data", tmp_path, "--results", tmp_path / "results", "--device", "cpu")
    subset = ("--set", "data.protocol=subset")
    assert slicebench("run", "official_thinking_vit", *words, *subset) == 2
    assert "it needs --weights official:thinking_vit=FILE" in capsys.readouterr().err
    assert slicebench("run", "official_us_mobilenet", *words, *subset) == 2
    assert "it needs --weights official:FORMAT=FILE" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def released(name: str, folder, prefix: str, key: str | None):
    """A file of made-up weights in the exact names, shapes and container of a release, its counters too."""
    golden = fixture(name)
    state = state_of(golden) | {row[0]: torch.tensor(0) for row in golden["tensors"] if row[2] == "int64"}
    if key is None:
        save_file(state, folder / "theirs.safetensors")
        return folder / "theirs.safetensors"
    torch.save({key: {prefix + each: value for each, value in state.items()}, "epoch": 1}, folder / "theirs.pth.tar")
    return folder / "theirs.pth.tar"


RELEASES = {  # recipe: format, fixture, prefix, key, settings, points
    "official_us_mobilenet": ("us_mobilenet_v1", "us_mobilenet_v1", "module.", "model", "[0, 30]", 2),
    "official_ds_mbnet": (
        "ds_mbnet", "dsnet_slimmable_mbnet_v1_bn_uniform", "module.", "state_dict_ema", "[0, 13]", 2
    ),
    "official_thinking_vit": ("thinking_vit", "thinkingvit_deit_3h_6h", "", None, "[0.0, 5.0]", 2),
    "official_hydravit": ("hydravit", "hydravit_deit_b", "", "state_dict_ema", "[0]", 1),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RELEASES)
def test_a_release_from_its_file_to_a_table(recipe, tmp_path, monkeypatch):
    """Made-up weights and photographs of four classes of ImageNet: trained nothing, proven, in a tier of its own."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    label, golden, prefix, key, some, count = RELEASES[recipe]
    write_folders(tmp_path / "imagenet", train=20, val=2, size=240)
    file, results = released(golden, tmp_path, prefix, key), tmp_path / "results"
    option = "thresholds" if label == "thinking_vit" else "steps"
    settings = {"data.protocol": "subset", f"options.{option}": some, "profile.batch_sizes": "[1]",
                "profile.rounds": "1", "profile.warmup": "0"}  # fmt: skip
    words = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    where = ("--executor", "serial", "--data", tmp_path, "--results", results, "--weights", f"official:{label}={file}")
    assert slicebench("run", recipe, *where, *words) == 0
    store = Store(results)
    (run_id,) = store.runs()
    assert all(store.has(run_id, phase) for phase in PHASES)
    start = store.read(run_id, "train")["results"]["start"]
    assert start["from"].startswith(f"official:{label}=sha256:")
    assert start["origin"] == {"file": hashlib.sha256(file.read_bytes()).hexdigest(), "taken": key or "the whole file"}
    assert start["stayed"] == []
    others = [name for name in start["unused"] if not name.endswith("num_batches_tracked")]
    assert others == ["blocks.3.first_block.gate.gate.0.weight"] * (label == "ds_mbnet")
    points = store.read(run_id, "eval")["results"]["points"]
    assert len(points) == count
    assert {point["tier"] for point in points.values()} == {AUTHORS}
    assert all(point["executed_proof"]["forms"] == ["extracted", "view"] for point in points.values())
    if label == "thinking_vit":
        assert start["beside"] == ["alpha.0", "proj_layer.weight", "proj_layer.bias"]
        assert [points[f"entropy{value}"]["routing"] for value in ("0", "5")] == [{"1": 8}, {"0": 8}]
    rows = [line for line in (results / "tables" / "leaderboard.md").read_text().splitlines() if "imagenet" not in line]
    assert sum(AUTHORS in row for row in rows) == count
    assert "other images" in (results / "tables" / "authors.md").read_text()
    assert slicebench("verify", "--execute", "--results", results, "--data", tmp_path) == 0
    assert str(tmp_path) not in json.dumps(store.read_spec(run_id).to_json())


def test_the_classes_of_these_photographs_are_imagenets():
    assert len(CLASSES) == 4
    for name in RELEASES:
        (spec,) = resolve(name, range(1))
        assert (spec.train.epochs, spec.data.name) == (0, "imagenet")
