"""A dynamic network as parts with decisions between them: what a file that routes inside itself is written from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.slicing.choice import Choice
from bench.slicing.dynamic import by_segment
from bench.slicing.extract import extract_segment
from bench.slicing.gate import decide
from bench.slicing.supernet import Supernet


class Part(NamedTuple):
    """What some images of a batch run together, and where each of them goes on. Parts are listed in running order.

    Attributes:
        network: plain layers, from what arrives (b, ...) to the tensors that `gives` names: "output" (b, ...),
            "activation" (b, ...), and "decision", int64 (b,), which indexes `following`.
        following: the name of the part that runs next after each decision; None where images leave with the output.
            One entry where nothing is decided.
        column, values: the column of the route that the decision fills in, and what it writes there for each decision.
            A later part may write over it.
    """

    name: str
    network: nn.Module
    gives: tuple[str, ...]
    following: tuple[str | None, ...]
    column: int | None = None
    values: tuple[int, ...] = ()


class Decides(nn.Module):
    """Plain layers that end in front of a gate, with the gate: x to the activation and the decision (b,)."""

    def __init__(self, layers: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.layers, self.gate = layers, gate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        activation, features = self.layers(x)
        return activation, decide(self.gate(features))


class _Arrival(NamedTuple):
    name: str
    choice: Choice
    shape: tuple[int, int, int]  # of what arrives, for one image


@torch.no_grad()
def gated_parts(
    supernet: Supernet, gates: nn.ModuleList, routing: tuple[tuple[int, ...], ...], image_size: int
) -> list[Part]:
    """Every segment that an image can meet, with the gate behind it, as plain layers whose batch norm is not folded.

    Paths that make no difference to what follows meet in one part, as in grouped inference. A part's name ends in the
    first route that leads to it.
    """
    space, parts = supernet.space, []
    level = [_Arrival("front", Choice(space.fixed), (supernet.input_channels, image_size, image_size))]
    for gate, options in enumerate(routing):
        segment, arrivals = supernet.segments[gate], {}
        for name, choice, shape in level:
            shape, following = segment.cost(choice, shape).shape, []  # type: ignore[operator]
            for option in options:
                continued = choice.then(space.decisions[gate].options[option])
                key = by_segment(space, gate, continued, shape[0])
                path = f"option{option}" if gate == 0 else f"{name}_{option}"
                following.append(arrivals.setdefault(key, _Arrival(path, continued, shape)).name)
            layers = extract_segment(segment, choice, True)  # type: ignore[arg-type]
            network = Decides(layers, gates[gate])
            parts.append(Part(name, network, ("activation", "decision"), tuple(following), gate, options))
        level = list(arrivals.values())
    last = supernet.segments[len(routing)]
    ends = [Part(name, extract_segment(last, choice, False), ("output",), (None,)) for name, choice, _ in level]  # type: ignore[arg-type]
    return [*parts, *ends]
