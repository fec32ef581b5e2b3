"""Slimmable ResNets (He et al. 2016): of bottleneck blocks, in the layout "v1.5" of torchvision and timm, or of basic.

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
- `_basic`: basic blocks of dense 3x3 convolutions, which CPUs run several times faster than thin bottlenecks, for small
  machines. Stem and two stages are the front, a third of the compute of the widest; all sub-networks run it at its full
  width, and it is cut off as a segment, so `ds_`, `us_` and `s_` differ in training alone. Behind it two stages are
  sliced, with batch norm and a single gate. The widest is a ResNet-14 of 16, 32, 64 and 128 channels with shortcuts of
  option B (He et al. 2016), 25.6 M multiply-adds at 32x32. `_basic_pp` (DS-CNN++) slices the second convolution of all
  sliced blocks but a stage's first too: 5x5, or 3x3, its centre window.
- `_pp` (DS-ResNet++): filters and the kernel size of the 3x3 convolutions, 1 or 3, in all blocks of a stage but the
  first. 3x3 is the larger one, so that the full network is ResNet-50 and trained weights fit it exactly (5x5 would
  cost 1.6 times ResNet-50); the first block keeps 3x3 because it strides, where a 1x1 would not see three of four
  positions, and so every stage mixes positions at any choice. A gate chooses among all pairs, cheapest first.
"""

from __future__ import annotations

from bench.models.preset import DYNAMIC, SLICED, SWITCHABLE, UNIVERSAL, Family, Official, Preset, Trains
from bench.models.resnet.space import ResNetConfig
from bench.models.widths import SWITCHABLE_MULTIPLIERS, WIDTH_MULTIPLIERS, BlockStage, width_ladder

RESNET = Family(
    "resnet",
    "bench.models.resnet.units:build",
    "bench.models.resnet.order:order",
    timm="bench.models.resnet.timm_names",
    timm_head="fc.",
    official=(
        Official("s_resnet50", ("s_resnet50",), "bench.models.resnet.official:slimmable",
                 reported=tuple(f"s_net/resnet50/width {width}" for width in SWITCHABLE_MULTIPLIERS)),
    ),
)  # fmt: skip

RATIOS = (0.25, 0.5, 0.75, 1.0)
RESNET50 = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # inner width, blocks, stride of each stage
MICRO8 = ((16, 2, 2), (32, 2, 2), (32, 2, 1))
MICRO32 = ((16, 2, 1), (32, 2, 2), (48, 2, 2))
MICRO64 = ((16, 1, 1), (32, 2, 2), (64, 2, 2), (96, 1, 2))

Plan = tuple[tuple[int, int, int], ...]
Stem = tuple[int, int, bool]  # kernel, stride, pool

MICRO_STEM = (8, 16, 24, 32)
"""The narrowest stem has eight channels: on CPUs torch 2.14 corrupts memory in the weight gradient of a strided 1x1
convolution (a shortcut) over fewer, channels last."""
STEM8, STEM32, STEM64 = (3, 1, False), (3, 2, False), (3, 2, True)


def sliced(plan: Plan, ratios: tuple[float, ...], divisor: int) -> tuple[BlockStage, ...]:
    """The stages of a plan with every inner width at each ratio, in multiples of `divisor`."""
    return tuple(BlockStage(width_ladder(width, ratios, divisor), n, stride) for width, n, stride in plan)


def resnet50(gates: tuple[int, ...], group: int, kernels: tuple[int, ...] = (3,)) -> ResNetConfig:
    return ResNetConfig((16, 32, 48, 64), 7, 2, True, sliced(RESNET50, RATIOS, 16), gates, group, kernels)


def micro(
    plan: Plan, stem: Stem, gates: tuple[int, ...] = (0, 1, 2), group: int = 4, kernels: tuple[int, ...] = (3,)
) -> ResNetConfig:
    """A small plan with a stem of 32 channels."""
    return ResNetConfig(MICRO_STEM, *stem, sliced(plan, RATIOS, 4), gates, group, kernels, gate_hidden=16)


