"""Pretrained weights: read from files and from timm, kept by name, put where they belong, or refused in a sentence."""

import argparse

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_runs import small_net, state_of
from torch import nn

from bench.core.errors import UserError
from bench.models import PRESETS
from bench.models.resnet import timm_names as resnet_timm
from bench.models.resnet.presets import RESNET
from bench.models.transfer import from_timm, head_of, transfer
from bench.models.weights import Weights, fetch, find, given, keep, origin_of
from bench.models.weights_file import read_file
from bench.slicing.extract import extract

VIT = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 64, "depth": 4, "num_heads": 4, "mlp_ratio": 2}
X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def timm_vit(classes=10, **changes):
    """A timm Vision Transformer of the shape of `ds_vit_micro8`."""
    torch.manual_seed(classes)
    return timm.models.VisionTransformer(num_classes=classes, **{**VIT, **changes}).eval()


def timm_resnet(model="ds_resnet_bn_micro8", seed=7):
    """A checkpoint in timm's names, of the shape of a micro preset (which timm itself does not have)."""
    return {key: value.clone() for key, value in resnet_timm.to_timm(small_net(model, seed)).items()}


# Files.


def test_a_file_is_named_by_its_tensors_and_found_by_that_name(tmp_path):
    state = timm_vit().state_dict()
    forms = {
        "a.safetensors": lambda file: save_file(state, file),
        "b.pth": lambda file: torch.save(state, file),
        "c.pt": lambda file: torch.save({"state_dict": state, "epoch": 3}, file),
        "d.pth": lambda file: torch.save({"model": state, "optimizer": {}, "args": None}, file),
        "e.pth": lambda file: torch.save({f"module.{key}": value for key, value in state.items()}, file),
    }
    names = set()
    for name, write in forms.items():
        write(tmp_path / name)
        weights = given(str(tmp_path / name))
        names.add(weights.name)
        assert weights.state.keys() == state.keys()
    assert len(names) == 1
    keep(weights, tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    assert weights.name == f"sha256:{file.stem}"
    found = find(weights.name, tmp_path / "kept")
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_other_tensors_have_another_name(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pt")
    torch.save({"a": torch.ones(3)}, tmp_path / "b.pt")
    assert given(str(tmp_path / "a.pt")).name != given(str(tmp_path / "b.pt")).name


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda file: None, "there is no file of weights"),
        (lambda file: file.write_bytes(b"not a checkpoint"), "cannot be read as weights"),
        (lambda file: file.write_bytes(b""), "cannot be read as weights"),
        (lambda file: torch.save(nn.Linear(2, 2), file), "cannot be read as weights"),
        (
            lambda file: torch.save({"epoch": 3}, file),
            "holds no state dict, alone or under 'state_dict_ema' or .* or 'model'",
        ),
        (lambda file: torch.save([torch.zeros(2)], file), "holds no state dict"),
        (lambda file: torch.save({}, file), "holds no state dict"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_that_holds_no_weights(tmp_path, write, says, suffix):
    file = tmp_path / f"file.{suffix}"
    write(file)
    with pytest.raises(UserError, match=says if suffix == "pth" or "no file" in says else "cannot be read as weights"):
        read_file(file)


def test_the_averaged_weights_of_a_timm_checkpoint_are_taken_and_that_is_kept(tmp_path):
    raw, averaged = timm_vit().state_dict(), {key: value + 1 for key, value in timm_vit().state_dict().items()}
    content = {"epoch": 3, "state_dict": raw, "state_dict_ema": averaged, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "timm_train.pth.tar")
    weights = given(str(tmp_path / "timm_train.pth.tar"))
    assert all(torch.equal(weights.state[key], value) for key, value in averaged.items())
    keep(weights, tmp_path / "kept")
    assert origin_of(weights.name, tmp_path / "kept") == {"taken": "state_dict_ema", "beside": "state_dict"}
    assert find(weights.name, tmp_path / "kept").keys() == averaged.keys()


def test_a_file_with_one_state_dict_keeps_no_origin(tmp_path):
    torch.save({"state_dict": timm_vit().state_dict(), "state_dict_ema": None}, tmp_path / "a.pth")
    weights = given(str(tmp_path / "a.pth"))
    keep(weights, tmp_path / "kept")
    assert origin_of(weights.name, tmp_path / "kept") == {}


def of_lightning(state):
    inside = {f"model.{key}": value for key, value in state.items()}
    return {"state_dict": {**inside, "criterion.weight": torch.ones(10)}, "pytorch-lightning_version": "2.4.0"}


@pytest.mark.parametrize(
    ("wrapped", "beside"),
    [
        (lambda state: {f"_orig_mod.{key}": value for key, value in state.items()}, ()),
        (lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()}, ()),
        (lambda state: {key.replace("attn.", "attn._orig_mod."): value for key, value in state.items()}, ()),
        (lambda state: {f"model.{key}": value for key, value in state.items()}, ()),
        (lambda state: {f"module.model.{key}": value for key, value in state.items()}, ()),
        (lambda state: torch.optim.swa_utils.AveragedModel(timm_vit()).state_dict(), ("n_averaged",)),
        (of_lightning, ("criterion.weight",)),
    ],
)
def test_what_wrappers_put_in_front_of_names_is_taken_off(tmp_path, wrapped, beside):
    state = timm_vit().state_dict()
    torch.save(wrapped(state), tmp_path / "a.pth")
    checkpoint = read_file(tmp_path / "a.pth")
    assert checkpoint.beside == beside
    assert checkpoint.state.keys() == state.keys()
    assert all(torch.equal(checkpoint.state[key], value) for key, value in state.items())


def test_a_prefix_of_some_names_alone_is_part_of_them(tmp_path):
    torch.save({"model.weight": torch.ones(2), "head.weight": torch.ones(3)}, tmp_path / "a.pth")
    assert list(read_file(tmp_path / "a.pth").state) == ["head.weight", "model.weight"]


def changed(change):
    """A state dict with one kind of change in every tensor of `blocks.1`."""
    return {key: change(value) if "blocks.1." in key else value for key, value in timm_vit().state_dict().items()}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (
            lambda: changed(lambda value: (value * 10).to(torch.int8)),
            r"holds int8 and no .* in blocks.1.attn.proj.bias;",
        ),
        (lambda: changed(lambda value: value.long()), "holds int64 and no floating-point numbers in blocks.1"),
        (lambda: {"a": torch.zeros(2, dtype=torch.uint8)}, "holds uint8 and no floating-point numbers in a;"),
        (lambda: changed(lambda value: value * float("nan")), r"tensor blocks.1.attn.proj.bias of .*file is to blame"),
        (lambda: changed(lambda value: value / 0), "holds NaN or infinity: not the run, but the file is to blame"),
    ],
)
def test_numbers_that_are_no_weights_are_refused_when_they_are_read(tmp_path, state, says):
    torch.save(state(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=says):
        given(str(tmp_path / "a.pth"))
    weights = Weights("timm:before", state())  # kept by a version that did not look
    keep(weights, tmp_path / "kept")
    with pytest.raises(UserError, match=says):
        find("timm:before", tmp_path / "kept")


def test_counters_and_tables_of_indices_are_no_weights(tmp_path):
    state = {**timm_resnet(), "bn1.num_batches_tracked": torch.tensor(3), "index": torch.zeros(2, 2, dtype=torch.int64)}
    torch.save(state, tmp_path / "a.pth")
    assert read_file(tmp_path / "a.pth").state.keys() == state.keys()


class Own:
    """A class that a checkpoint may hold and that reading it must not build."""


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_code_is_one_plain_sentence(tmp_path, zipped):
    content = {"state_dict": timm_vit().state_dict(), "settings": Own()}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UserError, match=r"holds a test_models_weights.Own, which runs code .*; save its state dict"
    ) as told:
        read_file(tmp_path / "a.pth")
    assert str(told.value).isprintable()


