"""Single-shot detectors on sliceable backbones: the blocks of DS-MobileNet, US-MobileNet and DS-ResNet, then the head.

Backbones keep a map of stride 8 to their end (the micro presets), or of stride 16, which the head makes finer (the
full-size one): small objects need it, and every map of the head then rests on all that the gate decided.
"""

from __future__ import annotations

from functools import partial

from bench.models.detector.head import DetectorHead
from bench.models.mobilenet import network as mobilenet
from bench.models.mobilenet.blocks import BlockStage, MobileNetConfig
from bench.models.mobilenet.network import WIDTH_MULTIPLIERS, width_ladder
from bench.models.resnet import network as resnet
from bench.models.resnet.space import EXPANSION, ResNetConfig
from bench.slicing.choice import ChoiceSpace
from bench.slicing.supernet import Supernet

MICRO_WIDTH, FULL_WIDTH = 64, 128
RESNET_MICRO = ((16, 2, 2), (16, 2, 2), (32, 3, 1))


def detector_head(
    config: object, space: ChoiceSpace, classes: int, *, factor: int = 1, width: int = MICRO_WIDTH, finer: int = 1
) -> DetectorHead:
    """The head, as the builders of backbones ask for it."""
    return DetectorHead(space, factor, width, finer, classes)


def ds_mobilenet_v1_det(classes: int = 20, input_channels: int = 3) -> Supernet:
    """DS-MBNet's official lists as a detector for images of 300 pixels; its last stage keeps stride 16.

    14 routable sub-networks. Counted here, not trained: the paper's detector is FSSD (METHODS 6), which takes maps in
    front of the gate as well.
    """
    config = mobilenet.ds_mobilenet_v1_config(last_stride=1)
    return mobilenet.build(config, classes, input_channels, partial(detector_head, width=FULL_WIDTH, finer=2))


def ds_mobilenet_det_micro(classes: int = 3, input_channels: int = 3) -> Supernet:
    """The blocks of `ds_mobilenet_light_micro64` as a detector for about 160 pixels: four routable sub-networks."""
    return mobilenet.build(mobilenet.ds_mobilenet_light_config(), classes, input_channels, detector_head)


def us_mobilenet_det_micro(classes: int = 3, input_channels: int = 3) -> Supernet:
    """The blocks of `ds_mobilenet_det_micro`, every stage scaled by one width multiplier."""
    stages = tuple(
        BlockStage(width_ladder(c, WIDTH_MULTIPLIERS, 8), n, s) for c, n, s in ((48, 2, 2), (80, 3, 2), (128, 2, 1))
    )
    config = MobileNetConfig(width_ladder(24, WIDTH_MULTIPLIERS, 8), 2, stages, None)
    return mobilenet.build(config, classes, input_channels, detector_head)


def ds_resnet_det_micro(classes: int = 3, input_channels: int = 3) -> Supernet:
    """DS-ResNet's plan for images of about 160 pixels: three gates of four options, group norm."""
    stages = resnet.sliced(RESNET_MICRO, resnet.RATIOS, 4)
    config = ResNetConfig(resnet.MICRO_STEM, *resnet.STEM32, stages, (0, 1, 2), 4, gate_hidden=16)
    return resnet.build(config, classes, input_channels, partial(detector_head, factor=EXPANSION))
