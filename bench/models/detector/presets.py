"""Single-shot detectors on sliceable backbones: the blocks of DS-MobileNet, US-MobileNet and DS-ResNet, then the head.

Backbones keep a map of stride 8 to their end (the micro presets), or of stride 16, which the head makes finer (the
full-size one): small objects need it, and every map of the head then rests on all that the gate decided. A detector is
of its backbone's family: its channels are ordered, and its weights named, as the backbone's are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bench.models.mobilenet.presets import LIGHT, MOBILENET, V1, scaled
from bench.models.preset import DYNAMIC, UNIVERSAL, Preset
from bench.models.resnet.presets import MICRO_STEM, RATIOS, RESNET, STEM32, sliced
from bench.models.resnet.space import ResNetConfig


@dataclass(frozen=True)
class DetectorConfig:
    """A backbone, and what the head in its place of a classifier is made of.

    Attributes:
        backbone: the configuration of a family.
        width: channels of every map. finer: the factor by which the first map is finer than the backbone's last.
    """

    backbone: Any
    width: int = 64
    finer: int = 1


LAST_STAGE = replace(V1.stages[-1], stride=1)
ON_V1 = DetectorConfig(replace(V1, stages=(*V1.stages[:-1], LAST_STAGE)), 128, 2)
SCALED = scaled(24, 2, ((48, 2, 2), (80, 3, 2), (128, 2, 1)), 8)
RESIDUAL = ResNetConfig(
    MICRO_STEM, *STEM32, sliced(((16, 2, 2), (16, 2, 2), (32, 3, 1)), RATIOS, 4), (0, 1, 2), 4, gate_hidden=16
)
ON_MOBILENET, ON_RESNET = "bench.models.detector.head:on_mobilenet", "bench.models.detector.head:on_resnet"

PRESETS = (
    # Counted here, not trained: the paper's detector is FSSD (METHODS 6), which also takes maps in front of the gate.
    Preset("ds_mobilenet_v1_det", MOBILENET, DYNAMIC, ON_V1, 300, 20, 3,
           "DS-MBNet's official lists as a detector, its last stage at stride 16: 14 routable sub-networks",
           ON_MOBILENET, "detection"),
    Preset("ds_mobilenet_det_micro", MOBILENET, DYNAMIC, DetectorConfig(LIGHT), 160, 3, 3,
           "The blocks of `ds_mobilenet_light_micro64` as a detector: four routable sub-networks",
           ON_MOBILENET, "detection"),
    Preset("us_mobilenet_det_micro", MOBILENET, UNIVERSAL, DetectorConfig(SCALED), 160, 3, 3,
           "The blocks of `ds_mobilenet_det_micro`, every stage scaled by one width multiplier",
           ON_MOBILENET, "detection"),
    Preset("ds_resnet_det_micro", RESNET, DYNAMIC, DetectorConfig(RESIDUAL), 160, 3, 3,
           "DS-ResNet's plan as a detector: three gates of four options, group norm",
           ON_RESNET, "detection"),
)  # fmt: skip