def scaled(width: int, stem: Stem, plan: Plan, divisor: int, switchable: bool = False) -> ResNetConfig:
    """A plan at each width multiplier, its stem of `width` channels included: 31 of them, or four with batch norms of
    their own (`switchable`)."""
    multipliers = SWITCHABLE_MULTIPLIERS if switchable else WIDTH_MULTIPLIERS
    stages = sliced(plan, multipliers, divisor)
    return ResNetConfig(width_ladder(width, multipliers, divisor), *stem, stages, switchable=switchable)


def basic(plan: Plan, stem: Stem, trains_as: Trains, kernels: tuple[int, ...] = (3,)) -> ResNetConfig:
    """Basic blocks: a stem of 16 channels and two stages at full width, then two at each ratio or multiplier."""
    ratios = {UNIVERSAL: WIDTH_MULTIPLIERS, SWITCHABLE: SWITCHABLE_MULTIPLIERS}.get(trains_as, RATIOS)
    gates, switchable = () if trains_as in (UNIVERSAL, SWITCHABLE) else (FRONT,), trains_as == SWITCHABLE
    stages = (*sliced(plan[:FRONT], (1.0,), 4), *sliced(plan[FRONT:], ratios, 4))
    return ResNetConfig(
        (16,), *stem, stages, gates, 0, kernels, gate_hidden=32, switchable=switchable, expansion=1, front=FRONT
    )


