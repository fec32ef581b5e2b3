"""What a model costs: every micro preset, gates and conventions by hand, and that sizes that do not fit are said."""

import json
import warnings

import pytest
import torch
from torch import nn

from bench.core.errors import UserError
from bench.models import MODELS
from bench.profilers.model import check_size, chosen, own_size, profile_supernet, profile_timm
from bench.slicing.extract import extract, parameters_of

MICRO = [name for name in MODELS.names() if "micro" in name]
DS = "ds_mobilenet_micro8"


@pytest.mark.parametrize("name", MICRO)
def test_every_micro_preset_has_a_profile_at_its_own_size(name):
    found = profile_supernet(name, None, "all", [], ["view"], 4)
    net = MODELS.get(name)()
    assert found["image_size"] == own_size(name) == int(name.rpartition("micro")[2])
    assert [row["name"] for row in found["subnetworks"]] == [net.space.name_of(choice) for choice in net.space.named]
    madds = [row["madds"] for row in found["subnetworks"][: len(net.space.uniform_choices)]]
    assert madds == sorted(madds)
    assert all(row["madds_pool"] >= row["madds"] > 0 for row in found["subnetworks"])
    assert found["params_stored"]["supernet"] == parameters_of(net)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("name", [DS, "us_resnet_micro8", "ds_vit_micro8"])
def test_latency_of_each_form(name):
    found = profile_supernet(name, None, "0", [1, 2], ["view", "extracted"], 4)
    (row,) = found["subnetworks"]
    assert [(timed["form"], timed["batch"]) for timed in row["latency"]] == [
        ("view", 1), ("extracted", 1), ("view", 2), ("extracted", 2)
    ]  # fmt: skip
    assert all(timed["median_ms"] > 0 and timed["n"] == 11 for timed in row["latency"])
    assert all(timed["p90_ms"] >= timed["median_ms"] for timed in row["latency"])
    json.dumps(found, allow_nan=False)


def test_only_the_forms_that_were_asked_for():
    (row,) = profile_supernet(DS, None, "largest", [1], ["extracted"], 4)["subnetworks"]
    assert [timed["form"] for timed in row["latency"]] == ["extracted"]


def test_gates_are_stored_with_a_layer_of_their_own_where_they_have_one():
    """One gate on 264 / 4 = 66 features; three gates, each with its hidden layer."""
    assert profile_supernet("ds_mobilenet_v1", 32, "0", [], [], 4)["params_stored"]["gate"] == 66 * 4
    net = MODELS.get("ds_resnet_micro8")()
    stored = profile_supernet("ds_resnet_micro8", None, "0", [], [], 3)["params_stored"]
    assert (stored["gates"], stored["gate_options"]) == (len(net.space.decisions), 3)
    choice, x, trunks = net.space.smallest, torch.zeros(1, net.input_channels, 8, 8), []
    with torch.no_grad():
        for index, segment in enumerate(list(net.eval().segments)[:-1]):
            x, features = segment(x, choice.prefix(net.space.depth_after(index)))
            trunks.append(features.trunk.shape[1])
    hidden = net.gate_hidden
    assert hidden > 0
    assert stored["gate"] == sum(trunk * hidden + hidden + hidden * 3 for trunk in trunks)
    assert stored["total"] == stored["supernet"] + stored["gate"]


def test_a_model_without_gates_stores_none():
    stored = profile_supernet("us_mobilenet_micro8", None, "0", [], [], 4)["params_stored"]
    assert (stored["gates"], stored["gate_options"], stored["gate"]) == (0, 0, 0)


def test_active_parameters_are_those_of_the_extracted_network():
    net = MODELS.get(DS)().eval()
    rows = profile_supernet(DS, None, "all", [], [], 4)["subnetworks"]
    for row, choice in zip(rows, net.space.named, strict=True):
        assert row["params_active"] == sum(p.numel() for p in extract(net, choice).parameters())


def test_choices():
    net = MODELS.get(DS)()
    space = net.space
    assert chosen(net, "all") == list(space.named)
    assert chosen(net, " 2, largest,0 ") == [space.uniform(2), space.largest, space.uniform(0)]
    assert chosen(net, "1,1,0") == [space.uniform(1), space.uniform(0)]
    for text in ("", "one", "-1", "1;2", "²"):
        with pytest.raises(UserError, match="--choices takes 'all', indices and 'largest'"):
            chosen(net, text)
    with pytest.raises(UserError, match="no sub-network 4: this space has choices 0 to 3"):
        chosen(net, "0,4")


def test_sizes():
    assert [own_size(name) for name in ("ds_vit_micro64", "ds_mobilenet_v1", "ds_mobilenet_micro32")] == [64, 224, 32]
    check_size(MODELS.get("ds_mobilenet_micro8")(), DS, 1)
    with pytest.raises(UserError, match="ds_vit_micro8 cannot take images of 9 x 9: "):
        profile_supernet("ds_vit_micro8", 9, "0", [], [], 4)
    with pytest.raises(UserError, match="cannot be timed at batch 99999999999: not enough memory"):
        profile_supernet(DS, None, "0", [99_999_999_999], ["view"], 4)


# Models of timm: a small one, as it is, stands for all.


def test_a_timm_model():
    found = profile_timm("test_resnet.r160_in1k", None, [1])
    (row,) = found["subnetworks"]
    assert (found["model"], found["image_size"]) == ("timm:test_resnet.r160_in1k", 160)
    assert row["madds"] > 0
    assert row["params_active"] > 0
    assert [(timed["form"], timed["batch"]) for timed in row["latency"]] == [("extracted", 1)]
    json.dumps(found, allow_nan=False)


def test_a_timm_model_at_another_size_costs_in_proportion():
    """Without its classifier, ResNet-18 is all convolutions: half the size, a quarter of the multiply-adds."""
    (large,), (small,) = (profile_timm("resnet18", size, [])["subnetworks"] for size in (64, 32))
    head = 512 * 1000
    assert large["madds"] - head == 4 * (small["madds"] - head)


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        ("resnet19", None, "timm has no model 'resnet19'; did you mean 'resnet"),
        ("", None, "timm has no model ''"),
        ("hf_hub:some/body", None, "timm has no model 'hf_hub:some/body'"),  # and nothing is looked for on a network
        ("resnet18.nobody_in1k", None, "timm cannot make 'resnet18.nobody_in1k': Invalid pretrained tag"),
        ("vit_tiny_patch16_224", 100, "vit_tiny_patch16_224 cannot take images of 100 x 100: Input height"),
    ],
)
def test_a_timm_model_that_cannot_be_had(name, size, sentence):
    with pytest.raises(UserError, match=sentence):
        profile_timm(name, size, [])


def test_old_names_of_timm_still_work_without_a_warning():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert profile_timm("vit_tiny_patch16_224_in21k", 224, [])["subnetworks"][0]["madds"] > 1e9
    assert [str(w.message) for w in said] == []


def test_a_wrong_operator_is_not_taken_for_a_wrong_size(monkeypatch):
    """What no counter knows is told as such, not as a size that does not fit."""

    class Spectral(nn.Module):
        def forward(self, x):
            return torch.fft.fft2(x).abs()

    monkeypatch.setattr("timm.is_model", lambda name: True)
    monkeypatch.setattr("timm.create_model", lambda name: Spectral())
    with pytest.raises(UserError, match=r"no rule says what _fft_\w+ costs"):
        profile_timm("spectral", 8, [])
