"""A supernet: segments of units, cut where a gate decides. Every way to run it is a walk over its segments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from bench.slicing.choice import AnyChoice, Choice, ChoiceSpace, OneChoice
from bench.slicing.layers import Shape


class Features(NamedTuple):
    """What a gate may read of an image.

    Attributes:
        activation: (B, C, H, W) or tokens (B, N, C), of equal width in every routed network.
        trunk: (B, T), what channel attention in front of the gate squeezed it to; None where there is none.
    """

    activation: Tensor
    trunk: Tensor | None = None

    def detached(self) -> Features:
        """The same, through which no gradient passes."""
        return Features(self.activation.detach(), None if self.trunk is None else self.trunk.detach())


class Cost(NamedTuple):
    """Cost of one image: multiply-adds of convolutions and matrix products, and inputs of average pools."""

    madds: int
    pooled: int
    shape: Shape


class Unit(nn.Module):
    """The smallest piece of a supernet: runs under a choice, knows its cost, and can be extracted to plain layers.

    of_classes: how the names of its tensors begin that depend on the number of classes.
    """

    of_classes: ClassVar[tuple[str, ...]] = ()

    @property
    def reads(self) -> Tensor:
        """The weight whose dimension 1 is the channels that arrive. Only units that a network may end in have it."""
        raise TypeError(f"no network can end in {type(self).__name__}")

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say how it runs")

    def decide(self, x: Tensor, choice: AnyChoice) -> tuple[Tensor, Features]:
        """As `forward`, with what a gate behind this unit sees. Only units that a segment may end in have it."""
        raise TypeError(f"no gate can stand behind {type(self).__name__}")

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        """Cost of this unit alone for an activation of `shape` = (C, H, W), and the shape that it returns."""
        raise TypeError(f"{type(self).__name__} does not say what it costs")

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        """Plain layers with copies of the sliced weights; with `decides` the module returns (x, Features)."""
        raise TypeError(f"{type(self).__name__} cannot be extracted")


class Segment(nn.Module):
    """Units that run without a decision between them; all but a supernet's last segment end in front of a gate."""

    def __init__(self, units: Iterable[Unit], decides: bool) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self.decides = decides

    def forward(self, x: Tensor, choice: AnyChoice) -> tuple[Tensor, Features | None]:
        """Run under a choice that covers at least the stages decided so far: (x, features), or (output, None)."""
        units = list(self.units)
        for unit in units[:-1]:
            x = unit(x, choice)
        if self.decides:
            return units[-1].decide(x, choice)  # type: ignore[operator]
        return units[-1](x, choice), None

    def through(self, x: Tensor, choice: AnyChoice) -> Tensor:
        """As `forward`, without what a gate would see: nothing is computed that a static network does not need."""
        for unit in self.units:
            x = unit(x, choice)
        return x

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        madds = pooled = 0
        for unit in self.units._modules.values():
            unit_madds, unit_pooled, shape = unit.cost(choice, shape)  # type: ignore[union-attr]
            madds, pooled = madds + unit_madds, pooled + unit_pooled
        return Cost(madds, pooled, shape)

    def extract(self, choice: OneChoice, decides: bool) -> nn.Sequential:
        """Plain layers; with `decides` the last one returns (x, Features)."""
        units: list[Unit] = list(self.units)  # type: ignore[arg-type]
        plain = [unit.extract(choice) for unit in units[:-1]]
        return nn.Sequential(*plain, units[-1].extract(choice, decides))


class Supernet(nn.Module):
    """Shared weights that hold every sub-network of a choice space.

    `supernet(x, choice)`: (B, C, H, W) to (B, classes), or what else its task predicts. The choice is an argument of
    the call and leaves no trace.
    """

    def __init__(
        self, space: ChoiceSpace, segments: Iterable[Segment], input_channels: int, gate_hidden: int = 0
    ) -> None:
        """`gate_hidden`: width of the layer that each gate has of its own; 0 where it shares attention's trunk."""
        super().__init__()
        self.space = space
        self.segments = nn.ModuleList(segments)
        self.input_channels = input_channels
        self.gate_hidden = gate_hidden

    @property
    def units(self) -> list[Unit]:
        """All units, in network order."""
        return [unit for segment in self.segments for unit in segment.units]  # type: ignore[union-attr, misc]

    def forward(self, x: Tensor, choice: AnyChoice, start: int = 0, stop: int | None = None) -> Tensor:
        """Run under a choice; with `start`, x is what arrives at that segment instead of an image, and with `stop` what
        is returned is what arrives at that one."""
        try:
            for segment in list(self.segments)[start:stop]:
                x = segment.through(x, choice)  # type: ignore[operator]
        except (IndexError, KeyError):
            if isinstance(choice, Choice):
                self.space.check(choice)  # says what is wrong with the choice, if that is the reason
            raise
        return x

    def costs(self, choices: Iterable[Choice], image_size: int) -> list[Cost]:
        """Cost of one image under each choice; a prefix that choices share is walked once."""
        priced: dict[tuple[int, str], Cost] = {}
        return [self._cost(self.space.check(choice), image_size, priced) for choice in choices]

    def cost(self, choice: Choice, image_size: int) -> Cost:
        return self.costs([choice], image_size)[0]

    def segment_costs(self, choice: Choice, image_size: int) -> list[Cost]:
        """Cost of each segment in turn: what an image has paid when it arrives at each gate."""
        shape: Shape = (self.input_channels, image_size, image_size)
        costs = []
        for segment in self.segments:
            costs.append(segment.cost(choice, shape))  # type: ignore[operator]
            shape = costs[-1].shape
        return costs

    def _cost(self, choice: Choice, image_size: int, priced: dict[tuple[int, str], Cost]) -> Cost:
        shape: Shape = (self.input_channels, image_size, image_size)
        madds = pooled = 0
        for index, segment in enumerate(self.segments):
            slot = index, choice.key(self.space.depth_after(index))
            if slot not in priced:
                priced[slot] = segment.cost(choice, shape)  # type: ignore[operator]
            cost = priced[slot]
            madds, pooled, shape = madds + cost.madds, pooled + cost.pooled, cost.shape
        return Cost(madds, pooled, shape)


class View(nn.Module):
    """A supernet bound to one choice: the sub-network run by slicing at run time (form `view`).

    Args:
        start, stop: of the segments to run, where that is not all of them.
    """

    def __init__(self, supernet: Supernet, choice: Choice, start: int = 0, stop: int | None = None) -> None:
        super().__init__()
        self.supernet = supernet
        self.choice = supernet.space.check(choice)
        self.start, self.stop = start, stop

    def forward(self, x: Tensor) -> Tensor:
        return self.supernet(x, self.choice, self.start, self.stop)


M = TypeVar("M", bound=nn.Module)


def to_channels_last(module: M) -> M:
    """The same module with 4-D weights stored channels_last, the faster layout for CNNs on CPU and GPU."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