FRONT = 2
BASIC8 = ((16, 1, 1), (16, 1, 1), (32, 2, 2), (64, 2, 2))
BASIC = ((16, 1, 1), (32, 1, 2), (64, 2, 2), (128, 2, 2))
STEM50, STEM32_WHOLE = (7, 2, True), (3, 1, False)
PRESETS = (
    Preset("ds_resnet50", RESNET, DYNAMIC, resnet50((0, 1, 2, 3), 16), 224, 1000, 3,
           "DS-ResNet-50: four gates of four options, group norm of 16 channels a group"),
    Preset("ds_resnet50_bn", RESNET, DYNAMIC, resnet50((1,), 0), 224, 1000, 3,
           "ResNet-50 with batch norm and a single gate of four options; timm's and torchvision's weights fit it"),
    Preset("ds_resnet50_pp", RESNET, SLICED, resnet50((0, 1, 2, 3), 16, (1, 3)), 224, 1000, 3,
           "DS-ResNet-50++: four gates of eight options, filters and kernel size"),
    Preset("ds_resnet_micro8", RESNET, DYNAMIC, micro(MICRO8, STEM8), 8, 10, 1,
           "DS-ResNet's plan for 8x8 images: three gates of four options"),
    Preset("ds_resnet_micro32", RESNET, DYNAMIC, micro(MICRO32, STEM32), 32, 10, 3,
           "DS-ResNet's plan for 32x32 images: three gates of four options"),
    Preset("ds_resnet_micro64", RESNET, DYNAMIC, micro(MICRO64, STEM64, (0, 1, 2, 3)), 64, 10, 3,
           "DS-ResNet's plan for 64x64 images: four gates of four options"),
    Preset("ds_resnet_bn_micro8", RESNET, DYNAMIC, micro(MICRO8, STEM8, (1,), 0), 8, 10, 1,
           "`ds_resnet_micro8` with batch norm and a single gate, in front of the second stage"),
    Preset("ds_resnet_bn_micro32", RESNET, DYNAMIC, micro(MICRO32, STEM32, (1,), 0), 32, 10, 3,
           "`ds_resnet_micro32` with batch norm and a single gate, in front of the second stage"),
    Preset("ds_resnet_pp_micro8", RESNET, SLICED, micro(MICRO8, STEM8, kernels=(1, 3)), 8, 10, 1,
           "DS-ResNet++'s plan for 8x8 images: three gates of eight options"),
    Preset("ds_resnet_pp_micro32", RESNET, SLICED, micro(MICRO32, STEM32, kernels=(1, 3)), 32, 10, 3,
           "DS-ResNet++'s plan for 32x32 images: three gates of eight options"),
    Preset("us_resnet50", RESNET, UNIVERSAL, scaled(64, STEM50, RESNET50, 8), 224, 1000, 3,
           "ResNet-50 at every width multiplier from 0.25 to 1.0 in steps of 0.025, stem included (Yu & Huang 2019)"),
    Preset("us_resnet_micro8", RESNET, UNIVERSAL, scaled(32, STEM8, MICRO8, 4), 8, 10, 1,
           "The blocks of `ds_resnet_micro8` at every width multiplier"),
    Preset("us_resnet_micro32", RESNET, UNIVERSAL, scaled(32, STEM32, MICRO32, 4), 32, 10, 3,
           "The blocks of `ds_resnet_micro32` at every width multiplier"),
    Preset("s_resnet50", RESNET, SWITCHABLE, scaled(64, STEM50, RESNET50, 8, True), 224, 1000, 3,
           "ResNet-50 at four widths with switchable batch norm (Yu et al. 2019)"),
    Preset("s_resnet_micro8", RESNET, SWITCHABLE, scaled(32, STEM8, MICRO8, 4, True), 8, 10, 1,
           "`us_resnet_micro8` at four widths, with switchable batch norm"),
    Preset("s_resnet_micro32", RESNET, SWITCHABLE, scaled(32, STEM32, MICRO32, 4, True), 32, 10, 3,
           "`us_resnet_micro32` at four widths, with switchable batch norm"),
    Preset("ds_resnet_basic_micro8", RESNET, DYNAMIC, basic(BASIC8, STEM8, DYNAMIC), 8, 10, 1,
           "Basic blocks for 8x8 images, a front at full width, and a gate of four options behind it"),
    Preset("ds_resnet_basic_micro32", RESNET, DYNAMIC, basic(BASIC, STEM32_WHOLE, DYNAMIC), 32, 10, 3,
           "Basic blocks for 32x32 images, a front at full width, and a gate of four options behind it"),
    Preset("ds_resnet_basic_micro64", RESNET, DYNAMIC, basic(BASIC, STEM32, DYNAMIC), 64, 10, 3,
           "Basic blocks for 64x64 images, a front at full width, and a gate of four options behind it"),
    Preset("ds_resnet_basic_pp_micro8", RESNET, SLICED, basic(BASIC8, STEM8, SLICED, (1, 3)), 8, 10, 1,
           "`ds_resnet_basic_micro8` with kernels of 1x1 or 3x3 behind the gate, of eight options"),
    Preset("ds_resnet_basic_pp_micro32", RESNET, SLICED, basic(BASIC, STEM32_WHOLE, SLICED, (3, 5)), 32, 10, 3,
           "`ds_resnet_basic_micro32` with kernels of 3x3 or 5x5 behind the gate, of eight options"),
    Preset("us_resnet_basic_micro8", RESNET, UNIVERSAL, basic(BASIC8, STEM8, UNIVERSAL), 8, 10, 1,
           "The network of `ds_resnet_basic_micro8`, its sliced stages at every width multiplier"),
    Preset("us_resnet_basic_micro32", RESNET, UNIVERSAL, basic(BASIC, STEM32_WHOLE, UNIVERSAL), 32, 10, 3,
           "The network of `ds_resnet_basic_micro32`, its sliced stages at every width multiplier"),
    Preset("us_resnet_basic_micro64", RESNET, UNIVERSAL, basic(BASIC, STEM32, UNIVERSAL), 64, 10, 3,
           "The network of `ds_resnet_basic_micro64`, its sliced stages at every width multiplier"),
    Preset("s_resnet_basic_micro8", RESNET, SWITCHABLE, basic(BASIC8, STEM8, SWITCHABLE), 8, 10, 1,
           "`us_resnet_basic_micro8` at four widths, with switchable batch norm"),
    Preset("s_resnet_basic_micro32", RESNET, SWITCHABLE, basic(BASIC, STEM32_WHOLE, SWITCHABLE), 32, 10, 3,
           "`us_resnet_basic_micro32` at four widths, with switchable batch norm"),
    Preset("s_resnet_basic_micro64", RESNET, SWITCHABLE, basic(BASIC, STEM32, SWITCHABLE), 64, 10, 3,
           "`us_resnet_basic_micro64` at four widths, with switchable batch norm"),
)  # fmt: skip
