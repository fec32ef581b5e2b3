"""What a model costs: every micro preset, gates and conventions by hand, and that sizes that do not fit are said."""

import json
import random
import warnings

import pytest
import torch
from torch import nn

from bench.core.errors import UserError
from bench.data.voc import EDGE, OFFICIAL_EDGE
from bench.models import PRESETS
from bench.profilers.choices import routable
from bench.profilers.model import active_parameters, check_size, profile_supernet, profile_timm
from bench.profilers.timing import FORMS, Timing
from bench.slicing.extract import extract, extract_segment, parameters_of

MICRO = [name for name in PRESETS.names() if "micro" in name]
DS = "ds_mobilenet_micro8"
NONE = Timing()


@pytest.mark.parametrize("name", MICRO)
def test_every_micro_preset_has_a_profile_at_its_own_size(name):
    found = profile_supernet(name, None, "all", NONE)
    net = PRESETS.get(name).build()
    assert found["image_size"] == PRESETS.get(name).image_size == int(name.rpartition("micro")[2] or EDGE)
    assert [row["name"] for row in found["subnetworks"]] == [net.space.name_of(choice) for choice in net.space.named]
    madds = [row["madds"] for row in found["subnetworks"][: len(net.space.uniform_choices)]]
    assert madds == sorted(madds)
    assert all(row["madds_pool"] >= row["madds"] > 0 for row in found["subnetworks"])
    assert found["params_stored"]["supernet"] == parameters_of(net)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("name", [DS, "us_resnet_micro8", "ds_vit_micro8"])
def test_latency_of_each_form(name):
    found = profile_supernet(name, None, "0", Timing([1, 2]))
    (row,) = found["subnetworks"]
    assert [(timed["form"], timed["batch"]) for timed in row["latency"]] == [
        ("view", 1), ("extracted", 1), ("view", 2), ("extracted", 2)
    ]  # fmt: skip
    assert all(timed["median_ms"] > 0 and timed["n"] == 11 for timed in row["latency"])
    assert all(timed["p90_ms"] >= timed["median_ms"] for timed in row["latency"])
    json.dumps(found, allow_nan=False)


def test_only_the_forms_that_were_asked_for():
    (row,) = profile_supernet(DS, None, "largest", Timing([1], forms={"extracted": FORMS["extracted"]}))["subnetworks"]
    assert [timed["form"] for timed in row["latency"]] == ["extracted"]


def test_gates_are_stored_with_a_layer_of_their_own_where_they_have_one():
    """One gate on 264 / 4 = 66 features; three gates, each with its hidden layer."""
    assert profile_supernet("ds_mobilenet_v1", 32, "0", NONE)["params_stored"]["gate"] == 66 * 4
    net = PRESETS.get("ds_resnet_micro8").build()
    stored = profile_supernet("ds_resnet_micro8", None, "0", NONE, 3)["params_stored"]
    assert (stored["gates"], stored["gate_options"]) == (len(net.space.decisions), 3)
    choice, x, trunks = net.space.smallest, torch.zeros(1, net.input_channels, 8, 8), []
    with torch.no_grad():
        for index, segment in enumerate(list(net.eval().segments)[:-1]):
            x, features = segment(x, choice.prefix(net.space.depth_after(index)))
            trunks.append(2 * features.activation.shape[1])
    hidden = net.gate_hidden
    assert hidden > 0
    assert stored["gate"] == sum(trunk * hidden + hidden + hidden * 3 for trunk in trunks)
    assert stored["total"] == stored["supernet"] + stored["gate"]


def test_a_model_without_gates_stores_none():
    stored = profile_supernet("us_mobilenet_micro8", None, "0", NONE)["params_stored"]
    assert (stored["gates"], stored["gate_options"], stored["gate"]) == (0, 0, 0)


@pytest.mark.parametrize("name", [*MICRO, "ds_mobilenet_v1"])
def test_active_parameters_are_those_of_the_extracted_network(name):
    net = PRESETS.get(name).build().eval()
    choices = list(dict.fromkeys([*net.space.named, *random.Random(0).sample(routable(net.space), 4)]))
    expected = [sum(p.numel() for p in extract(net, choice).parameters()) for choice in choices]
    assert active_parameters(net, choices, PRESETS.get(name).image_size) == expected


def test_a_segment_that_sub_networks_share_is_extracted_once(monkeypatch):
    """256 routes of four gates with four options: an embedding and 4 x 4 stages, not 256 networks."""
    calls = []
    monkeypatch.setattr(
        "bench.profilers.model.extract_segment", lambda *given: calls.append(given) or extract_segment(*given)
    )
    net = PRESETS.get("ds_vit_micro8").build()
    assert len(active_parameters(net, routable(net.space), 8)) == 256
    assert len(calls) == 1 + 4 * 4