def test_a_damaged_file_is_said_without_escape_codes(tmp_path):
    torch.save(timm_vit().state_dict(), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:5000])
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x02}q\x00(X")
    for name in ("cut.pth", "pickle.pth"):
        with pytest.raises(UserError, match="cannot be read as weights") as told:
            read_file(tmp_path / name)
        assert str(told.value).isprintable()


def test_weights_that_are_missing_or_were_changed(tmp_path):
    name = f"sha256:{'0' * 64}"
    with pytest.raises(UserError, match=r"are not in .*; give their file with --weights FILE"):
        find(name, tmp_path)
    keep(Weights(name, {"a": torch.zeros(2)}), tmp_path)
    with pytest.raises(UserError, match="are not those of their name"):
        find(name, tmp_path)


# timm, by name.


def test_weights_by_name_are_fetched_once_and_kept(tmp_path, monkeypatch):
    asked = []

    def create(name, pretrained=False):
        asked.append((name, pretrained))
        return timm_vit()

    monkeypatch.setattr(timm, "create_model", create)
    first = find("timm:deit_tiny_patch16_224", tmp_path)
    again = find("timm:deit_tiny_patch16_224", tmp_path)
    assert asked == [("deit_tiny_patch16_224", True)]
    assert all(torch.equal(first[key], value) for key, value in timm_vit().state_dict().items())
    assert first.keys() == again.keys()
    assert given("timm:deit_tiny_patch16_224").name == "timm:deit_tiny_patch16_224"


def test_a_name_that_timm_does_not_have():
    with pytest.raises(UserError, match=r"timm has no model 'resnet5O'; did you mean 'resnet50"):
        fetch("resnet5O")


def test_no_connection_is_one_sentence(monkeypatch):
    def unreachable(name, pretrained=False):
        raise OSError("Network is\nunreachable")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError, match=r"needs a connection or timm's cache \(OSError: Network is unreachable\)"):
        fetch("resnet50")


