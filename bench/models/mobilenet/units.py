"""The units of a slimmable MobileNetV1: stem, the two halves of a block, classifier; and the supernet of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

from torch import Tensor, nn

from bench.models.mobilenet.space import MobileNetConfig
from bench.slicing.choice import AnyChoice, Choice, ChoiceSpace, OneChoice
from bench.slicing.layers import Shape, SlicedConv2d, SlicedLinear, conv_cost
from bench.slicing.norms import PrefixBatchNorm2d, SwitchableBatchNorm2d
from bench.slicing.ops import Width
from bench.slicing.supernet import Cost, Features, Segment, Supernet, Unit


def activation(config: MobileNetConfig) -> nn.Module:
    return nn.SiLU() if config.swish else nn.ReLU6()


class Stem(Unit):
    """Dense 3x3 convolution, batch norm, activation."""

    def __init__(self, config: MobileNetConfig, space: ChoiceSpace, input_channels: int) -> None:
        super().__init__()
        self.space, self.stride = space, config.stem_stride
        self.conv = SlicedConv2d(input_channels, max(config.stem), 3, self.stride)
        self.norm = norm(config, space, 1, 0)
        self.act = activation(config)

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        return self.act(self.norm(self.conv(x, self.space.width(choice, 0)), choice.key(1)))

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        madds, shape = conv_cost(shape, self.space.width(choice, 0), 3, self.stride)
        return Cost(madds, 0, shape)

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        conv = self.conv.extract(self.conv.weight.shape[1], self.space.width(choice, 0))
        return nn.Sequential(conv, self.norm.extract(choice.key(1)), self.act)


class Attention(nn.Module):
    """Channel attention whose squeeze is static (METHODS 3.1): its trunk is what the gate shares."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = SlicedLinear(channels, squeezed)
        self.expand = SlicedLinear(squeezed, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Features]:
        trunk = self.reduce(x.mean((2, 3))).relu()  # (B, S)
        scale = self.expand(trunk, x.shape[1]).sigmoid()
        return x * scale[:, :, None, None], Features(x, trunk)

    def extract(self, channels: int, decides: bool) -> nn.Module:
        plain = PlainAttentionTrunk if decides else PlainAttention
        return plain(self.reduce.extract(channels), self.expand.extract(len(self.reduce.bias), channels))


class PlainAttentionTrunk(nn.Module):
    """Channel attention of fixed width that also returns what a gate sees."""

    def __init__(self, reduce: nn.Linear, expand: nn.Linear) -> None:
        super().__init__()
        self.reduce, self.expand = reduce, expand

    def forward(self, x: Tensor) -> tuple[Tensor, Features]:
        trunk = self.reduce(x.mean((2, 3))).relu()
        return x * self.expand(trunk).sigmoid()[:, :, None, None], Features(x, trunk)


