"""Slimmable MobileNetV1: the DS-Net family with one gate, and the width-multiplier family of US-Nets.

`ds_mobilenet_v1` holds the official channel lists of DS-MBNet (METHODS 3.1): 13 depth-wise separable blocks with
channel attention, swish, no residual; the gate stands behind the first depth-wise convolution of stage 3, the stages in
front of it always run at their smallest width in a routed network, and stage 4 takes the same index as stage 3.
`us_mobilenet_v1` scales every stage of the original MobileNetV1 by one width multiplier (Yu & Huang 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from bench.slicing.choice import Choice, ChoiceSpace, Decision, Stage
from bench.slicing.layers import AnyChoice, PrefixBatchNorm2d, Shape, SlicedConv2d, SlicedLinear, conv_cost
from bench.slicing.supernet import Cost, Features, Segment, Supernet, Unit

WIDTH_MULTIPLIERS = tuple(round(0.25 + 0.025 * step, 3) for step in range(31))  # 0.25 to 1.0, as US-Nets


@dataclass(frozen=True)
class BlockStage:
    """Depth-wise separable blocks of equal width: its width list, number of blocks, and the stride of the first."""

    widths: tuple[int, ...]
    blocks: int
    stride: int


@dataclass(frozen=True)
class MobileNetConfig:
    """What a slimmable MobileNetV1 is made of.

    Attributes:
        stem: width list of the stem convolution.
        gated_from: index of the first block stage that a gate decides; None for a family without a gate.
        squeeze: squeeze ratio of channel attention, of the largest width; 0 for blocks without attention.
        dropout: in front of the classifier, in training, for the largest network only (METHODS 4.1).
    """

    stem: tuple[int, ...]
    stem_stride: int
    stages: tuple[BlockStage, ...]
    gated_from: int | None
    squeeze: float = 0.25
    swish: bool = True
    dropout: float = 0.0

    def space(self) -> ChoiceSpace:
        lists = [("stem", self.stem)] + [(f"stage{i}", stage.widths) for i, stage in enumerate(self.stages)]
        stages = tuple(Stage(name, (("filters", widths),)) for name, widths in lists)
        if self.gated_from is None:
            steps = range(len(self.stem))
            ladder = tuple(Choice(tuple((step,) for _ in stages)) for step in steps)
            return ChoiceSpace(stages, ladder[0].indices, (), ladder)
        first = self.gated_from + 1  # the stem is stage 0 of the space
        fixed = tuple(stage.first for stage in stages[:first])
        steps = range(len(self.stages[self.gated_from].widths))
        options = tuple(tuple((step,) for _ in stages[first:]) for step in steps)
        ladder = tuple(Choice(fixed).then(option) for option in options)
        return ChoiceSpace(stages, fixed, (Decision(first, options),), ladder)


def activation(config: MobileNetConfig) -> nn.Module:
    return nn.SiLU() if config.swish else nn.ReLU()


class Stem(Unit):
    """Dense 3x3 convolution, batch norm, activation."""

    def __init__(self, config: MobileNetConfig, space: ChoiceSpace, input_channels: int) -> None:
        super().__init__()
        self.space, self.stride = space, config.stem_stride
        self.conv = SlicedConv2d(input_channels, max(config.stem), 3, self.stride)
        self.norm = norm(space, 1, 0)
        self.act = activation(config)

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        return self.act(self.norm(self.conv(x, self.space.width(choice, 0)), choice.key(1)))

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        madds, shape = conv_cost(shape, self.space.width(choice, 0), 3, self.stride)
        return Cost(madds, 0, shape)

    def extract(self, choice: Choice, decides: bool = False) -> nn.Module:
        conv = self.conv.extract(self.conv.weight.shape[1], self.space.width(choice, 0))
        return nn.Sequential(conv, self.norm.extract(choice.key(1)), self.act)


class Attention(nn.Module):
    """Channel attention whose squeeze is static (METHODS 3.1): its trunk is what the gate shares."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = SlicedLinear(channels, squeezed)
        self.expand = SlicedLinear(squeezed, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Features]:
        pooled = x.mean((2, 3))  # (B, C)
        trunk = self.reduce(pooled).relu()  # (B, S)
        scale = self.expand(trunk, x.shape[1]).sigmoid()
        return x * scale[:, :, None, None], Features(pooled, trunk)

    def extract(self, channels: int, decides: bool) -> nn.Module:
        plain = PlainAttentionTrunk if decides else PlainAttention
        return plain(self.reduce.extract(channels), self.expand.extract(len(self.reduce.bias), channels))


