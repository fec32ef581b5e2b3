"""Slimmable ResNets of bottleneck blocks (He et al. 2016, in the layout "v1.5" of torchvision and timm).

No code or exact description of DS-ResNet is public (METHODS 3.2, 3.3, 11); what follows is our design.

- Widths: the ratios {0.25, 0.5, 0.75, 1}, of the inner and so of the outer width of a stage's blocks.
- Gates: one in front of the first block of every stage. The stage's other blocks and the projection of its shortcut
  follow. So each of the K^4 routes is a network of its own, too many for batch-norm statistics: the family has group
  norm with a fixed number of channels a group, which divides every width.
- In front of the first gate stands the stem, in routed networks always at its full width: it costs 3 % of ResNet-50,
  and the widest route is then ResNet-50 itself, so trained weights fit it. The uniform ladder, which serves as the
  static reference, slices the stem too.
- A gate has no attention head, for it would change the network that trained weights fit and its cost. It reads
  `moments` of its block's input through a hidden layer of its own, trained in stage II; the `1 + tanh`
  attention that the official code carries unused (METHODS 3.2) is left out.
- `_bn`: one gate, in front of the second stage (there the rest of the network is four fifths of its cost; the first
  stage is needed to see anything), which decides the ratio of all that follows; so few networks have statistics each.
- `_pp` (DS-ResNet++): filters and the kernel size of the 3x3 convolutions, 1 or 3, in all blocks of a stage but the
  first. 3x3 is the larger one, so that the full network is ResNet-50 and trained weights fit it exactly (5x5 would
  cost 1.6 times ResNet-50); the first block keeps 3x3 because it strides, where a 1x1 would not see three of four
  positions, and so every stage mixes positions at any choice. A gate chooses among all pairs, cheapest first.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.models.mobilenet.network import SWITCHABLE_MULTIPLIERS, WIDTH_MULTIPLIERS, width_ladder
from bench.models.resnet.bottleneck import Bottleneck, GateInput, Head, Stem
from bench.models.resnet.space import BottleneckStage, ResNetConfig
from bench.slicing.choice import ChoiceSpace
from bench.slicing.supernet import Segment, Supernet, Unit

RATIOS = (0.25, 0.5, 0.75, 1.0)
RESNET50 = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # inner width, blocks, stride of each stage
MICRO8 = ((16, 2, 2), (32, 2, 2), (32, 2, 1))
MICRO32 = ((16, 2, 1), (32, 2, 2), (48, 2, 2))
MICRO64 = ((16, 1, 1), (32, 2, 2), (64, 2, 2), (96, 1, 2))

Plan = tuple[tuple[int, int, int], ...]


Ending = Callable[[ResNetConfig, ChoiceSpace, int], Unit]
"""(configuration, its space, classes) to the unit that a network ends in."""


def build(config: ResNetConfig, classes: int, input_channels: int, head: Ending = Head) -> Supernet:
    """The supernet of a configuration, cut in front of every gated stage."""
    space = config.space()
    cuts: list[list[Unit]] = [[Stem(config, space, input_channels)]]
    for stage, plan in enumerate(config.stages):
        if stage in config.gates:
            cuts[-1].append(GateInput(config.leading(stage)))
            cuts.append([])
        cuts[-1] += [Bottleneck(config, space, stage, first=block == 0) for block in range(plan.blocks)]
    cuts[-1].append(head(config, space, classes))
    segments = [Segment(units, decides=index < len(cuts) - 1) for index, units in enumerate(cuts)]
    return Supernet(space, segments, input_channels, config.gate_hidden)


def sliced(plan: Plan, ratios: tuple[float, ...], divisor: int) -> tuple[BottleneckStage, ...]:
    """The stages of a plan with every inner width at each ratio, in multiples of `divisor`."""
    return tuple(BottleneckStage(width_ladder(width, ratios, divisor), n, stride) for width, n, stride in plan)


def resnet50(gates: tuple[int, ...], group: int, kernels: tuple[int, ...] = (3,)) -> ResNetConfig:
    return ResNetConfig((16, 32, 48, 64), 7, 2, True, sliced(RESNET50, RATIOS, 16), gates, group, kernels)


def micro(
    plan: Plan, stem: tuple[int, int, bool], gates: tuple[int, ...], group: int, kernels: tuple[int, ...] = (3,)
) -> ResNetConfig:
    """A small plan with a stem (kernel, stride, pool) of 32 channels.

    The narrowest stem has eight: on CPUs torch 2.14 corrupts memory in the weight gradient of a strided 1x1
    convolution (a shortcut) over fewer, channels last.
    """
    return ResNetConfig(MICRO_STEM, *stem, sliced(plan, RATIOS, 4), gates, group, kernels, gate_hidden=16)


MICRO_STEM = (8, 16, 24, 32)
STEM8, STEM32, STEM64 = (3, 1, False), (3, 2, False), (3, 2, True)


def ds_resnet50(classes: int = 1000, input_channels: int = 3) -> Supernet:
    """DS-ResNet-50: four gates of four options, group norm of 16 channels a group."""
    return build(resnet50((0, 1, 2, 3), 16), classes, input_channels)


def ds_resnet50_bn(classes: int = 1000, input_channels: int = 3) -> Supernet:
    """ResNet-50 with batch norm and a single gate of four options; timm's and torchvision's weights fit it."""
    return build(resnet50((1,), 0), classes, input_channels)


def ds_resnet50_pp(classes: int = 1000, input_channels: int = 3) -> Supernet:
    """DS-ResNet-50++: four gates of eight options, filters and kernel size."""
    return build(resnet50((0, 1, 2, 3), 16, (1, 3)), classes, input_channels)


def ds_resnet_micro8(classes: int = 10, input_channels: int = 1) -> Supernet:
    """DS-ResNet's plan for 8x8 images: three gates of four options."""
    return build(micro(MICRO8, STEM8, (0, 1, 2), 4), classes, input_channels)


