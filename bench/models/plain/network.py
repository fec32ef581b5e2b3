"""A plain network, anyone's, as a supernet with one sub-network: itself.

So whatever trains, starts, profiles or exports a network meets it like any other, and what needs slices refuses it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from bench.core.errors import UserError
from bench.slicing.choice import AnyChoice, Choice, ChoiceSpace, OneChoice
from bench.slicing.supernet import Segment, Supernet, Unit


class Network(Protocol):
    """Whatever makes a plain network: a model of timm, or a function of a user's.

    head: how the names of its classifier's tensors begin. stages: names of its submodules, in running order, behind
    which it may be cut.
    """

    def make(self, classes: int, channels: int) -> tuple[nn.Module, Sequence[str], Sequence[str]]:
        """A network for a number of classes and of image channels, its head and its stages."""
        ...


class Whole(Unit):
    """A plain network as the only unit of a supernet: nothing of it is sliced."""

    def __init__(self, network: nn.Module, head: Sequence[str], stages: Sequence[str]) -> None:
        super().__init__()
        self.network, self.head, self.stages = network, tuple(head), tuple(stages)

    @property
    def of_classes(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"network.{name}." for name in self.head)

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        return self.network(x)

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        return copy.deepcopy(self.network)


def build(config: Network, classes: int, channels: int) -> Supernet:
    """The supernet of a plain network. Raises `UserError` where the network's head or a stage is not there."""
    network, head, stages = config.make(classes, channels)
    names = {name for name, _ in network.named_modules()}
    for name in (*head, *stages):
        if name not in names:
            raise UserError(f"this network has no submodule {name!r}")
    only = Choice(())
    space = ChoiceSpace((), (), (), (only,), prefix_statistics=False)
    return Supernet(space, [Segment([Whole(network, head, stages)], decides=False)], channels)


def whole_of(net: Supernet) -> Whole | None:
    """The plain network that a supernet consists of; None where it is one with sub-networks."""
    first = net.units[0]
    return first if isinstance(first, Whole) else None
