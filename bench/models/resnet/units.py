"""The units of a slimmable ResNet: stem, bottleneck block, what a gate sees in front of a block, and the head; and the
supernet of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

from torch import Tensor, nn

from bench.models.resnet.space import EXPANSION, ResNetConfig
from bench.slicing.choice import AnyChoice, Choice, ChoiceSpace, OneChoice
from bench.slicing.layers import Shape, SlicedConv2d, SlicedLinear, conv_cost
from bench.slicing.norms import PrefixBatchNorm2d, SlicedGroupNorm, SwitchableBatchNorm2d
from bench.slicing.ops import Width, times
from bench.slicing.supernet import Cost, Features, Segment, Supernet, Unit


class ConvNorm(nn.Module):
    """A convolution to a multiple of a stage's width and its normalisation, both sliced.

    Args:
        inp: the largest width that arrives.
        stage: the stage of the space whose width (times `factor`) and, if `elastic`, kernel size it takes.
    """

    def __init__(
        self,
        config: ResNetConfig,
        space: ChoiceSpace,
        inp: int,
        stage: int,
        kernel: int,
        stride: int = 1,
        *,
        factor: int = 1,
        elastic: bool = False,
    ) -> None:
        super().__init__()
        self.space, self.stage, self.factor, self.elastic = space, stage, factor, elastic
        widths = [factor * width for width in space.stages[stage].values("filters")]
        self.conv = SlicedConv2d(inp, widths[-1], kernel, stride)
        if config.group:
            self.norm: SlicedGroupNorm | PrefixBatchNorm2d = SlicedGroupNorm(widths[-1], config.group, widths)
        else:
            prefixes = space.prefix_keys(stage + 1).items()
            kind = SwitchableBatchNorm2d if config.switchable else PrefixBatchNorm2d
            self.norm = kind(widths[-1], {key: factor * space.width(p, stage) for key, p in prefixes})

    @overload
    def kernel(self, choice: OneChoice) -> int: ...

    @overload
    def kernel(self, choice: AnyChoice) -> Width: ...

    def kernel(self, choice: AnyChoice) -> Width:
        """Kernel size under a choice."""
        return self.space.width(choice, self.stage, "kernel") if self.elastic else self.conv.kernel

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        width = times(self.space.width(choice, self.stage), self.factor)
        x = self.conv(x, width, self.kernel(choice))
        if isinstance(self.norm, SlicedGroupNorm):
            return self.norm(x, width)
        return self.norm(x, choice.key(self.stage + 1))

    def cost(self, choice: Choice, shape: Shape) -> tuple[int, Shape]:
        width = self.factor * self.space.width(choice, self.stage)
        return conv_cost(shape, width, self.kernel(choice), self.conv.stride)

    def extract(self, choice: OneChoice, inp: int) -> list[nn.Module]:
        width = self.factor * self.space.width(choice, self.stage)
        conv = self.conv.extract(inp, width, self.kernel(choice))
        if isinstance(self.norm, SlicedGroupNorm):
            return [conv, self.norm.extract(width)]
        return [conv, self.norm.extract(choice.key(self.stage + 1))]


class Stem(Unit):
    """Dense convolution, normalisation, ReLU and, in full-size networks, a max-pool."""

    def __init__(self, config: ResNetConfig, space: ChoiceSpace, input_channels: int) -> None:
        super().__init__()
        kernel, stride = config.stem_kernel, config.stem_stride
        self.conv = ConvNorm(config, space, input_channels, 0, kernel, stride)
        self.pool = nn.MaxPool2d(3, 2, 1) if config.stem_pool else None

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        x = self.conv(x, choice).relu_()
        return x if self.pool is None else self.pool(x)

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        madds, (channels, height, width) = self.conv.cost(choice, shape)
        if self.pool is not None:
            height, width = -(-height // 2), -(-width // 2)
        return Cost(madds, 0, (channels, height, width))

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        layers = [*self.conv.extract(choice, self.conv.conv.weight.shape[1]), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers, *([] if self.pool is None else [nn.MaxPool2d(3, 2, 1)]))


class Bottleneck(Unit):
    """1x1 to the inner width, 3x3 (which strides, as in "v1.5"), 1x1 to four times the inner width, plus a shortcut.

    The first block of a stage projects its shortcut to the stage's width; both follow the stage's choice.
    """

    def __init__(self, config: ResNetConfig, space: ChoiceSpace, stage: int, first: bool) -> None:
        super().__init__()
        plan, here = config.stages[stage], stage + 1  # stage 0 of the space is the stem
        self.space, self.inp_stage = space, stage if first else here
        self.inp_factor = 1 if self.inp_stage == 0 else EXPANSION
        inner, inp = plan.widths[-1], config.arriving(stage)[-1] if first else EXPANSION * plan.widths[-1]
        stride = plan.stride if first else 1
        elastic = not first and config.has_kernels(stage)
        self.conv1 = ConvNorm(config, space, inp, here, 1)
        self.conv2 = ConvNorm(config, space, inner, here, config.kernels[-1], stride, elastic=elastic)
        self.conv3 = ConvNorm(config, space, inner, here, 1, factor=EXPANSION)
        self.shortcut = ConvNorm(config, space, inp, here, 1, stride, factor=EXPANSION) if first else None

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        y = self.conv1(x, choice).relu_()
        y = self.conv2(y, choice).relu_()
        y = self.conv3(y, choice)
        return (y + (x if self.shortcut is None else self.shortcut(x, choice))).relu_()

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        arrived, madds = shape, 0
        for layer in (self.conv1, self.conv2, self.conv3):
            more, shape = layer.cost(choice, shape)
            madds += more
        return Cost(madds if self.shortcut is None else madds + self.shortcut.cost(choice, arrived)[0], 0, shape)

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        inp = self.inp_factor * self.space.width(choice, self.inp_stage)
        inner = self.space.width(choice, self.conv1.stage)
        branch = [*self.conv1.extract(choice, inp), nn.ReLU(inplace=True)]
        branch += [*self.conv2.extract(choice, inner), nn.ReLU(inplace=True), *self.conv3.extract(choice, inner)]
        shortcut = [] if self.shortcut is None else self.shortcut.extract(choice, inp)
        return PlainBottleneck(nn.Sequential(*branch), nn.Sequential(*shortcut))


class PlainBottleneck(nn.Module):
    """A residual block of fixed widths; an empty shortcut is the identity."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Sequential) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return (self.branch(x) + self.shortcut(x)).relu_()


