"""Slimmable MobileNetV1: the DS-Net family with one gate, and the width-multiplier families of US-Nets and S-Nets.

`ds_mobilenet_v1` holds the official channel lists of DS-MBNet (METHODS 3.1): 13 depth-wise separable blocks with
channel attention, swish, no residual; the gate stands behind the first depth-wise convolution of stage 3, the stages in
front of it always run at their smallest width in a routed network, and stage 4 takes the same index as stage 3.
`ds_mobilenet_pp_v1` (DS-MobileNet++) has the same lists and slices the kernel of depth-wise convolutions too. The
paper's lists are unknown (METHODS 3.3); ours are 3x3 and 5x5, so that all sub-networks of DS-MBNet are among them and
the larger kernel, which costs a depth-wise convolution little, is there for images that need to see more. Elastic are
the convolutions that run behind the gate: that of the gated block itself stands in front of it and stays 3x3.
`ds_mobilenet_plain_v1` is DS-MBNet without channel attention: what the attention head of the double-headed gate adds is
seen against it. The released code has that head in every block and the slimming head in one (METHODS 5.1), so without
it no block has attention; the gate then keeps a hidden layer of its own, as wide as the trunk was.
`us_mobilenet_v1` scales every stage of the original MobileNetV1 by one width multiplier (Yu & Huang 2019);
`s_mobilenet_v1` is the same at four widths, with batch norms of their own (Yu et al. 2019).
"""

from __future__ import annotations

from dataclasses import replace

from bench.models.mobilenet.space import MobileNetConfig
from bench.models.preset import DYNAMIC, SLICED, SWITCHABLE, UNIVERSAL, Family, Official, Preset
from bench.models.widths import SWITCHABLE_MULTIPLIERS, WIDTH_MULTIPLIERS, BlockStage, width_ladder

SLIMMABLE = "bench.models.mobilenet.official:slimmable"
OFFICIAL = (
    Official("ds_mbnet", ("ds_mobilenet_v1",), "bench.models.mobilenet.official:ds_mbnet",
             reported=tuple(f"ds_net/ds_mobilenet_v1/uniform{step}" for step in range(14))),
    Official("us_mobilenet_v1", ("us_mobilenet_v1",), SLIMMABLE,
             reported=tuple(f"us_net/mobilenet_v1/width {width}" for width in WIDTH_MULTIPLIERS)),
    Official("s_mobilenet_v1", ("s_mobilenet_v1",), SLIMMABLE,
             reported=tuple(f"s_net/mobilenet_v1/width {width}" for width in SWITCHABLE_MULTIPLIERS)),
)  # fmt: skip
MOBILENET = Family(
    "mobilenet", "bench.models.mobilenet.units:build", "bench.models.mobilenet.order:order", official=OFFICIAL
)

V1 = MobileNetConfig(
    (16, 24),
    2,
    (
        BlockStage((32, 88), 1, 1),
        BlockStage((48, 168), 2, 2),
        BlockStage((96, 264), 2, 2),
        BlockStage(tuple(range(224, 641, 32)), 6, 2),
        BlockStage(tuple(range(736, 1153, 32)), 2, 2),
    ),
    3,
    dropout=0.2,
)
MICRO8 = MobileNetConfig(
    (8, 12),
    1,
    (
        BlockStage((12, 16), 1, 1),
        BlockStage((16, 24), 1, 2),
        BlockStage((4, 24, 48, 72), 2, 1),
        BlockStage((8, 48, 96, 144), 1, 2),
    ),
    2,
    squeeze=0.5,  # with so few channels a quarter would leave the gate's trunk six numbers
)
MICRO32 = MobileNetConfig(
    (16, 24),
    2,
    (
        BlockStage((24, 32), 1, 1),
        BlockStage((40, 56), 1, 2),
        BlockStage((48, 80, 112, 144), 3, 1),
        BlockStage((96, 160, 224, 288), 2, 2),
    ),
    2,
)
MICRO64 = MobileNetConfig(
    (16, 24),
    2,
    (
        BlockStage((24, 32), 1, 2),
        BlockStage((48, 64), 1, 2),
        BlockStage((64, 112, 160, 208), 3, 1),
        BlockStage((128, 224, 320, 416), 2, 2),
    ),
    2,
)
LIGHT = MobileNetConfig(  # for photographs of 64 to 160 pixels: a map of stride 8 from the gate on
    (16, 24),
    2,
    (
        BlockStage((32, 48), 2, 2),
        BlockStage((24, 40, 56, 80), 3, 2),
        BlockStage((32, 64, 96, 128), 2, 1),
    ),
    1,
)


Plan = tuple[tuple[int, int, int], ...]  # channels, blocks, stride of each stage

V1_PLAN: Plan = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
MICRO8_PLAN: Plan = ((16, 1, 1), (24, 1, 2), (72, 2, 1), (144, 1, 2))
MICRO32_PLAN: Plan = ((32, 1, 1), (56, 1, 2), (144, 3, 1), (288, 2, 2))
MICRO64_PLAN: Plan = ((32, 1, 2), (64, 1, 2), (208, 3, 1), (416, 2, 2))


def layerwise(plan: Plan) -> Plan:
    """The same blocks, each a stage of its own, so that each may have another width (AutoSlim)."""
    return tuple((c, 1, s if block == 0 else 1) for c, n, s in plan for block in range(n))


def scaled(stem: int, stride: int, plan: Plan, divisor: int, switchable: bool = False, **more) -> MobileNetConfig:
    """A plan at each width multiplier: 31 of them, or four with batch norms of their own (`switchable`)."""
    multipliers = SWITCHABLE_MULTIPLIERS if switchable else WIDTH_MULTIPLIERS
    stages = tuple(BlockStage(width_ladder(c, multipliers, divisor), n, s) for c, n, s in plan)
    widths = width_ladder(stem, multipliers, divisor)
    return MobileNetConfig(widths, stride, stages, None, switchable=switchable, **more)