# Into a supernet.


@torch.no_grad()
def test_a_vision_transformer_starts_as_timms():
    theirs, net = timm_vit(), small_net("ds_vit_micro8").eval()
    found = from_timm(theirs.state_dict(), net, PRESETS.get("ds_vit_micro8").family)
    net.load_state_dict(found.state)
    torch.testing.assert_close(net(X, net.space.largest), theirs(X), rtol=1e-5, atol=1e-5)
    assert found.stayed == found.unused == ()


@pytest.mark.parametrize("model", ["ds_resnet_bn_micro8", "us_resnet_micro8"])
def test_a_resnet_starts_as_its_checkpoint(model):
    state, net = timm_resnet(model), small_net(model)
    found = from_timm(state, net, RESNET)
    net.load_state_dict(found.state)
    back = resnet_timm.to_timm(net)
    assert all(torch.equal(back[key], value) for key, value in state.items())
    assert found.stayed == ()


@pytest.mark.parametrize("classes", [0, 7])
def test_another_number_of_classes_keeps_the_new_head(classes):
    net = small_net("ds_vit_micro8")
    before = state_of(net)
    found = from_timm(timm_vit(classes).state_dict(), net, PRESETS.get("ds_vit_micro8").family)
    assert all("linear" in key for key in found.stayed)
    assert len(found.stayed) == 2
    assert all(torch.equal(found.state[key], before[key]) for key in found.stayed)
    assert found.unused == (("head.weight", "head.bias") if classes else ())
    moved = [key for key, value in before.items() if not torch.equal(found.state[key], value)]
    assert len(moved) > 40
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items()), "the network is not touched"


