"""Slimmable networks: a folder a family, and one table of presets of the same code from 8x8 to full-size images.

Plain networks stand beside them: `timm:NAME` is any model of timm, and a plugin adds its own (`own_network`).

>>> from bench.models import PRESETS
>>> PRESETS.get("ds_vit_micro8").image_size
8
"""

from bench.core.registry import Registry
from bench.models.detector.presets import PRESETS as DETECTORS
from bench.models.mobilenet.presets import PRESETS as MOBILENETS
from bench.models.plain.presets import own_network
from bench.models.preset import Family, Preset
from bench.models.resnet.presets import PRESETS as RESNETS
from bench.models.vit.presets import PRESETS as TRANSFORMERS

__all__ = ["PRESETS", "SUITES", "Family", "Preset", "own_network"]

PRESETS = Registry("model", {}, group="slicebench.models", makers={"timm": "bench.models.plain.timm_models:preset"})
for _preset in (*MOBILENETS, *RESNETS, *TRANSFORMERS, *DETECTORS):
    PRESETS.add(_preset.name, _preset)
SUITES = frozenset(PRESETS.names())
"""The names that are there before a user's file adds its own."""