class PlainAttentionTrunk(nn.Module):
    """Channel attention of fixed width that also returns what a gate sees."""

    def __init__(self, reduce: nn.Linear, expand: nn.Linear) -> None:
        super().__init__()
        self.reduce, self.expand = reduce, expand

    def forward(self, x: Tensor) -> tuple[Tensor, Features]:
        pooled = x.mean((2, 3))
        trunk = self.reduce(pooled).relu()
        return x * self.expand(trunk).sigmoid()[:, :, None, None], Features(pooled, trunk)


class PlainAttention(PlainAttentionTrunk):
    """Channel attention of fixed width."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0]


class Depthwise(Unit):
    """The first half of a block: depth-wise 3x3, batch norm, activation, channel attention. A gate may follow it.

    Its width is that of the stage in front of it, so it runs before its own stage is decided.
    """

    def __init__(self, config: MobileNetConfig, space: ChoiceSpace, inp_stage: int, stride: int) -> None:
        super().__init__()
        self.space, self.inp_stage, self.stride = space, inp_stage, stride
        channels = max(space.stages[inp_stage].values("filters"))
        self.conv = SlicedConv2d(channels, channels, 3, stride, depthwise=True)
        self.norm = norm(space, inp_stage + 1, inp_stage)
        self.act = activation(config)
        self.squeezed = int(config.squeeze * channels)
        self.attention = Attention(channels, self.squeezed) if self.squeezed else None

    def decide(self, x: Tensor, choice: AnyChoice) -> tuple[Tensor, Features]:
        if self.attention is None:
            return super().decide(x, choice)
        return self.attention(self._convolved(x, choice))

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        x = self._convolved(x, choice)
        return x if self.attention is None else self.attention(x)[0]

    def _convolved(self, x: Tensor, choice: AnyChoice) -> Tensor:
        return self.act(self.norm(self.conv(x), choice.key(self.inp_stage + 1)))

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        madds, shape = conv_cost(shape, shape[0], 3, self.stride, groups=shape[0])
        channels, height, width = shape
        pooled = channels * height * width if self.squeezed else 0
        return Cost(madds + 2 * channels * self.squeezed, pooled, shape)

    def extract(self, choice: Choice, decides: bool = False) -> nn.Module:
        channels = self.space.width(choice, self.inp_stage)
        layers = [self.conv.extract(channels), self.norm.extract(choice.key(self.inp_stage + 1)), self.act]
        if self.attention is not None:
            layers.append(self.attention.extract(channels, decides))
        return nn.Sequential(*layers)


class Pointwise(Unit):
    """The second half of a block: 1x1 convolution to the stage's width, batch norm, activation."""

    def __init__(self, config: MobileNetConfig, space: ChoiceSpace, inp_stage: int, stage: int) -> None:
        super().__init__()
        self.space, self.inp_stage, self.stage = space, inp_stage, stage
        inp = max(space.stages[inp_stage].values("filters"))
        self.conv = SlicedConv2d(inp, max(space.stages[stage].values("filters")), 1)
        self.norm = norm(space, stage + 1, stage)
        self.act = activation(config)

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        x = self.conv(x, self.space.width(choice, self.stage))
        return self.act(self.norm(x, choice.key(self.stage + 1)))

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        madds, shape = conv_cost(shape, self.space.width(choice, self.stage), 1, 1)
        return Cost(madds, 0, shape)

    def extract(self, choice: Choice, decides: bool = False) -> nn.Module:
        inp, out = self.space.width(choice, self.inp_stage), self.space.width(choice, self.stage)
        return nn.Sequential(self.conv.extract(inp, out), self.norm.extract(choice.key(self.stage + 1)), self.act)


class Classifier(Unit):
    """Global average pool and a linear layer: its input is sliced, its output static."""

    def __init__(self, config: MobileNetConfig, space: ChoiceSpace, classes: int) -> None:
        super().__init__()
        self.space, self.stage, self.classes = space, len(space.stages) - 1, classes
        self.linear = SlicedLinear(max(space.stages[-1].values("filters")), classes)
        self.dropout = config.dropout

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        x = x.mean((2, 3))
        if self.training and self.dropout and choice == self.space.largest:
            x = nn.functional.dropout(x, self.dropout)
        return self.linear(x)

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        channels, height, width = shape
        return Cost(channels * self.classes, channels * height * width, (self.classes, 1, 1))

    def extract(self, choice: Choice, decides: bool = False) -> nn.Module:
        linear = self.linear.extract(self.space.width(choice, self.stage))
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def norm(space: ChoiceSpace, depth: int, stage: int) -> PrefixBatchNorm2d:
    """Batch norm over the width of `stage`, with statistics for each prefix of the first `depth` stages."""
    keys = {key: space.width(prefix, stage) for key, prefix in space.prefix_keys(depth).items()}
    return PrefixBatchNorm2d(max(space.stages[stage].values("filters")), keys)