class PlainAttention(PlainAttentionTrunk):
    """Channel attention of fixed width."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0]


class PlainGateInput(nn.Module):
    """An activation, and the same for a gate to read."""

    def forward(self, x: Tensor) -> tuple[Tensor, Features]:
        return x, Features(x)


class Depthwise(Unit):
    """The first half of a block: depth-wise convolution, batch norm, activation, channel attention. A gate may follow.

    Its width is that of the stage in front of it, so it can run before its own stage is decided; then it is 3x3.

    Args:
        kernel_stage: the stage whose kernel size it takes; None for 3x3 under every choice.
    """

    def __init__(
        self, config: MobileNetConfig, space: ChoiceSpace, inp_stage: int, stride: int, kernel_stage: int | None = None
    ) -> None:
        super().__init__()
        self.space, self.inp_stage, self.stride = space, inp_stage, stride
        self.kernel_stage = kernel_stage
        self.depth = 1 + (inp_stage if kernel_stage is None else kernel_stage)
        channels = max(space.stages[inp_stage].values("filters"))
        size = 3 if kernel_stage is None else config.kernels[-1]
        self.conv = SlicedConv2d(channels, channels, size, stride, depthwise=True)
        self.norm = norm(config, space, self.depth, inp_stage)
        self.act = activation(config)
        self.squeezed = int(config.squeeze * channels) if config.attention else 0
        self.attention = Attention(channels, self.squeezed) if self.squeezed else None

    @overload
    def kernel(self, choice: OneChoice) -> int: ...

    @overload
    def kernel(self, choice: AnyChoice) -> Width: ...

    def kernel(self, choice: AnyChoice) -> Width:
        """Kernel size under a choice."""
        return self.conv.kernel if self.kernel_stage is None else self.space.width(choice, self.kernel_stage, "kernel")

    def decide(self, x: Tensor, choice: AnyChoice) -> tuple[Tensor, Features]:
        x = self._convolved(x, choice)
        return (x, Features(x)) if self.attention is None else self.attention(x)

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        x = self._convolved(x, choice)
        return x if self.attention is None else self.attention(x)[0]

    def _convolved(self, x: Tensor, choice: AnyChoice) -> Tensor:
        return self.act(self.norm(self.conv(x, kernel=self.kernel(choice)), choice.key(self.depth)))

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        madds, shape = conv_cost(shape, shape[0], self.kernel(choice), self.stride, groups=shape[0])
        channels, height, width = shape
        pooled = channels * height * width if self.squeezed else 0
        return Cost(madds + 2 * channels * self.squeezed, pooled, shape)

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        channels = self.space.width(choice, self.inp_stage)
        conv = self.conv.extract(channels, kernel=self.kernel(choice))
        layers = [conv, self.norm.extract(choice.key(self.depth)), self.act]
        if self.attention is not None:
            layers.append(self.attention.extract(channels, decides))
        elif decides:
            layers.append(PlainGateInput())
        return nn.Sequential(*layers)


class Pointwise(Unit):
    """The second half of a block: 1x1 convolution to the stage's width, batch norm, activation."""

    def __init__(self, config: MobileNetConfig, space: ChoiceSpace, inp_stage: int, stage: int) -> None:
        super().__init__()
        self.space, self.inp_stage, self.stage = space, inp_stage, stage
        inp = max(space.stages[inp_stage].values("filters"))
        self.conv = SlicedConv2d(inp, max(space.stages[stage].values("filters")), 1)
        self.norm = norm(config, space, stage + 1, stage)
        self.act = activation(config)

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        x = self.conv(x, self.space.width(choice, self.stage))
        return self.act(self.norm(x, choice.key(self.stage + 1)))

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        madds, shape = conv_cost(shape, self.space.width(choice, self.stage), 1, 1)
        return Cost(madds, 0, shape)

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        inp, out = self.space.width(choice, self.inp_stage), self.space.width(choice, self.stage)
        return nn.Sequential(self.conv.extract(inp, out), self.norm.extract(choice.key(self.stage + 1)), self.act)


class Classifier(Unit):
    """Global average pool and a linear layer: its input is sliced, its output static."""

    of_classes = ("linear.",)

    def __init__(self, config: MobileNetConfig, space: ChoiceSpace, classes: int) -> None:
        super().__init__()
        self.space, self.stage, self.classes = space, len(space.stages) - 1, classes
        self.linear = SlicedLinear(max(space.stages[-1].values("filters")), classes)
        self.dropout = config.dropout

    @property
    def reads(self) -> Tensor:
        return self.linear.weight

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        x = x.mean((2, 3))
        if self.training and self.dropout and choice == self.space.largest:
            x = nn.functional.dropout(x, self.dropout)
        return self.linear(x)

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        channels, height, width = shape
        return Cost(channels * self.classes, channels * height * width, (self.classes, 1, 1))

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        linear = self.linear.extract(self.space.width(choice, self.stage))
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def norm(config: MobileNetConfig, space: ChoiceSpace, depth: int, stage: int) -> PrefixBatchNorm2d:
    """Batch norm over the width of `stage`, with statistics for each prefix of the first `depth` stages."""
    keys = {key: space.width(prefix, stage) for key, prefix in space.prefix_keys(depth).items()}
    kind = SwitchableBatchNorm2d if config.switchable else PrefixBatchNorm2d
    return kind(max(space.stages[stage].values("filters")), keys)


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
