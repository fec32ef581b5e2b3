"""Slimmable MobileNetV1: the DS-Net family with one gate, and the width-multiplier family of US-Nets.

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

from collections.abc import Callable

from bench.models.mobilenet.blocks import BlockStage, Classifier, Depthwise, MobileNetConfig, Pointwise, Stem
from bench.slicing.choice import ChoiceSpace
from bench.slicing.supernet import Segment, Supernet, Unit

WIDTH_MULTIPLIERS = tuple(round(0.25 + 0.025 * step, 3) for step in range(31))  # 0.25 to 1.0, as US-Nets
SWITCHABLE_MULTIPLIERS = (0.25, 0.5, 0.75, 1.0)  # as S-Nets

Kernels = tuple[int, ...]


Head = Callable[[MobileNetConfig, ChoiceSpace, int], Unit]
"""(configuration, its space, classes) to the unit that a network ends in."""


def build(config: MobileNetConfig, classes: int, input_channels: int, head: Head = Classifier) -> Supernet:
    """The supernet of a configuration, cut behind the depth-wise half of the first gated block."""
    space = config.space()
    cuts: list[list[Unit]] = [[Stem(config, space, input_channels)]]
    for index, spec in enumerate(config.stages):
        for block in range(spec.blocks):
            inp_stage = index if block == 0 else index + 1
            stride = spec.stride if block == 0 else 1
            kernel_stage = index + 1 if config.has_kernels(index, block) else None
            cuts[-1].append(Depthwise(config, space, inp_stage, stride, kernel_stage))
            if index == config.gated_from and block == 0:
                cuts.append([])
            cuts[-1].append(Pointwise(config, space, inp_stage, index + 1))
    cuts[-1].append(head(config, space, classes))
    segments = [Segment(units, decides=i < len(cuts) - 1) for i, units in enumerate(cuts)]
    return Supernet(space, segments, input_channels, config.gate_hidden)


def ds_mobilenet_v1_config(kernels: Kernels = (3,), attention: bool = True, last_stride: int = 2) -> MobileNetConfig:
    """The official channel lists of DS-MBNet."""
    gated, tail = tuple(range(224, 641, 32)), tuple(range(736, 1153, 32))
    stages = (
        BlockStage((32, 88), 1, 1),
        BlockStage((48, 168), 2, 2),
        BlockStage((96, 264), 2, 2),
        BlockStage(gated, 6, 2),
        BlockStage(tail, 2, last_stride),
    )
    return MobileNetConfig((16, 24), 2, stages, 3, dropout=0.2, kernels=kernels, attention=attention)


def ds_mobilenet_v1(
    classes: int = 1000, input_channels: int = 3, kernels: Kernels = (3,), attention: bool = True
) -> Supernet:
    """DS-MBNet with the official lists: 14 routable sub-networks and `largest`, 7,675,940 parameters without gate."""
    return build(ds_mobilenet_v1_config(kernels, attention), classes, input_channels)


def ds_mobilenet_micro8(
    classes: int = 10, input_channels: int = 1, kernels: Kernels = (3,), attention: bool = True
) -> Supernet:
    """DS-MBNet's plan for 8x8 images: four routable sub-networks.

    Its squeeze is one half: with so few channels a quarter would leave the gate's trunk six numbers.
    """
    stages = (
        BlockStage((12, 16), 1, 1),
        BlockStage((16, 24), 1, 2),
        BlockStage((4, 24, 48, 72), 2, 1),
        BlockStage((8, 48, 96, 144), 1, 2),
    )
    config = MobileNetConfig((8, 12), 1, stages, 2, squeeze=0.5, kernels=kernels, attention=attention)
    return build(config, classes, input_channels)


def ds_mobilenet_micro32(
    classes: int = 10, input_channels: int = 3, kernels: Kernels = (3,), attention: bool = True
) -> Supernet:
    """DS-MBNet's plan for 32x32 images: four routable sub-networks."""
    stages = (
        BlockStage((24, 32), 1, 1),
        BlockStage((40, 56), 1, 2),
        BlockStage((48, 80, 112, 144), 3, 1),
        BlockStage((96, 160, 224, 288), 2, 2),
    )
    config = MobileNetConfig((16, 24), 2, stages, 2, kernels=kernels, attention=attention)
    return build(config, classes, input_channels)


