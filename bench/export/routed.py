"""A routed network as one file a segment: a prefix with its gate, then every segment that a gate may lead to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.files import write_json
from bench.export import runner
from bench.export.pt2_file import quiet
from bench.points import Prediction, RoutedPoint
from bench.slicing.choice import Choice
from bench.slicing.dynamic import by_segment
from bench.slicing.extract import extract_segment, folded

MANIFEST, RUNNER = "routed.json", "run_routed.py"
Writer = Callable[[Path, nn.Module, Tensor, tuple[str, ...], Mapping[str, Any]], None]
Tell = Callable[[str, int, int], None]


class Gated(nn.Module):
    """Plain layers that end in a decision, with the gate: x to the activation and its logits (B, K)."""

    def __init__(self, layers: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.layers, self.gate = layers, gate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, features = self.layers(x)
        return x, self.gate(features)


@dataclass
class Node:
    """One file: segment `index` of the supernet under the stages decided so far.

    Attributes:
        example: what arrives, (2, ...).
        following: the names of the nodes that each output of its gate leads to.
    """

    name: str
    index: int
    choice: Choice
    example: Tensor
    following: list[str] = field(default_factory=list)


@torch.no_grad()
def nodes_of(point: RoutedPoint, images: Tensor) -> list[Node]:
    """Every segment that an image can meet. Paths that make no difference to what follows meet in one node, as in
    grouped inference. A name holds the first route that leads there. `images`: (2, C, H, W)."""
    space, level = point.supernet.space, [Node("prefix", 0, Choice(point.supernet.space.fixed), images)]
    nodes, routes = list(level), {"prefix": ""}
    for gate, options in enumerate(point.routing):
        arrived: dict[str, Node] = {}
        for node in level:
            x, _ = point.supernet.segments[gate](node.example, node.choice)
            for option in options:
                choice = node.choice.then(space.decisions[gate].options[option])
                key = by_segment(space, gate, choice, x.shape[1])
                if key not in arrived:
                    route = f"{routes[node.name]}-{option}".lstrip("-")
                    name = f"{'tail' if gate + 1 == len(point.routing) else 'segment'}_{route}"
                    arrived[key], routes[name] = Node(name, gate + 1, choice, x), route
                node.following.append(arrived[key].name)
        level = list(arrived.values())
        nodes += level
    return nodes


def plain_segment(point: RoutedPoint, node: Node) -> tuple[nn.Module, tuple[str, ...]]:
    """A node as plain layers, batch norm folded, and the names of its outputs."""
    segment: Any = point.supernet.segments[node.index]
    layers = folded(extract_segment(segment, node.choice, segment.decides))
    layers = layers.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if not segment.decides:
        return layers, ("output",)
    return Gated(layers, point.gates[node.index]).eval(), ("activation", "logits")


def write_routed(
    folder: Path, form: str, write: Writer, point: RoutedPoint, images: Tensor, about: Mapping[str, Any], tell: Tell
) -> None:
    """Fill an empty folder: the segments, their table, and the runner. `images`: (2, C, H, W), to trace with."""
    nodes = nodes_of(point, images)
    table = {}
    for done, node in enumerate(nodes):
        tell(f"exporting {node.name}", done, len(nodes))
        network, outputs = plain_segment(point, node)
        file = f"{node.name}.{form}"
        write(folder / file, network, node.example.contiguous(), outputs, {**about, "segment": node.name})
        table[node.name] = {"file": file, "outputs": outputs, "choice": str(node.choice), "next": node.following}
    manifest = {**about, "format": form, "options": point.routing, "segments": table}
    write_json(folder / MANIFEST, manifest)
    (folder / RUNNER).write_text(Path(runner.__file__).read_text(encoding="utf-8"), encoding="utf-8")


def load_routed(folder: Path) -> Callable[[Tensor], Prediction]:
    """The exported network, run by its own runner."""
    with quiet():
        routed = runner.Routed(folder)

    def run(x: Tensor) -> Prediction:
        output, route = routed(x.contiguous().numpy())
        return Prediction(torch.from_numpy(output), torch.from_numpy(route))

    return run