def scaled_v1(plan: Plan, switchable: bool = False) -> MobileNetConfig:
    return scaled(32, 2, plan, 8, switchable, squeeze=0.0, swish=False)


PRESETS = (
    Preset("ds_mobilenet_v1", MOBILENET, DYNAMIC, V1, 224, 1000, 3,
           "DS-MBNet with the official lists: 14 routable sub-networks and `largest`, 7,675,940 parameters"),
    Preset("ds_mobilenet_micro8", MOBILENET, DYNAMIC, MICRO8, 8, 10, 1,
           "DS-MBNet's plan for 8x8 images: four routable sub-networks"),
    Preset("ds_mobilenet_micro32", MOBILENET, DYNAMIC, MICRO32, 32, 10, 3,
           "DS-MBNet's plan for 32x32 images: four routable sub-networks"),
    Preset("ds_mobilenet_micro64", MOBILENET, DYNAMIC, MICRO64, 64, 100, 3,
           "DS-MBNet's plan for 64x64 images: four routable sub-networks"),
    Preset("ds_mobilenet_light_micro64", MOBILENET, DYNAMIC, LIGHT, 64, 100, 3,
           "A lighter plan for 64x64 images, the blocks of `ds_mobilenet_det_micro`, which can start from it"),
    Preset("ds_mobilenet_pp_v1", MOBILENET, SLICED, replace(V1, kernels=(3, 5)), 224, 1000, 3,
           "DS-MobileNet++: DS-MBNet's lists, kernels of 3x3 or 5x5 behind the gate; 28 routable sub-networks"),
    # on the maps of 4x4 and 2x2 behind the gate a 5x5 would mostly see padding
    Preset("ds_mobilenet_pp_micro8", MOBILENET, SLICED, replace(MICRO8, kernels=(1, 3)), 8, 10, 1,
           "DS-MobileNet++'s plan for 8x8 images, kernels of 1x1 or 3x3: eight routable sub-networks"),
    Preset("ds_mobilenet_pp_micro32", MOBILENET, SLICED, replace(MICRO32, kernels=(3, 5)), 32, 10, 3,
           "DS-MobileNet++'s plan for 32x32 images: eight routable sub-networks"),
    Preset("ds_mobilenet_plain_v1", MOBILENET, DYNAMIC, replace(V1, attention=False), 224, 1000, 3,
           "DS-MBNet without channel attention in any block, so without the attention head of its double-headed gate"),
    Preset("ds_mobilenet_plain_micro8", MOBILENET, DYNAMIC, replace(MICRO8, attention=False), 8, 10, 1,
           "`ds_mobilenet_micro8` without channel attention"),
    Preset("ds_mobilenet_plain_micro32", MOBILENET, DYNAMIC, replace(MICRO32, attention=False), 32, 10, 3,
           "`ds_mobilenet_micro32` without channel attention"),
    Preset("us_mobilenet_v1", MOBILENET, UNIVERSAL, scaled_v1(V1_PLAN), 224, 1000, 3,
           "MobileNetV1 at every width multiplier from 0.25 to 1.0 in steps of 0.025; at 1.0 the original network"),
    Preset("us_mobilenet_micro8", MOBILENET, UNIVERSAL, scaled(12, 1, MICRO8_PLAN, 4), 8, 10, 1,
           "The blocks of `ds_mobilenet_micro8`, every stage scaled by one width multiplier"),
    Preset("us_mobilenet_micro32", MOBILENET, UNIVERSAL, scaled(24, 2, MICRO32_PLAN, 8), 32, 10, 3,
           "The blocks of `ds_mobilenet_micro32`, every stage scaled by one width multiplier"),
    Preset("us_mobilenet_micro64", MOBILENET, UNIVERSAL, scaled(24, 2, MICRO64_PLAN, 8), 64, 100, 3,
           "The blocks of `ds_mobilenet_micro64`, every stage scaled by one width multiplier"),
    Preset("us_mobilenet_layers_v1", MOBILENET, UNIVERSAL, scaled_v1(layerwise(V1_PLAN)), 224, 1000, 3,
           "`us_mobilenet_v1`, every block a stage of its own, so that each may have another width (AutoSlim)"),
    Preset("us_mobilenet_layers_micro8", MOBILENET, UNIVERSAL, scaled(12, 1, layerwise(MICRO8_PLAN), 4), 8, 10, 1,
           "`us_mobilenet_micro8`, every block a stage of its own"),
    Preset("us_mobilenet_layers_micro32", MOBILENET, UNIVERSAL, scaled(24, 2, layerwise(MICRO32_PLAN), 8), 32, 10, 3,
           "`us_mobilenet_micro32`, every block a stage of its own"),
    Preset("s_mobilenet_v1", MOBILENET, SWITCHABLE, scaled_v1(V1_PLAN, True), 224, 1000, 3,
           "MobileNetV1 at four widths with switchable batch norm (S-MobileNetV1)"),
    Preset("s_mobilenet_micro8", MOBILENET, SWITCHABLE, scaled(12, 1, MICRO8_PLAN, 4, True), 8, 10, 1,
           "`us_mobilenet_micro8` at four widths, with switchable batch norm"),
    Preset("s_mobilenet_micro32", MOBILENET, SWITCHABLE, scaled(24, 2, MICRO32_PLAN, 8, True), 32, 10, 3,
           "`us_mobilenet_micro32` at four widths, with switchable batch norm"),
)  # fmt: skip