def ds_mobilenet_plain_v1(classes: int = 1000, input_channels: int = 3) -> Supernet:
    """DS-MBNet without channel attention in any block, so without the attention head of its double-headed gate."""
    return ds_mobilenet_v1(classes, input_channels, attention=False)


def ds_mobilenet_plain_micro8(classes: int = 10, input_channels: int = 1) -> Supernet:
    """`ds_mobilenet_micro8` without channel attention."""
    return ds_mobilenet_micro8(classes, input_channels, attention=False)


def ds_mobilenet_plain_micro32(classes: int = 10, input_channels: int = 3) -> Supernet:
    """`ds_mobilenet_micro32` without channel attention."""
    return ds_mobilenet_micro32(classes, input_channels, attention=False)


def ds_mobilenet_micro64(classes: int = 100, input_channels: int = 3, kernels: Kernels = (3,)) -> Supernet:
    """DS-MBNet's plan for 64x64 images: four routable sub-networks."""
    stages = (
        BlockStage((24, 32), 1, 2),
        BlockStage((48, 64), 1, 2),
        BlockStage((64, 112, 160, 208), 3, 1),
        BlockStage((128, 224, 320, 416), 2, 2),
    )
    return build(MobileNetConfig((16, 24), 2, stages, 2, kernels=kernels), classes, input_channels)


def ds_mobilenet_light_config() -> MobileNetConfig:
    """DS-MBNet's plan for photographs of 64 to 160 pixels: a map of stride 8 from the gate on, four options."""
    stages = (
        BlockStage((32, 48), 2, 2),
        BlockStage((24, 40, 56, 80), 3, 2),
        BlockStage((32, 64, 96, 128), 2, 1),
    )
    return MobileNetConfig((16, 24), 2, stages, 1)


def ds_mobilenet_light_micro64(classes: int = 100, input_channels: int = 3) -> Supernet:
    """A lighter plan for 64x64 images: four routable sub-networks. The detector `ds_mobilenet_det_micro` has the same
    blocks, so it can start from what this one has learnt."""
    return build(ds_mobilenet_light_config(), classes, input_channels)


def ds_mobilenet_pp_v1(classes: int = 1000, input_channels: int = 3) -> Supernet:
    """DS-MobileNet++: DS-MBNet's lists, depth-wise kernels of 3x3 or 5x5 behind the gate; 28 routable sub-networks."""
    return ds_mobilenet_v1(classes, input_channels, (3, 5))


def ds_mobilenet_pp_micro8(classes: int = 10, input_channels: int = 1) -> Supernet:
    """DS-MobileNet++'s plan for 8x8 images: eight routable sub-networks.

    Its kernels are 1x1 and 3x3: on the maps of 4x4 and 2x2 behind the gate a 5x5 would mostly see padding.
    """
    return ds_mobilenet_micro8(classes, input_channels, (1, 3))


def ds_mobilenet_pp_micro32(classes: int = 10, input_channels: int = 3) -> Supernet:
    """DS-MobileNet++'s plan for 32x32 images: eight routable sub-networks."""
    return ds_mobilenet_micro32(classes, input_channels, (3, 5))