class GateInput(Unit):
    """Stands in front of a gated block: passes its input on, and shows it to the gate.

    The gate reads the leading channels, those that every routed network computes, so it costs each image the same.
    """

    def __init__(self, leading: int) -> None:
        super().__init__()
        self.leading = leading

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        return x

    def decide(self, x: Tensor, choice: AnyChoice) -> tuple[Tensor, Features]:
        return x, Features(x[:, : self.leading])

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        return Cost(0, 0, shape)

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        return PlainGateInput(self.leading) if decides else nn.Sequential()


class PlainGateInput(nn.Module):
    """The input of a gated block, with what the gate sees of it."""

    def __init__(self, leading: int) -> None:
        super().__init__()
        self.leading = leading

    def forward(self, x: Tensor) -> tuple[Tensor, Features]:
        return x, Features(x[:, : self.leading])


class Head(Unit):
    """Global average pool and a linear layer: its input is sliced, its output static."""

    of_classes = ("linear.",)

    def __init__(self, config: ResNetConfig, space: ChoiceSpace, classes: int) -> None:
        super().__init__()
        self.space, self.stage = space, len(space.stages) - 1
        self.linear = SlicedLinear(EXPANSION * config.stages[-1].widths[-1], classes)

    @property
    def reads(self) -> Tensor:
        return self.linear.weight

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        return self.linear(x.mean((2, 3)))

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        channels, height, width = shape
        classes = len(self.linear.bias)
        return Cost(channels * classes, channels * height * width, (classes, 1, 1))

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        linear = self.linear.extract(EXPANSION * self.space.width(choice, self.stage))
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


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