@pytest.mark.parametrize(
    ("state", "model", "says"),
    [
        (
            lambda: timm_vit().state_dict(),
            "ds_mobilenet_micro8",
            "no counterpart of the family mobilenet; families",
        ),
        (lambda: timm_vit().state_dict(), "us_mobilenet_micro8", r"ds_resnet50_bn, us_resnet50.*ds_vit_s, ds_vit_ti"),
        (lambda: timm_vit(embed_dim=32).state_dict(), "ds_vit_micro8", r"cls_token has shape \(1, 1, 32\)"),
        (lambda: timm_vit(qk_norm=True).state_dict(), "ds_vit_micro8", "not this network's layer norm"),
        (timm_resnet, "ds_vit_micro8", "layer norm|another architecture"),
        (lambda: timm_vit().state_dict(), "ds_resnet_bn_micro8", "no batch-norm statistics"),
        (timm_resnet, "ds_resnet_micro8", "has batch norm, and this network group norm of 4 channels a group"),
        (lambda: timm_resnet("ds_resnet_bn_micro32"), "ds_resnet_bn_micro8", "has shape|another architecture"),
    ],
)
def test_what_does_not_match_is_said(state, model, says):
    with pytest.raises(UserError, match=says):
        from_timm(state(), small_net(model), PRESETS.get(model).family)


@pytest.mark.slow
@torch.no_grad()
def test_full_size_networks_start_from_timms():
    for model, name, size in (("ds_vit_ti", "deit_tiny_patch16_224", 224), ("ds_resnet50_bn", "resnet50", 64)):
        theirs = timm.create_model(name).eval()
        net = PRESETS.get(model).build().eval()
        net.load_state_dict(from_timm(theirs.state_dict(), net, PRESETS.get(model).family).state)
        x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        expected = theirs(x)
        assert (net(x, net.space.largest) - expected).abs().max() <= 1e-5 * expected.abs().max()


# From another network of ours.


@pytest.mark.parametrize("model", ["ds_mobilenet_micro8", "us_resnet_micro8", "ds_vit_micro8"])
def test_all_but_a_head_of_another_size_is_taken(model):
    source, net = small_net(model, 1), PRESETS.get(model).build(classes=7)
    before = state_of(net)
    found = transfer(source.state_dict(), net, head_of(net))
    assert {key.rpartition(".")[0] for key in found.stayed} == {prefix.rstrip(".") for prefix in head_of(net)}
    assert found.unused == found.stayed
    for key, value in found.state.items():
        assert torch.equal(value, before[key] if key in found.stayed else source.state_dict()[key])
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_head_of_the_same_size_is_taken_whole_or_not_at_all():
    source, net = small_net(seed=1), small_net(seed=2)
    assert transfer(source.state_dict(), net, head_of(net)).stayed == ()
    (prefix,) = head_of(net)
    partly = {key: value for key, value in source.state_dict().items() if key != f"{prefix}bias"}
    assert set(transfer(partly, net, head_of(net)).stayed) == {f"{prefix}weight", f"{prefix}bias"}


def test_what_the_source_has_beside_is_told():
    net = small_net()
    found = transfer({**net.state_dict(), "other.weight": torch.zeros(1)}, net, head_of(net))
    assert found.unused == ("other.weight",)


def test_a_new_part_is_named_by_its_prefix():
    """A backbone that was trained goes under a head which the source never had."""
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1))
    detector = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 9, 3))
    found = transfer(backbone.state_dict(), detector, ["1."])
    assert found.stayed == found.unused == ("1.weight", "1.bias")
    with pytest.raises(UserError, match=r"1.weight needs the shape \(9, 4, 3, 3\), .* have the shape \(2, 4, 1, 1\)"):
        transfer(backbone.state_dict(), detector, ["2."])
    with pytest.raises(UserError, match=r"0.weight needs .* have nothing of that name"):
        transfer({"1.weight": torch.zeros(1)}, detector, ["1."])


@pytest.mark.parametrize("model", ["ds_mobilenet_micro8", "ds_resnet_micro8", "ds_vit_micro8"])
def test_the_head_of_a_plain_network_is_its_last_linear_layer(model):
    net = small_net(model)
    plain = extract(net, net.space.largest)
    ours = [key for key in plain.state_dict() if key.startswith(head_of(plain))]
    assert sorted(plain.state_dict()[key].shape[0] for key in ours) == [10, 10]