def scaled(channels: int, multiplier: float, divisor: int = 8) -> int:
    """`channels` times the width multiplier, to the nearest multiple of `divisor` but never below 90 % of it."""
    width = max(divisor, int(channels * multiplier + divisor / 2) // divisor * divisor)
    return width + divisor if width < 0.9 * channels * multiplier else width


def width_ladder(channels: int, multipliers: tuple[float, ...], divisor: int) -> tuple[int, ...]:
    return tuple(scaled(channels, multiplier, divisor) for multiplier in multipliers)


Plan = tuple[tuple[int, int, int], ...]  # channels, blocks, stride of each stage

V1: Plan = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
MICRO8: Plan = ((16, 1, 1), (24, 1, 2), (72, 2, 1), (144, 1, 2))
MICRO32: Plan = ((32, 1, 1), (56, 1, 2), (144, 3, 1), (288, 2, 2))
MICRO64: Plan = ((32, 1, 2), (64, 1, 2), (208, 3, 1), (416, 2, 2))


def scaled_stages(plan: Plan, multipliers: tuple[float, ...], divisor: int) -> tuple[BlockStage, ...]:
    return tuple(BlockStage(width_ladder(c, multipliers, divisor), n, s) for c, n, s in plan)


def layerwise(plan: Plan) -> Plan:
    """The same blocks, each a stage of its own."""
    return tuple((c, 1, s if block == 0 else 1) for c, n, s in plan for block in range(n))


def scaled_v1(
    classes: int, input_channels: int, plan: Plan, multipliers: tuple[float, ...], switchable: bool = False
) -> Supernet:
    """MobileNetV1 at each width multiplier."""
    stem, stages = width_ladder(32, multipliers, 8), scaled_stages(plan, multipliers, 8)
    config = MobileNetConfig(stem, 2, stages, None, squeeze=0.0, swish=False, switchable=switchable)
    return build(config, classes, input_channels)


def scaled_micro8(
    classes: int, input_channels: int, plan: Plan, multipliers: tuple[float, ...], switchable: bool = False
) -> Supernet:
    """The blocks of `ds_mobilenet_micro8` at each width multiplier."""
    stem, stages = width_ladder(12, multipliers, 4), scaled_stages(plan, multipliers, 4)
    return build(MobileNetConfig(stem, 1, stages, None, switchable=switchable), classes, input_channels)


def scaled_micro32(
    classes: int, input_channels: int, plan: Plan, multipliers: tuple[float, ...], switchable: bool = False
) -> Supernet:
    """The blocks of `ds_mobilenet_micro32` (or, by another plan, `ds_mobilenet_micro64`) at each width multiplier."""
    stem, stages = width_ladder(24, multipliers, 8), scaled_stages(plan, multipliers, 8)
    return build(MobileNetConfig(stem, 2, stages, None, switchable=switchable), classes, input_channels)


def us_mobilenet_v1(classes: int = 1000, input_channels: int = 3) -> Supernet:
    """MobileNetV1 at every width multiplier from 0.25 to 1.0 in steps of 0.025; at 1.0 it is the original network."""
    return scaled_v1(classes, input_channels, V1, WIDTH_MULTIPLIERS)


def us_mobilenet_micro8(classes: int = 10, input_channels: int = 1) -> Supernet:
    """The blocks of `ds_mobilenet_micro8`, every stage scaled by one width multiplier."""
    return scaled_micro8(classes, input_channels, MICRO8, WIDTH_MULTIPLIERS)


def us_mobilenet_micro32(classes: int = 10, input_channels: int = 3) -> Supernet:
    """The blocks of `ds_mobilenet_micro32`, every stage scaled by one width multiplier."""
    return scaled_micro32(classes, input_channels, MICRO32, WIDTH_MULTIPLIERS)


def us_mobilenet_micro64(classes: int = 100, input_channels: int = 3) -> Supernet:
    """The blocks of `ds_mobilenet_micro64`, every stage scaled by one width multiplier."""
    return scaled_micro32(classes, input_channels, MICRO64, WIDTH_MULTIPLIERS)


def us_mobilenet_layers_v1(classes: int = 1000, input_channels: int = 3) -> Supernet:
    """`us_mobilenet_v1`, every block a stage of its own, so that each may have another width (AutoSlim)."""
    return scaled_v1(classes, input_channels, layerwise(V1), WIDTH_MULTIPLIERS)


def us_mobilenet_layers_micro8(classes: int = 10, input_channels: int = 1) -> Supernet:
    """`us_mobilenet_micro8`, every block a stage of its own."""
    return scaled_micro8(classes, input_channels, layerwise(MICRO8), WIDTH_MULTIPLIERS)


def us_mobilenet_layers_micro32(classes: int = 10, input_channels: int = 3) -> Supernet:
    """`us_mobilenet_micro32`, every block a stage of its own."""
    return scaled_micro32(classes, input_channels, layerwise(MICRO32), WIDTH_MULTIPLIERS)


def s_mobilenet_v1(classes: int = 1000, input_channels: int = 3) -> Supernet:
    """MobileNetV1 at four widths with switchable batch norm (S-MobileNetV1)."""
    return scaled_v1(classes, input_channels, V1, SWITCHABLE_MULTIPLIERS, switchable=True)


def s_mobilenet_micro8(classes: int = 10, input_channels: int = 1) -> Supernet:
    """`us_mobilenet_micro8` at four widths, with switchable batch norm."""
    return scaled_micro8(classes, input_channels, MICRO8, SWITCHABLE_MULTIPLIERS, switchable=True)


def s_mobilenet_micro32(classes: int = 10, input_channels: int = 3) -> Supernet:
    """`us_mobilenet_micro32` at four widths, with switchable batch norm."""
    return scaled_micro32(classes, input_channels, MICRO32, SWITCHABLE_MULTIPLIERS, switchable=True)
