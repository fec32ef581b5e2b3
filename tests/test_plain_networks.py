"""Anyone's network as a model: timm's by name, a user's module by a plugin, their weights and their images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from image_folders import CLASSES, write_folders
from safetensors.torch import load_file, save_file
from torch import nn

from baselines.early_exit import exit_costs, with_exits
from baselines.staged import staged
from baselines.token_prune import TokenPruneOptions, costs_of, full_madds, pruned
from bench import cli
from bench.core.errors import UserError
from bench.core.image_input import ImageInput
from bench.core.settings import overridden
from bench.core.spec import DataSpec, RunSpec, TrainSpec
from bench.core.store import PHASES, Store
from bench.data import load
from bench.data.transforms import IMAGENET
from bench.models import PRESETS, own_network
from bench.models.official import imagenet_rows
from bench.models.plain.as_vit import as_vit
from bench.models.plain.cut import pieces
from bench.models.plain.weights import from_own
from bench.models.weights import start_from, weights_of
from bench.recipes.registry import resolve
from bench.runs.evaluate import AUTHORS
from bench.slicing.extract import extract
from bench.slicing.supernet import View

ROOT = Path(__file__).parent.parent


def slicebench(*words):
    return cli.exit_code([str(word) for word in words])


class Small(nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.then = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor, scale: float | None = None) -> torch.Tensor:
        x = self.then(self.norm(self.conv(x)).relu()).mean((2, 3))
        return self.fc(x if scale is None else x * scale)


WANTED = ImageInput(8, (0.25,), (0.5,))


def small(classes: int = 10, **how) -> nn.Module:
    preset = own_network("small", Small, WANTED, head=("fc",), stages=("conv", "then"), **how)
    return preset.build(classes, 1).eval()


def test_a_model_of_timm_is_a_preset_by_its_configuration():
    preset = PRESETS.get("timm:swin_tiny_patch4_window7_224")
    cfg = timm.get_pretrained_cfg("swin_tiny_patch4_window7_224")
    assert (preset.image_size, preset.classes, preset.channels) == (224, cfg.num_classes, 3)
    assert preset.input == ImageInput(224, cfg.mean, cfg.std, cfg.crop_pct, cfg.interpolation)
    assert weights_of(preset) == "timm:swin_tiny_patch4_window7_224"
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        PRESETS.get("timm:resnet18x")
    assert "timm:resnet18" not in PRESETS.names()


def test_position_embeddings_are_made_for_the_images():
    net = PRESETS.get("timm:deit_tiny_patch16_224").build(5, 3, image_size=64).eval()
    assert net(torch.zeros(1, 3, 64, 64), net.space.largest).shape == (1, 5)
    with pytest.raises(
        UserError, match=r"timm cannot make densenet121 for 3 x 64 x 64 images and 5 classes with train\.drop"
    ):
        PRESETS.get("timm:densenet121").build(5, 3, 0.1, image_size=64)


def test_what_the_user_module_says_wrong_is_a_sentence():
    with pytest.raises(UserError, match="this network has no submodule 'head'"):
        own_network("x", Small, WANTED, head=("head",)).build()

    def linear(classes, channels):
        raise TypeError("no")

    with pytest.raises(UserError, match=r"linear\(10, 3\) failed: TypeError: no"):
        own_network("x", linear, WANTED, head=()).build()
    with pytest.raises(UserError, match="x comes with no weights; name a file of them with --weights"):
        weights_of(own_network("x", Small, WANTED, head=("fc",)))


def test_images_are_made_as_the_network_wants_them():
    own, theirs = load(DataSpec("digits")), load(DataSpec("digits"), None, WANTED)
    resized = load(DataSpec("digits", image_size=16), None, WANTED)
    assert theirs.digests("train", "test") == own.digests("train", "test") == resized.digests("train", "test")
    assert (own.image_size, theirs.image_size, resized.image_size) == (8, 8, 16)
    pixels = own.validation.images[:4].transpose(0, 3, 1, 2) / own.validation.normalisation.peak
    x = next(theirs.validation.batches(4)).x
    np.testing.assert_allclose(x.numpy(), (pixels - 0.25) / 0.5, rtol=1e-5, atol=1e-6)
    assert next(resized.open_test().batches(4)).x.shape == (4, 1, 16, 16)
    coloured = load(DataSpec("digits"), None, ImageInput(32, IMAGENET.mean, IMAGENET.std))
    assert coloured.validation.normalisation == own.validation.normalisation
    assert coloured.image_size == 32


def test_images_in_files_are_made_so_too(tmp_path):
    write_folders(tmp_path / "imagenet", size=40)
    spec = DataSpec("imagenet", "subset", augmentation="light")
    wanted = ImageInput(24, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 0.8, "bilinear")
    own, theirs = load(spec, tmp_path), load(spec, tmp_path, wanted)
    assert own.digests("train", "test") == theirs.digests("train", "test")
    rule = theirs.open_test().pipeline
    assert (rule.size, rule.crop, rule.interpolation) == (24, 0.8, "bilinear")
    assert (rule.normalisation.mean, rule.normalisation.std) == (wanted.mean, wanted.std)
    x = next(theirs.train.train_batches(4, seed=0, epoch=0)).x
    assert x.shape == (4, 3, 24, 24)
    assert -2.01 < x.min() < x.max() < 2.01
    assert theirs.train.augmented_with("none", 0.5).pipeline.normalisation == rule.normalisation
    assert load(DataSpec("imagenet", "subset", image_size=16), tmp_path, wanted).image_size == 16
    with pytest.raises(UserError, match="wants images of 1 channels"):
        load(spec, tmp_path, WANTED)


def test_weights_come_under_the_names_of_the_module():
    source = Small(1000, 1)
    state = dict(source.state_dict())
    net = small(10)
    moved = from_own(state, net)
    prefix = "segments.0.units.0.network."
    assert moved.stayed == (f"{prefix}fc.weight", f"{prefix}fc.bias")
    assert set(moved.unused) == {"fc.weight", "fc.bias"}
    assert torch.equal(moved.state[f"{prefix}then.weight"], source.then.weight)
    photographs = small(len(CLASSES))
    moved = from_own(state, photographs, imagenet_rows(CLASSES))
    assert moved.stayed == ()
    assert torch.equal(moved.state[f"{prefix}fc.bias"], source.fc.bias[torch.tensor([0, 1, 2, 3])])
    del state["norm.num_batches_tracked"]  # a counter that nothing is computed from
    assert len(from_own(state, net).stayed) == 2
    del state["then.bias"]
    preset = own_network("small", Small, WANTED, head=("fc",))
    with pytest.raises(
        UserError, match=r"then.bias needs the shape \(8,\), and the weights to start from have nothing"
    ):
        start_from("sha256:" + 64 * "0", state, net, preset, ())


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_efficientnet", "test_convnext", "deit_tiny_patch16_224", "regnety_002"]
)
@torch.no_grad()
def test_pieces_run_one_behind_the_other_are_the_network(name):
    net = PRESETS.get(f"timm:{name}").build(5, 3, image_size=64).eval()
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cut = staged(net).eval()
    assert len(cut.blocks) >= 2
    torch.testing.assert_close(cut(x), View(net, net.space.largest)(x))
    exits = with_exits(cut, (0.3, 0.7), x[:1]).eval()
    costs, full = exit_costs(exits, x[:1])
    assert costs[0] < costs[-1]
    assert full < costs[-1]
    assert [output.shape for output in exits(x)] == [(2, 5)] * len(costs)


@torch.no_grad()
def test_maps_with_their_channels_last_have_exits_too():
    swin = timm.models.swin_transformer.SwinTransformer(
        img_size=56, window_size=7, embed_dim=16, depths=(1, 1, 1), num_heads=(1, 2, 4), num_classes=5
    )
    preset = own_network(
        "swin",
        lambda *_: swin,
        ImageInput(56, (0.5,) * 3, (0.5,) * 3),
        head=("head.fc",),
        stages=("layers.0", "layers.1", "layers.2"),
    )
    cut = staged(preset.build(5, 3))
    exits = with_exits(cut, (0.3,), torch.zeros(1, 3, 56, 56))
    assert exits.heads[0][1][2].in_features == 4 * 32


def test_networks_that_cannot_be_cut():
    with pytest.raises(UserError, match="names no stages"):
        pieces(Small(10, 1), [])
    with pytest.raises(UserError, match="are not each run once, in this order"):
        pieces(Small(10, 1), ["then", "conv"])

    class Skips(Small):
        def forward(self, x, scale=None):
            return self.fc((self.then(self.conv(x)) + x).mean((2, 3)))

    with pytest.raises(UserError, match="cannot be cut in front of its end, which reads x too"):
        pieces(Skips(10, 8), ["conv", "then"])

    class Asks(Small):
        def forward(self, x, scale=None):
            return self.fc(x.mean((2, 3)) if x.sum() > 0 else self.conv(x).mean((2, 3)))

    with pytest.raises(UserError, match="cannot be traced around its stages"):
        pieces(Asks(10, 1), ["conv"])


@torch.no_grad()
def test_tokens_of_timms_transformer_are_pruned():
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    net = PRESETS.get("timm:deit_tiny_patch16_224").build(5, 3, image_size=64).eval()
    plain = extract(net, net.space.largest)[0]
    torch.testing.assert_close(as_vit(plain, 64).eval()(x), plain(x))
    network = pruned(net, TokenPruneOptions(keep=(0.5,)), 64).eval()
    torch.testing.assert_close(network(x, 1), plain(x))
    costs, full = costs_of(network), full_madds(net, 64)
    assert costs[0] < full < costs[1]
    with pytest.raises(UserError, match="this network is none"):
        pruned(PRESETS.get("timm:test_resnet").build(5, 3, image_size=64), TokenPruneOptions(), 64)
    pooled = timm.create_model("deit_tiny_patch16_224", num_classes=5, img_size=64, global_pool="avg")
    with pytest.raises(UserError, match=r"this network (computes something else|is none)"):
        as_vit(pooled, 64)


def test_epochs_reach_runs_that_train():
    trains, cut = RunSpec("plain", "x"), RunSpec("pruning", "x", train=TrainSpec(epochs=0))
    options = {"plain": (), "pruning": ()}
    assert [s.train.epochs for s in overridden([trains, cut], {"train.epochs": "3"}, options)] == [3, 0]
    assert [s.train.epochs for s in overridden([cut], {"epochs": "3"}, options)] == [3]


def test_recipes_take_models():
    settings = {"models": "timm:resnet18,timm:test_vit", "seed": "3"}
    specs = resolve("pretrained", None, settings)
    assert settings == {"seed": "3"}
    assert [(s.model, s.weights, s.train.epochs) for s in specs] == [
        ("timm:resnet18", "timm:resnet18", 0),
        ("timm:test_vit", "timm:test_vit", 0),
    ]
    whole, cut = resolve("finetune", range(1), {"models": "timm:test_vit"})
    assert cut.init_from == whole.run_id
    with pytest.raises(UserError, match="timm has no model"):
        resolve("pretrained", None, {"models": "timm:nothing_like_it"})


SHORT = ("--executor", "serial", "--device", "cpu", "--set", "profile.rounds=1", "--set", "profile.warmup=0",
         "--set", "profile.batch_sizes=[1]")  # fmt: skip


@pytest.mark.slow
def test_the_network_of_the_page_with_its_weights(tmp_path, monkeypatch, capsys):
    """A plugin's module from a file of weights: as it is, pruned, with exits; then verified."""
    source = (ROOT / "docs" / "examples" / "own_network.py").read_text(encoding="utf-8")
    plugin = tmp_path / "own_network.py"
    plugin.write_text(source.replace('"small_net"', '"small_net_of_a_test"'), encoding="utf-8")
    names = {}
    exec(compile(source.replace('"small_net"', '"small_net_first"'), "own_network", "exec"), names)
    torch.manual_seed(0)
    save_file(names["SmallNet"](10, 1).state_dict(), tmp_path / "own.safetensors")
    monkeypatch.setenv("OWN_WEIGHTS", str(tmp_path / "own.safetensors"))
    results = tmp_path / "results"
    where = ("--results", results, *SHORT, "--set", "train.epochs=1", "--set", "finetune_epochs=1")
    assert slicebench("run", f"{plugin}:table", *where) == 0
    store = Store(results)
    assert len(store.runs()) == 3
    for run_id in store.runs():
        assert all(store.has(run_id, phase) for phase in PHASES)
        start = store.read(run_id, "train")["results"]["start"]
        assert start["from"] == store.read_spec(run_id).weights
        assert (start["stayed"], start["unused"]) == ([], [])
    assert slicebench("verify", "--execute", "--results", results, "--plugin", plugin) == 0
    assert str(tmp_path) not in json.dumps([store.read_spec(run_id).to_json() for run_id in store.runs()])


