"""Starting runs from the command line: weights by file, another run by name, and what does not fit before anything."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from small_runs import small_net

from bench import cli
from bench.core.errors import UserError
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.core.store import Store
from bench.methods import completed
from bench.models.resnet import timm_names as resnet_timm
from bench.runs.check import check, given_weights, keep_weights
from bench.runs.prepare import with_overrides
from bench.training import checkpoint as checkpoints

VIT, BN, DS = "ds_vit_micro8", "ds_resnet_bn_micro8", "ds_mobilenet_micro8"
SHORT = {"data": DataSpec(train_images=120), "train": TrainSpec(epochs=1, batch_size=60)}
BRIEF = {**SHORT, "profile": ProfileSpec(batch_sizes=(1,), rounds=1, warmup=0)}


@pytest.fixture
def checkpoint(tmp_path):
    """A timm Vision Transformer of the shape of `ds_vit_micro8`, in a file as training scripts write it."""
    network = timm.models.VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, embed_dim=64, depth=4, num_heads=4, mlp_ratio=2, num_classes=10
    )
    torch.save({"state_dict": network.state_dict(), "epoch": 9}, tmp_path / "vit.pth")
    return tmp_path / "vit.pth"


def slicebench(*words):
    return cli.exit_code([str(word) for word in words])


def specs_file(tmp_path, *specs):
    file = tmp_path / "specs.json"
    file.write_text(json.dumps([spec.to_json() for spec in specs]))
    return file


@pytest.mark.slow
def test_runs_start_from_a_file_and_need_it_no_more(tmp_path, checkpoint, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    file = specs_file(tmp_path, RunSpec("uniform", VIT, options={"choices": [3]}, **BRIEF))
    words = ("run", file, "--executor", "serial", "--results", tmp_path / "results", "--weights", checkpoint)
    assert slicebench(*words, "--dry-run") == 0
    assert not (tmp_path / "results").exists()
    assert slicebench(*words) == 0
    store = Store(tmp_path / "results")
    (run_id,) = store.runs()
    name = store.read_spec(run_id).weights
    assert name
    assert name.startswith("sha256:")
    assert str(tmp_path) not in json.dumps(store.read_spec(run_id).to_json())
    assert store.read(run_id, "train")["results"]["start"] == {"from": name, "stayed": [], "unused": []}
    checkpoint.unlink()
    (tmp_path / "again.json").write_text(json.dumps(store.read_spec(run_id).to_json()))
    words = ("run", tmp_path / "again.json", "--executor", "serial", "--results", tmp_path / "results")
    assert slicebench(*words) == 0
    assert "3 complete" in capsys.readouterr().out
    assert slicebench(*words[:-1], tmp_path / "elsewhere") == 2
    assert "give their file with --weights FILE" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_starts_from_one_on_other_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    first = completed(RunSpec("ds_net", BN, options={"gate_epochs": 1}, **BRIEF))
    words = ("--executor", "serial", "--results", tmp_path / "results")
    assert slicebench("run", specs_file(tmp_path, first), *words) == 0
    change = ("--set", f"init_from={first.run_id}", "--set", "data.train_images=60")
    assert slicebench("run", specs_file(tmp_path, first), *words, *change) == 0
    store = Store(tmp_path / "results")
    (second,) = set(store.runs()) - {first.run_id}
    assert store.read_spec(second).init_from == first.run_id
    assert store.read(second, "train")["results"]["start"]["from"] == first.run_id
    assert slicebench("run", specs_file(tmp_path, RunSpec("us_net", "us_resnet_micro8", **SHORT)), *words, *change) == 2
    said = capsys.readouterr().err
    assert f"us_net on us_resnet_micro8 cannot start from {first.run_id}, a run of {BN}: segments" in said


def test_controls_keep_their_parents(tmp_path):
    first = RunSpec("ds_net", BN)
    control = RunSpec("random_gate", BN, init_from=first.run_id)
    weights = f"sha256:{'a' * 64}"
    for key, value in (("init_from", "ds_net-0123456789ab"), ("weights", weights)):
        parent, child = with_overrides([first, control], {key: value})
        assert getattr(parent, key) == value
        assert child.init_from == parent.run_id
        assert child.weights is None


def kept(tmp_path, state):
    torch.save(state, tmp_path / "given.pt")
    given = given_weights(str(tmp_path / "given.pt"))
    keep_weights(given, Store(tmp_path))
    (name,) = given
    return name, given


def test_weights_are_compared_before_anything_runs(tmp_path):
    name, given = kept(tmp_path, resnet_timm.to_timm(small_net(BN)))
    check([RunSpec("ds_net", BN, weights=name, **SHORT)], None, tmp_path)
    check([RunSpec("ds_net", BN, weights=name, **SHORT)], None, None, given)
    check([RunSpec("us_net", "us_resnet_micro8", weights=name, **SHORT)], None, tmp_path)  # the same full network
    for model, says in (
        ("ds_resnet_micro8", "has batch norm, and this network group norm"),
        (DS, "timm has no counterpart of the family mobilenet"),
        (VIT, "layer norm|another architecture"),
    ):
        method = "ds_net_pp" if model == VIT else "ds_net"
        with pytest.raises(UserError, match=f"{method} on {model} cannot start from {name}: .*({says})"):
            check([RunSpec(method, model, weights=name, **SHORT)], None, tmp_path)


@pytest.mark.parametrize(
    ("child", "parent", "says"),
    [
        (RunSpec("us_net", "us_resnet_micro8"), RunSpec("ds_net", BN), "cannot start from .* a run of ds_resnet_bn"),
        (RunSpec("ds_net", BN), RunSpec("uniform", BN), "uniform trains each network alone"),
        (RunSpec("ds_net", BN), RunSpec("pruning", BN), "a run of pruning leaves no network to train on"),
        (RunSpec("random_gate", BN), RunSpec("uniform", BN), "is a run of uniform; gates are found in runs of ds_net"),
        (RunSpec("random_gate", BN), RunSpec("ds_net", BN, data=DataSpec(train_images=300)), "or other data"),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_parents_are_compared_before_anything_runs(tmp_path, child, parent, says, stored):
    child = replace(child, init_from=parent.run_id)
    if stored:
        store = Store(tmp_path)
        store.open_run(parent)
        store.write(parent.run_id, "train", {})
        file = store.path(parent.run_id) / "checkpoints" / "final.safetensors"
        checkpoints.save(file, checkpoints.gather({"supernet": small_net(parent.model)}), parent.run_id, {})
    with pytest.raises(UserError, match=says):
        check([child] if stored else [child, parent], None, tmp_path)


def test_calibration_images_are_counted_before_anything_runs():
    check([RunSpec("ds_net", BN, options={"calibration_images": 150})], None)
    says = "ds_net on ds_resnet_bn_micro8: calibration_images must be from 1 to the 150 of .*, not 151"
    with pytest.raises(UserError, match=says):
        check([RunSpec("ds_net", BN, options={"calibration_images": 151})], None)


def test_a_parent_with_another_number_of_images_is_fine():
    parent = RunSpec("ds_net", BN, data=DataSpec(train_images=300))
    check([RunSpec("ds_net", BN, init_from=parent.run_id), parent], None)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"weights": "/home/me/vit.pth"}, "weights must be timm:NAME or sha256:DIGEST"),
        ({"weights": "sha256:123"}, "weights must be timm:NAME or sha256:DIGEST"),
        ({"weights": "timm:a/b"}, "weights must be timm:NAME"),
        (
            {"weights": "timm:resnet50", "init_from": "ds_net-0123456789ab"},
            "from pretrained weights or from another run",
        ),
    ],
)
def test_a_start_that_a_spec_cannot_name(fields, says):
    with pytest.raises(UserError, match=says):
        RunSpec("ds_net", BN, **fields)


def test_a_meter_that_nobody_knows_is_said_before_anything_runs():
    spec = RunSpec("uniform", DS, options={"choices": [0]}, **{**SHORT, "profile": ProfileSpec(meters=("latencie",))})
    with pytest.raises(UserError, match="unknown meter 'latencie'; did you mean 'latency'"):
        check([spec], None)
