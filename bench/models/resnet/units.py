"""The units of a slimmable ResNet: stem, residual block, what a gate sees in front of a block, and the head; and the
supernet of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

from torch import Tensor, nn

from bench.models.resnet.space import ResNetConfig
from bench.slicing.choice import AnyChoice, Choice, ChoiceSpace, OneChoice
from bench.slicing.layers import Shape, SlicedConv2d, SlicedLinear, conv_cost
from bench.slicing.norms import PrefixBatchNorm2d, SlicedGroupNorm, SwitchableBatchNorm2d
from bench.slicing.ops import Width, drop_path, drop_rates, times
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


class Residual(Unit):
    """A block that is added to what arrives at it: a bottleneck, 1x1 to the inner width, 3x3 (which strides, as in
    "v1.5") and 1x1 to four times the inner width; or a basic block, two 3x3 of which the first strides.

    The first block of a stage projects its shortcut to the stage's width where width or stride change (He et al. 2016,
    option B), a bottleneck always; both follow the stage's choice.
    """

    def __init__(
        self, config: ResNetConfig, space: ChoiceSpace, stage: int, first: bool, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        plan, here, factor = config.stages[stage], stage + 1, config.expansion  # stage 0 of the space is the stem
        self.space, self.inp_stage = space, stage if first else here
        self.inp_factor = 1 if self.inp_stage == 0 else factor
        inner, inp = plan.widths[-1], config.arriving(stage)[-1] if first else factor * plan.widths[-1]
        stride = plan.stride if first else 1
        elastic = not first and config.has_kernels(stage)
        kernel = config.kernels[-1] if elastic else 3
        is_basic = factor == 1
        self.conv1 = ConvNorm(config, space, inp, here, *((3, stride) if is_basic else (1, 1)))
        self.conv2 = ConvNorm(config, space, inner, here, kernel, 1 if is_basic else stride, elastic=elastic)
        self.conv3 = None if is_basic else ConvNorm(config, space, inner, here, 1, factor=factor)
        projects = first and not (is_basic and stride == 1 and inp == inner)
        self.shortcut = ConvNorm(config, space, inp, here, 1, stride, factor=factor) if projects else None

    @property
    def convs(self) -> list[ConvNorm]:
        """The convolutions of the branch."""
        return [self.conv1, self.conv2] if self.conv3 is None else [self.conv1, self.conv2, self.conv3]

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        *inner, last = self.convs
        y = x
        for layer in inner:
            y = layer(y, choice).relu_()
        y = drop_path(last(y, choice), self.drop_path, self.training)
        return (y + (x if self.shortcut is None else self.shortcut(x, choice))).relu_()

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        madds = 0 if self.shortcut is None else self.shortcut.cost(choice, shape)[0]
        for layer in self.convs:
            more, shape = layer.cost(choice, shape)
            madds += more
        return Cost(madds, 0, shape)

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        inp = self.inp_factor * self.space.width(choice, self.inp_stage)
        first, *others = self.convs
        branch = first.extract(choice, inp)
        for layer in others:
            branch += [nn.ReLU(inplace=True), *layer.extract(choice, self.space.width(choice, first.stage))]
        shortcut = [] if self.shortcut is None else self.shortcut.extract(choice, inp)
        return PlainResidual(nn.Sequential(*branch), nn.Sequential(*shortcut), self.drop_path)


class PlainResidual(nn.Module):
    """A residual block of fixed widths; an empty shortcut is the identity."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Sequential, drop_path: float = 0.0) -> None:
        super().__init__()
        self.branch, self.shortcut, self.drop_path = branch, shortcut, drop_path

    def forward(self, x: Tensor) -> Tensor:
        return (drop_path(self.branch(x), self.drop_path, self.training) + self.shortcut(x)).relu_()


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
        self.space, self.stage, self.factor = space, len(space.stages) - 1, config.expansion
        self.linear = SlicedLinear(self.factor * config.stages[-1].widths[-1], classes)

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
        linear = self.linear.extract(self.factor * self.space.width(choice, self.stage))
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


Ending = Callable[[ResNetConfig, ChoiceSpace, int], Unit]
"""(configuration, its space, classes) to the unit that a network ends in."""


def build(config: ResNetConfig, classes: int, input_channels: int, head: Ending = Head) -> Supernet:
    """The supernet of a configuration, cut in front of every gated stage, or behind a front that no gate follows."""
    space = config.space()
    cuts: list[list[Unit]] = [[Stem(config, space, input_channels)]]
    rates = iter(drop_rates(config.drop_path, sum(plan.blocks for plan in config.stages)))
    for stage, plan in enumerate(config.stages):
        if stage in config.gates:
            cuts[-1].append(GateInput(config.leading(stage)))
        if stage in (config.gates or (config.front or None,)):
            cuts.append([])
        cuts[-1] += [Residual(config, space, stage, block == 0, next(rates)) for block in range(plan.blocks)]
    cuts[-1].append(head(config, space, classes))
    segments = [Segment(units, decides=index < len(config.gates)) for index, units in enumerate(cuts)]
    return Supernet(space, segments, input_channels, config.gate_hidden)