@pytest.mark.slow
def test_published_weights_are_only_evaluated(tmp_path, capsys):
    """Made-up weights of timm's shapes on photographs of four classes of ImageNet: a tier of their own."""
    write_folders(tmp_path / "imagenet", train=20, val=2, size=180)
    torch.manual_seed(0)
    file = tmp_path / "theirs.pth"
    torch.save({"state_dict": timm.create_model("test_resnet").state_dict()}, file)
    results = tmp_path / "results"
    words = (
        "run",
        "pretrained",
        "--set",
        "models=timm:test_resnet",
        "--set",
        "data.protocol=subset",
        "--data",
        tmp_path,
    )
    assert slicebench(*words, "--weights", file, "--results", results, *SHORT) == 0
    store = Store(results)
    (run_id,) = store.runs()
    (point,) = store.read(run_id, "eval")["results"]["points"].values()
    assert point["tier"] == AUTHORS
    assert store.read(run_id, "train")["results"]["start"]["stayed"] == []
    assert slicebench("verify", "--execute", "--results", results, "--data", tmp_path) == 0
    os.rename(tmp_path / "imagenet" / "train" / CLASSES[0], tmp_path / "imagenet" / "train" / "goldfish")
    os.rename(tmp_path / "imagenet" / "val" / CLASSES[0], tmp_path / "imagenet" / "val" / "goldfish")
    assert slicebench(*words, "--weights", file, "--results", tmp_path / "others", *SHORT) == 2
    assert "nothing is trained, and their classifier is not one of these 4 classes" in capsys.readouterr().err


