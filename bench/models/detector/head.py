"""The head of a single-shot detector: what a sliceable backbone ends in instead of a classifier.

Our design (no detection code of DS-Net is public: METHODS 6). In the manner of SSD-lite (Sandler et al. 2018): a 1x1
convolution, whose input is sliced, to maps of a fixed width; strides 8, 16 and 32, each made from the one before by a
strided depth-wise separable convolution; on each a depth-wise separable predictor of three anchors a cell. Its output
is the same for every choice: (B, anchors, 4 + classes), box offsets and class logits, in the order in which
torchvision's `AnchorGenerator` lists anchors. Normalised by groups, so no statistics are kept.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.detector.presets import DetectorConfig
from bench.models.mobilenet import units as mobilenet
from bench.models.resnet import units as resnet
from bench.slicing.choice import AnyChoice, Choice, ChoiceSpace, OneChoice
from bench.slicing.layers import Shape, SlicedConv2d, conv_cost
from bench.slicing.supernet import Cost, Supernet, Unit

STRIDES = (8, 16, 32)
PER_CELL = 3
"""Anchors a cell, of every detector of this suite; their sizes belong to the data (`training/anchors.py`)."""
OFFSETS = 4
PRIOR = 0.01  # of an object at an anchor before training, as in RetinaNet (Lin et al. 2017)
GROUP = 8


def separable(inp: int, out: int, stride: int) -> nn.Sequential:
    """A depth-wise 3x3 and a pointwise convolution, normalised by groups, rectified."""
    depthwise = nn.Conv2d(inp, inp, 3, stride, 1, groups=inp, bias=False)
    pointwise = nn.Conv2d(inp, out, 1, bias=False)
    return nn.Sequential(depthwise, nn.GroupNorm(inp // GROUP, inp), nn.ReLU(), pointwise, *normalised(out))


def normalised(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(channels // GROUP, channels), nn.ReLU()


class DetectorTail(nn.Module):
    """All of the head behind its first convolution: ordinary layers, which every sub-network shares whole.

    Args:
        width: channels of every map.
        finer: the factor by which the first map is finer than what the backbone returns: 1, or 2, then four times the
            channels arrive and become positions (depth to space).
    """

    def __init__(self, width: int, finer: int, classes: int) -> None:
        super().__init__()
        self.width, self.finer, self.outputs = width, finer, OFFSETS + classes
        self.first = nn.Sequential(*normalised(width))
        self.coarser = nn.ModuleList(separable(width, width, 2) for _ in STRIDES[1:])
        self.mix = nn.ModuleList(separable(width, width, 1) for _ in STRIDES)
        self.predict = nn.ModuleList(nn.Conv2d(width, PER_CELL * self.outputs, 1) for _ in STRIDES)
        for layer in self.predict:
            _initialise(layer, self.outputs)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, width * finer^2, H, W) to (B, anchors, 4 + classes)."""
        x = self.first(x if self.finer == 1 else F.pixel_shuffle(x, self.finer))
        maps = [x]
        for layer in self.coarser:
            maps.append(layer(maps[-1]))
        per_map = []
        for each, mix, predict in zip(maps, self.mix, self.predict, strict=True):
            y = predict(mix(each)).permute(0, 2, 3, 1)  # (B, H, W, PER_CELL * outputs)
            per_map.append(y.reshape(len(y), -1, self.outputs))
        return torch.cat(per_map, dim=1)

    def cost(self, shape: Shape) -> tuple[int, int]:
        """Multiply-adds for an activation of `shape` = (C, H, W), and the number of anchors."""
        size: Shape = (self.width, shape[1] * self.finer, shape[2] * self.finer)
        total = anchors = 0
        for level in range(len(STRIDES)):
            if level:
                more, size = self._separable_cost(size, 2)
                total += more
            total += self._separable_cost(size, 1)[0] + conv_cost(size, PER_CELL * self.outputs, 1, 1)[0]
            anchors += PER_CELL * size[1] * size[2]
        return total, anchors

    def _separable_cost(self, shape: Shape, stride: int) -> tuple[int, Shape]:
        depthwise, shape = conv_cost(shape, self.width, 3, stride, groups=self.width)
        pointwise, shape = conv_cost(shape, self.width, 1, 1)
        return depthwise + pointwise, shape


def _initialise(layer: nn.Conv2d, outputs: int) -> None:
    """No offset and a rare object everywhere (Lin et al. 2017, sec. 4.1)."""
    assert layer.bias is not None
    nn.init.normal_(layer.weight, std=0.01)
    bias = torch.full((PER_CELL, outputs), -math.log((1 - PRIOR) / PRIOR))
    bias[:, :OFFSETS] = 0
    with torch.no_grad():
        layer.bias.copy_(bias.view(-1))


class DetectorHead(Unit):
    """The head as the last unit of a supernet: its input is sliced, its output static.

    Args:
        factor: what arrives is this many times the width of the space's last stage.
        width, finer: see `DetectorTail`.
    """

    of_classes = ("",)

    def __init__(self, space: ChoiceSpace, factor: int, width: int, finer: int, classes: int) -> None:
        super().__init__()
        self.space, self.stage, self.factor = space, len(space.stages) - 1, factor
        self.reduce = SlicedConv2d(factor * max(space.stages[-1].values("filters")), width * finer**2, 1)
        self.tail = DetectorTail(width, finer, classes)

    @property
    def reads(self) -> Tensor:
        return self.reduce.weight

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        return self.tail(self.reduce(x))

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        reduced, shape = conv_cost(shape, self.reduce.weight.shape[0], 1, 1)
        madds, anchors = self.tail.cost(shape)
        return Cost(reduced + madds, 0, (anchors, self.tail.outputs, 1))

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        inp = self.factor * self.space.width(choice, self.stage)
        return PlainDetectorHead(self.reduce.extract(inp), copy.deepcopy(self.tail))


class PlainDetectorHead(nn.Module):
    """A detector's head of fixed input width."""

    of_classes = ("",)

    def __init__(self, reduce: nn.Conv2d, tail: DetectorTail) -> None:
        super().__init__()
        self.reduce, self.tail = reduce, tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.reduce(x))


def on_mobilenet(config: DetectorConfig, classes: int, input_channels: int) -> Supernet:
    """The detector on a slimmable MobileNet."""
    return mobilenet.build(config.backbone, classes, input_channels, _head(config, 1))


def on_resnet(config: DetectorConfig, classes: int, input_channels: int) -> Supernet:
    """The detector on a slimmable ResNet."""
    return resnet.build(config.backbone, classes, input_channels, _head(config, config.backbone.expansion))


def _head(config: DetectorConfig, factor: int) -> Callable[[object, ChoiceSpace, int], DetectorHead]:
    """The head, as the builders of backbones ask for what a network ends in."""
    return lambda _, space, classes: DetectorHead(space, factor, config.width, config.finer, classes)
