"""What a slimmable MobileNetV1 is made of, its choice space, and its units: stem, two halves of a block, classifier."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor, nn

from bench.slicing.choice import Choice, ChoiceSpace, Decision, Stage
from bench.slicing.layers import (
    AnyChoice,
    PrefixBatchNorm2d,
    Shape,
    SlicedConv2d,
    SlicedLinear,
    SwitchableBatchNorm2d,
    conv_cost,
)
from bench.slicing.supernet import Cost, Features, Unit


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
        kernels: kernel sizes of the depth-wise convolutions behind the gate, ascending; one value where the kernel is
            not elastic. Those in front of the gate, its own block's included, are 3x3.
        squeeze: squeeze ratio of channel attention, of the largest width; 0 for blocks without attention.
        attention: whether blocks have that attention. Where not, the gate has a hidden layer of its own, as wide as
            the trunk that it would share.
        dropout: in front of the classifier, in training, for the largest network only (METHODS 4.1).
        switchable: batch norm has scales and shifts for each named choice too, not only statistics (Yu et al. 2019).
    """

    stem: tuple[int, ...]
    stem_stride: int
    stages: tuple[BlockStage, ...]
    gated_from: int | None
    squeeze: float = 0.25
    swish: bool = True
    dropout: float = 0.0
    kernels: tuple[int, ...] = (3,)
    attention: bool = True
    switchable: bool = False

    @property
    def gate_hidden(self) -> int:
        """Width of the gate's own hidden layer; 0 where there is no gate or it shares attention's trunk."""
        if self.attention or self.gated_from is None:
            return 0
        widths = (self.stem, *(stage.widths for stage in self.stages))  # the gate stands on its block's input width
        return int(self.squeeze * max(widths[self.gated_from]))

    def space(self) -> ChoiceSpace:
        stages = (Stage("stem", (("filters", self.stem),)), *map(self._stage, range(len(self.stages))))
        if self.gated_from is None:
            steps = range(len(self.stem))
            ladder = tuple(Choice(tuple((step,) for _ in stages)) for step in steps)
            return ChoiceSpace(stages, ladder[0].indices, (), ladder)
        first = self.gated_from + 1  # the stem is stage 0 of the space
        fixed = tuple(stage.first for stage in stages[:first])
        pairs = product(*(range(len(values)) for _, values in stages[first].dimensions))
        options = tuple((pair,) * (len(stages) - first) for pair in pairs)
        ladder = tuple(Choice(fixed).then(option) for option in options)
        return ChoiceSpace(stages, fixed, (Decision(first, options),), ladder)

    def has_kernels(self, stage: int, block: int) -> bool:
        """Whether a block's depth-wise convolution has an elastic kernel: it must run behind the gate."""
        behind = self.gated_from is not None and (stage > self.gated_from or (stage == self.gated_from and block > 0))
        return len(self.kernels) > 1 and behind

    def _stage(self, index: int) -> Stage:
        is_gated = self.gated_from is not None and index >= self.gated_from
        kernels = (("kernel", self.kernels),) if is_gated and len(self.kernels) > 1 else ()
        return Stage(f"stage{index}", (("filters", self.stages[index].widths), *kernels))


def activation(config: MobileNetConfig) -> nn.Module:
    return nn.SiLU() if config.swish else nn.ReLU()


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

    def kernel(self, choice: AnyChoice) -> Any:
        """Kernel size under a choice (soft under a soft choice); None for all of the stored one."""
        return None if self.kernel_stage is None else self.space.width(choice, self.kernel_stage, "kernel")

    def decide(self, x: Tensor, choice: AnyChoice) -> tuple[Tensor, Features]:
        x = self._convolved(x, choice)
        return (x, Features(x)) if self.attention is None else self.attention(x)

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        x = self._convolved(x, choice)
        return x if self.attention is None else self.attention(x)[0]

    def _convolved(self, x: Tensor, choice: AnyChoice) -> Tensor:
        return self.act(self.norm(self.conv(x, kernel=self.kernel(choice)), choice.key(self.depth)))

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        kernel = self.kernel(choice) or self.conv.kernel
        madds, shape = conv_cost(shape, shape[0], kernel, self.stride, groups=shape[0])
        channels, height, width = shape
        pooled = channels * height * width if self.squeezed else 0
        return Cost(madds + 2 * channels * self.squeezed, pooled, shape)

    def extract(self, choice: Choice, decides: bool = False) -> nn.Module:
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


def norm(config: MobileNetConfig, space: ChoiceSpace, depth: int, stage: int) -> PrefixBatchNorm2d:
    """Batch norm over the width of `stage`, with statistics for each prefix of the first `depth` stages."""
    keys = {key: space.width(prefix, stage) for key, prefix in space.prefix_keys(depth).items()}
    kind = SwitchableBatchNorm2d if config.switchable else PrefixBatchNorm2d
    return kind(max(space.stages[stage].values("filters")), keys)