def build(config: MobileNetConfig, classes: int, input_channels: int) -> Supernet:
    """The supernet of a configuration, cut behind the depth-wise half of the first gated block."""
    space = config.space()
    cuts: list[list[Unit]] = [[Stem(config, space, input_channels)]]
    for index, spec in enumerate(config.stages):
        for block in range(spec.blocks):
            inp_stage = index if block == 0 else index + 1
            cuts[-1].append(Depthwise(config, space, inp_stage, spec.stride if block == 0 else 1))
            if index == config.gated_from and block == 0:
                cuts.append([])
            cuts[-1].append(Pointwise(config, space, inp_stage, index + 1))
    cuts[-1].append(Classifier(config, space, classes))
    segments = [Segment(units, decides=i < len(cuts) - 1) for i, units in enumerate(cuts)]
    return Supernet(space, segments, input_channels)


def ds_mobilenet_v1(classes: int = 1000, input_channels: int = 3) -> Supernet:
    """DS-MBNet with the official lists: 14 routable sub-networks and `largest`, 7,675,940 parameters without gate."""
    gated, tail = tuple(range(224, 641, 32)), tuple(range(736, 1153, 32))
    stages = (
        BlockStage((32, 88), 1, 1),
        BlockStage((48, 168), 2, 2),
        BlockStage((96, 264), 2, 2),
        BlockStage(gated, 6, 2),
        BlockStage(tail, 2, 2),
    )
    return build(MobileNetConfig((16, 24), 2, stages, 3, dropout=0.2), classes, input_channels)


def ds_mobilenet_micro8(classes: int = 10, input_channels: int = 1) -> Supernet:
    """DS-MBNet's plan for 8x8 images: four routable sub-networks."""
    stages = (
        BlockStage((16, 24), 1, 1),
        BlockStage((24, 40), 1, 2),
        BlockStage((24, 48, 72, 96), 3, 1),
        BlockStage((48, 96, 144, 192), 1, 2),
    )
    return build(MobileNetConfig((8, 12), 1, stages, 2), classes, input_channels)


def ds_mobilenet_micro32(classes: int = 10, input_channels: int = 3) -> Supernet:
    """DS-MBNet's plan for 32x32 images: four routable sub-networks."""
    stages = (
        BlockStage((24, 32), 1, 1),
        BlockStage((40, 56), 1, 2),
        BlockStage((48, 80, 112, 144), 3, 1),
        BlockStage((96, 160, 224, 288), 2, 2),
    )
    return build(MobileNetConfig((16, 24), 2, stages, 2), classes, input_channels)


def scaled(channels: int, multiplier: float, divisor: int = 8) -> int:
    """`channels` times the width multiplier, to the nearest multiple of `divisor` but never below 90 % of it."""
    width = max(divisor, int(channels * multiplier + divisor / 2) // divisor * divisor)
    return width + divisor if width < 0.9 * channels * multiplier else width


def width_ladder(channels: int, multipliers: tuple[float, ...], divisor: int) -> tuple[int, ...]:
    return tuple(scaled(channels, multiplier, divisor) for multiplier in multipliers)


def us_mobilenet_v1(classes: int = 1000, input_channels: int = 3) -> Supernet:
    """MobileNetV1 at every width multiplier from 0.25 to 1.0 in steps of 0.025; at 1.0 it is the original network."""
    plan = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
    stages = tuple(BlockStage(width_ladder(c, WIDTH_MULTIPLIERS, 8), n, s) for c, n, s in plan)
    stem = width_ladder(32, WIDTH_MULTIPLIERS, 8)
    return build(MobileNetConfig(stem, 2, stages, None, squeeze=0.0, swish=False), classes, input_channels)


def us_mobilenet_micro8(classes: int = 10, input_channels: int = 1) -> Supernet:
    """The blocks of `ds_mobilenet_micro8`, every stage scaled by one width multiplier."""
    stages = tuple(
        BlockStage(width_ladder(c, WIDTH_MULTIPLIERS, 4), n, s)
        for c, n, s in ((16, 1, 1), (32, 1, 2), (96, 3, 1), (192, 1, 2))
    )
    return build(MobileNetConfig(width_ladder(12, WIDTH_MULTIPLIERS, 4), 1, stages, None), classes, input_channels)


def us_mobilenet_micro32(classes: int = 10, input_channels: int = 3) -> Supernet:
    """The blocks of `ds_mobilenet_micro32`, every stage scaled by one width multiplier."""
    stages = tuple(
        BlockStage(width_ladder(c, WIDTH_MULTIPLIERS, 8), n, s)
        for c, n, s in ((32, 1, 1), (56, 1, 2), (144, 3, 1), (288, 2, 2))
    )
    return build(MobileNetConfig(width_ladder(24, WIDTH_MULTIPLIERS, 8), 2, stages, None), classes, input_channels)
