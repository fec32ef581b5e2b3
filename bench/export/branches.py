"""A dynamic network as one `torch.export` archive that decides inside itself, one image at a time.

Every decision is a `torch.cond` whose branches are what runs next; the weights of all parts stand once, and each branch
slices its own out of the stored ones. `torch.cond` takes the same branch for a whole batch, so the archive holds batch
size one; `bench/export/routed.py` is the form for batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from bench.core.errors import UserError
from bench.export.pt2_file import load, quiet, save, without_traces
from bench.export.windows import stored_once
from bench.points import OperatingPoint, Prediction
from bench.slicing.parts import Part

ROUTES = 32
"""A branch holds all that follows it, so the graph grows with the routes, however much they have in common."""
State = tuple[Tensor, Tensor, Tensor]
"""Of one image: what goes on (1, ...), its output (1, ...) as far as there is one, and its route (1, G)."""


class Branches(nn.Module):
    """(1, C, H, W) to the output (1, ...) and the route (1, G), int64.

    Args:
        parts: of a dynamic point, in running order.
        programs: the graph of each, for one image: a function of its weights and of what arrives.
        columns: G, the decisions that a route holds.
        output: (1, ...), what an output looks like.
    """

    empty: Tensor

    def __init__(
        self, parts: Sequence[Part], programs: Sequence[ExportedProgram], columns: int, output: Tensor
    ) -> None:
        super().__init__()
        self.parts, self.first, self.columns = {part.name: part for part in parts}, parts[0].name, columns
        self.graphs = {part.name: program.graph_module for part, program in zip(parts, programs, strict=True)}
        self.names = {part.name: weights_of(program) for part, program in zip(parts, programs, strict=True)}
        tensors = {f"{part}/{name}": tensor for part, weights in self.names.items() for name, tensor in weights.items()}
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.windows = stored_once({name: tensor.numpy() for name, tensor in tensors.items()})
        kept = sorted({window.stored for window in self.windows.values()})
        self.places = {name: f"stored{number}" for number, name in enumerate(kept)}
        for name, place in self.places.items():
            self.register_buffer(place, tensors[name].clone(memory_format=torch.contiguous_format))
        self.register_buffer("empty", torch.zeros_like(output))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, output, route = self.run(self.first, (x, self.empty, torch.zeros(1, self.columns, dtype=torch.int64)))
        return output, route

    def run(self, name: str, state: State) -> State:
        """The part `name` and all that follows it."""
        part, (x, output, route) = self.parts[name], state
        weights = [self.sliced(f"{name}/{weight}") for weight in self.names[name]]
        tensors = dict(zip(part.gives, self.graphs[name](*weights, x), strict=True))
        arriving = tensors.get("activation", x), tensors.get("output", output), route
        return self.after(part, 0, arriving, tensors.get("decision"))

    def after(self, part: Part, place: int, state: State, decision: Tensor | None) -> State:
        """What follows a part where its decision is `place` or a later one."""
        if decision is None or place == len(part.following) - 1:
            return self.going(part, place, state)
        here = lambda *state: self.going(part, place, state[:3])  # type: ignore[arg-type]
        later = lambda *state: self.after(part, place + 1, state[:3], state[3])  # type: ignore[arg-type]
        return torch.cond((decision == place).all(), here, later, (*state, decision))

    def going(self, part: Part, place: int, state: State) -> State:
        """What follows a part whose decision is `place`."""
        x, output, route = state
        if part.column is not None:
            entered = torch.full((1, 1), part.values[place], dtype=torch.int64)
            route = torch.cat((route[:, : part.column], entered, route[:, part.column + 1 :]), dim=1)
        following = part.following[place]
        if following is not None:
            return self.run(following, (x, output, route))
        return self.empty.clone(), output.clone(), route.clone()  # a branch may not return what it was given

    def sliced(self, name: str) -> Tensor:
        """A weight of a part: a stored one, or a slice of it."""
        stored, starts = self.windows[name]
        tensor = getattr(self, self.places[stored])
        for dimension, (start, size) in enumerate(zip(starts, self.shapes[name], strict=True)):
            if size < tensor.shape[dimension]:
                tensor = tensor.narrow(dimension, start, size)
        return tensor


def weights_of(program: ExportedProgram) -> dict[str, Tensor]:
    """What a graph takes in front of its input, in that order, by name."""
    tensors = {**program.state_dict, **program.constants}
    names = [spec.target for spec in program.graph_signature.input_specs if spec.target is not None]
    return {name: tensors[name].detach() for name in names}


@torch.no_grad()
def branches(parts: Sequence[Part], columns: int, image: Tensor) -> Branches:
    """The module of a dynamic point's parts. `image`: (1, C, H, W), to trace with."""
    programs, arriving, output = [], {parts[0].name: image}, None
    for part in parts:
        programs.append(torch.export.export(part.network, (arriving[part.name],)))
        outputs = part.network(arriving[part.name])
        tensors = dict(zip(part.gives, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))
        arriving |= {name: tensors["activation"] for name in part.following if name is not None}
        output = tensors.get("output", output)
    assert output is not None
    return Branches(parts, programs, columns, output).eval()


def write_branches(path: Path, point: OperatingPoint, image: Tensor, about: Mapping[str, Any]) -> None:
    """Write a dynamic point to one archive for batch size one. `image`: (1, C, H, W), to trace with.

    Raises:
        UserError: what decides is no network, or there are more routes than `ROUTES`.
    """
    space = point.routing_space or ()
    routes = prod(map(len, space))
    if routes > ROUTES:
        raise UserError(
            f"{point.name} has {routes} routes, and a pt2 archive repeats what follows each option, so it holds at "
            f"most {ROUTES}; export it as onnx"
        )
    with quiet(), torch.no_grad():
        module = branches(point.parts(), len(space), image)
        save(path, without_traces(torch.export.export(module, (image.clone(),))), about)


def load_branches(path: Path) -> Callable[[Tensor], Prediction]:
    """The archive as a function of a batch, whose images run one after the other."""
    run = load(path)
    return lambda x: Prediction(
        *(torch.cat(column) for column in zip(*(run(image) for image in x.split(1)), strict=True))
    )