def test_every_routable_sub_network_is_counted_and_a_few_are_timed():
    found = profile_supernet("ds_vit_micro8", None, "routable", Timing([1], "spread:3"))["subnetworks"]
    net = PRESETS.get("ds_vit_micro8").build()
    assert {row["choice"] for row in found} == {str(choice) for choice in routable(net.space)}
    madds = [row["madds"] for row in found]
    assert madds == sorted(madds)
    timed = [row for row in found if row["latency"]]
    assert len(timed) == 3
    assert timed[0]["choice"] == str(net.space.smallest)
    assert timed[-1]["choice"] == str(net.space.largest)
    assert all([entry["form"] for entry in row["latency"]] == ["view", "extracted"] for row in timed)


def test_what_is_timed_is_listed_too():
    found = profile_supernet(DS, None, "0", Timing([1], "3"))["subnetworks"]
    assert [(row["name"], len(row["latency"])) for row in found] == [("uniform0", 0), ("uniform3", 2)]


def test_too_many_to_time_is_said_before_any_work():
    with pytest.raises(UserError, match="256 sub-networks are more than the 64 that are timed together; name fewer"):
        profile_supernet("ds_vit_micro8", None, "routable", Timing([1]))


def test_finished_batches_are_not_measured_again_and_progress_is_told():
    first = profile_supernet(DS, None, "0", Timing([1]))
    entries = [{"name": "uniform0", "latency": timed} for timed in first["subnetworks"][0]["latency"]]
    told = []

    def kept(batch, measured):
        return entries if batch == 1 else measured(batch)

    again = profile_supernet(DS, None, "0", Timing([1, 2]), 4, kept, lambda *said: told.append(said))
    latency = again["subnetworks"][0]["latency"]
    assert latency[:2] == first["subnetworks"][0]["latency"]
    assert [entry["batch"] for entry in latency] == [1, 1, 2, 2]
    assert [text for text, done, _ in told if done == 0] == [f"preparing {DS} uniform0/view", f"timing {DS} at batch 2"]


def test_sizes():
    sizes = {"ds_vit_micro64": 64, "ds_mobilenet_v1": 224, "ds_mobilenet_micro32": 32}
    sizes |= {"ds_resnet_det_micro": EDGE, "ds_mobilenet_v1_det": OFFICIAL_EDGE}
    assert {name: PRESETS.get(name).image_size for name in sizes} == sizes
    check_size(PRESETS.get("ds_mobilenet_micro8").build(), DS, 1)
    with pytest.raises(UserError, match="ds_vit_micro8 cannot take images of 9 x 9: "):
        profile_supernet("ds_vit_micro8", 9, "0", NONE)
    with pytest.raises(UserError, match="cannot be timed at batch 99999999999: not enough memory"):
        profile_supernet(DS, None, "0", Timing([99_999_999_999]))


# Models of timm: a small one, as it is, stands for all.


def test_a_timm_model():
    found = profile_timm("test_resnet.r160_in1k", None, Timing([1]))
    (row,) = found["subnetworks"]
    assert (found["model"], found["image_size"]) == ("timm:test_resnet.r160_in1k", 160)
    assert row["madds"] > 0
    assert row["params_active"] > 0
    assert [(timed["form"], timed["batch"]) for timed in row["latency"]] == [("extracted", 1)]
    json.dumps(found, allow_nan=False)


def test_a_timm_model_at_another_size_costs_in_proportion():
    """Without its classifier, ResNet-18 is all convolutions: half the size, a quarter of the multiply-adds."""
    (large,), (small,) = (profile_timm("resnet18", size, NONE)["subnetworks"] for size in (64, 32))
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
        profile_timm(name, size, NONE)


def test_old_names_of_timm_still_work_without_a_warning():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert profile_timm("vit_tiny_patch16_224_in21k", 224, NONE)["subnetworks"][0]["madds"] > 1e9
    assert [str(w.message) for w in said] == []


def test_a_wrong_operator_is_not_taken_for_a_wrong_size(monkeypatch):
    """What no counter knows is told as such, not as a size that does not fit."""

    class Spectral(nn.Module):
        def forward(self, x):
            return torch.fft.fft2(x).abs()

    monkeypatch.setattr("timm.is_model", lambda name: True)
    monkeypatch.setattr("timm.create_model", lambda name: Spectral())
    with pytest.raises(UserError, match=r"no rule says what the operator _fft_\w+ costs"):
        profile_timm("spectral", 8, NONE)
