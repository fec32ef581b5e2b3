"""The table of presets: facts that are written down, listed without torch, and true of the networks that are built."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from bench.core.errors import UserError
from bench.methods import METHODS, method_of
from bench.models import PRESETS, Preset
from bench.models.preset import load
from bench.models.vit.presets import VIT

ALL = [PRESETS.get(name) for name in PRESETS.names()]
SMALL = [preset for preset in ALL if preset.image_size <= 64]


def test_presets_are_listed_without_torch():
    code = "import sys; from bench.models import PRESETS; print(PRESETS.get('ds_vit_s').what, 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "DS-ViT++ on DeiT-S, 224x224: 256 routable sub-networks, 1.22 to 4.60 G multiply-adds False\n"


def test_a_preset_is_a_frozen_value_with_a_name_of_its_own():
    preset = PRESETS.get("ds_mobilenet_micro8")
    assert (preset, hash(preset)) == (dataclasses.replace(preset), hash(dataclasses.replace(preset)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.image_size = 9
    with pytest.raises(UserError, match="model 'ds_mobilenet_micro8' exists already"):
        PRESETS.add(preset.name, preset)
    assert all(PRESETS.get(preset.name) is preset and preset.what for preset in ALL)


@pytest.mark.parametrize("preset", SMALL, ids=lambda preset: preset.name)
@torch.no_grad()
def test_facts_are_true_of_the_network(preset: Preset):
    net = preset.build()
    space, size = net.space, preset.image_size
    output = net.eval()(torch.randn(2, preset.channels, size, size), space.largest)
    assert output.shape == (2, preset.classes)
    assert bool(space.decisions) == (preset.trains_as in ("dynamic slimmable", "dynamic weight slicing"))
    assert preset.family.tokens == any("heads" in dict(stage.dimensions) for stage in space.stages)
    sliced = {dimension for stage in space.stages for dimension, _ in stage.dimensions}
    assert (sliced != {"filters"}) == (preset.trains_as in ("dynamic weight slicing", "nested"))
    assert any(method_of(method).serves(preset) for method in METHODS.names() if METHODS.get(method).trains)


@pytest.mark.parametrize("preset", SMALL[:3], ids=lambda preset: preset.name)
def test_classes_and_channels_are_asked_for(preset):
    net = preset.build(classes=7, channels=2)
    assert net.eval()(torch.randn(1, 2, preset.image_size, preset.image_size), net.space.largest).shape == (1, 7)


def test_what_a_family_names_can_be_imported():
    assert all(callable(load(path)) for preset in ALL for path in (preset.family.build, preset.family.order))
    assert load(f"{VIT.timm}:key_map")(PRESETS.get("ds_vit_micro8").build())