ELSEWHERE = """
import sys
from safetensors.torch import load_file, save_file
from bench.export.safetensors_file import load_plain

network = load_plain(sys.argv[1])
x = load_file(sys.argv[2])["x"]
save_file({"y": network(x).detach()}, sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit", "timm:test_efficientnet"])
def test_a_pruned_network_of_timm_is_loaded_elsewhere(name, tmp_path):
    """A file alone, in a fresh process, gives the outputs of the run's point; the run's folder is gone."""
    from bench.runs.run import open_run, points_of

    results = tmp_path / "results"
    file = tmp_path / "specs.json"
    spec = RunSpec("pruning", name, DataSpec(train_images=128, image_size=32), TrainSpec(epochs=0, batch_size=32),
                   options={"budgets": [0.5], "finetune_epochs": 1})  # fmt: skip
    file.write_text(json.dumps([spec.to_json()]))
    assert slicebench("run", file, "--results", results, *SHORT) == 0
    store = Store(results)
    (run_id,) = store.runs()
    run = open_run(store, run_id, None)
    (point,) = points_of(run)
    x = next(run.data.validation.batches(8)).x.contiguous()
    out = tmp_path / "pruned.safetensors"
    assert slicebench("export", run_id, "--point", point.name, "--format", "safetensors", "--out", out,
                      "--results", results) == 0  # fmt: skip
    with torch.no_grad():
        expected = point.network(x)
    save_file({"x": x}, tmp_path / "x.safetensors")
    (tmp_path / "results").rename(tmp_path / "away")
    command = [sys.executable, "-c", ELSEWHERE, str(out), str(tmp_path / "x.safetensors"), str(tmp_path / "y")]
    subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    torch.testing.assert_close(load_file(tmp_path / "y")["y"], expected, rtol=1e-5, atol=1e-6)