def ds_resnet_micro32(classes: int = 10, input_channels: int = 3) -> Supernet:
    """DS-ResNet's plan for 32x32 images: three gates of four options."""
    return build(micro(MICRO32, STEM32, (0, 1, 2), 4), classes, input_channels)


def ds_resnet_micro64(classes: int = 10, input_channels: int = 3) -> Supernet:
    """DS-ResNet's plan for 64x64 images: four gates of four options."""
    return build(micro(MICRO64, STEM64, (0, 1, 2, 3), 4), classes, input_channels)


def ds_resnet_bn_micro8(classes: int = 10, input_channels: int = 1) -> Supernet:
    """`ds_resnet_micro8` with batch norm and a single gate, in front of the second stage."""
    return build(micro(MICRO8, STEM8, (1,), 0), classes, input_channels)


def ds_resnet_bn_micro32(classes: int = 10, input_channels: int = 3) -> Supernet:
    """`ds_resnet_micro32` with batch norm and a single gate, in front of the second stage."""
    return build(micro(MICRO32, STEM32, (1,), 0), classes, input_channels)


def ds_resnet_pp_micro8(classes: int = 10, input_channels: int = 1) -> Supernet:
    """DS-ResNet++'s plan for 8x8 images: three gates of eight options."""
    return build(micro(MICRO8, STEM8, (0, 1, 2), 4, (1, 3)), classes, input_channels)


def ds_resnet_pp_micro32(classes: int = 10, input_channels: int = 3) -> Supernet:
    """DS-ResNet++'s plan for 32x32 images: three gates of eight options."""
    return build(micro(MICRO32, STEM32, (0, 1, 2), 4, (1, 3)), classes, input_channels)


def scaled_resnet50(multipliers: tuple[float, ...], switchable: bool = False) -> ResNetConfig:
    """ResNet-50 at each width multiplier, stem included."""
    stem, stages = width_ladder(64, multipliers, 8), sliced(RESNET50, multipliers, 8)
    return ResNetConfig(stem, 7, 2, True, stages, switchable=switchable)


def scaled_micro(
    plan: Plan, stem: tuple[int, int, bool], multipliers: tuple[float, ...], switchable: bool = False
) -> ResNetConfig:
    """A small plan at each width multiplier, stem included."""
    stem_widths, stages = width_ladder(MICRO_STEM[-1], multipliers, 4), sliced(plan, multipliers, 4)
    return ResNetConfig(stem_widths, *stem, stages, switchable=switchable)


def us_resnet50(classes: int = 1000, input_channels: int = 3) -> Supernet:
    """ResNet-50 at every width multiplier from 0.25 to 1.0 in steps of 0.025, stem included (Yu & Huang 2019)."""
    return build(scaled_resnet50(WIDTH_MULTIPLIERS), classes, input_channels)


def us_resnet_micro8(classes: int = 10, input_channels: int = 1) -> Supernet:
    """The blocks of `ds_resnet_micro8` at every width multiplier."""
    return build(scaled_micro(MICRO8, STEM8, WIDTH_MULTIPLIERS), classes, input_channels)


def us_resnet_micro32(classes: int = 10, input_channels: int = 3) -> Supernet:
    """The blocks of `ds_resnet_micro32` at every width multiplier."""
    return build(scaled_micro(MICRO32, STEM32, WIDTH_MULTIPLIERS), classes, input_channels)


def s_resnet50(classes: int = 1000, input_channels: int = 3) -> Supernet:
    """ResNet-50 at four widths with switchable batch norm (Yu et al. 2019)."""
    return build(scaled_resnet50(SWITCHABLE_MULTIPLIERS, switchable=True), classes, input_channels)


def s_resnet_micro8(classes: int = 10, input_channels: int = 1) -> Supernet:
    """`us_resnet_micro8` at four widths, with switchable batch norm."""
    return build(scaled_micro(MICRO8, STEM8, SWITCHABLE_MULTIPLIERS, switchable=True), classes, input_channels)


def s_resnet_micro32(classes: int = 10, input_channels: int = 3) -> Supernet:
    """`us_resnet_micro32` at four widths, with switchable batch norm."""
    return build(scaled_micro(MICRO32, STEM32, SWITCHABLE_MULTIPLIERS, switchable=True), classes, input_channels)
