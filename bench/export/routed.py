"""A dynamic network as one ONNX file that routes a batch inside itself.

Weights stand once, in the outer graph. Every part but the first is an `If`: where no image arrives nothing runs, else
the images that arrive are gathered, and the branch slices its weights out of the stored ones. ONNX Runtime folds the
slices when it loads the file. Batch size one takes the same way through the graph.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.export import onnx_file
from bench.export.windows import stored_once
from bench.points import OperatingPoint, Prediction
from bench.slicing.parts import Part

ALL = "all"  # what shapes' first, free dimension is called


class Together(nn.Module):
    """All parts as one module, each with an input and a batch size of its own, so that one export serves them all."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = nn.ModuleList([part.network for part in parts])

    def forward(self, arriving: list[Tensor]) -> list[Tensor]:
        results = []
        for part, x in zip(self.parts, arriving, strict=True):
            outputs = part(x)
            results += outputs if isinstance(outputs, tuple) else [outputs]
        return results


@torch.no_grad()
def arriving_at(parts: Sequence[Part], images: Tensor) -> dict[str, Tensor]:
    """What arrives at each part, (2, ...), and under "part:name" what each gives. `images`: (2, C, H, W)."""
    tensors = {parts[0].name: images}
    for part in parts:
        outputs = part.network(tensors[part.name])
        results = dict(zip(part.gives, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))
        tensors |= {f"{part.name}:{name}": tensor for name, tensor in results.items()}
        tensors |= {name: results["activation"] for name in part.following if name is not None}
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


class Graph:
    """Nodes of an ONNX graph under construction, and names for what they return."""

    def __init__(self, prefix: str) -> None:
        self.prefix, self.nodes = prefix, []

    def add(self, operator: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Append a node with one output; returns the output's name."""
        from onnx import helper

        out = out or f"{self.prefix}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [out], **attributes))
        return out

    def joined(self, tensors: Sequence[str]) -> str:
        """Tensors one behind the other along the first dimension."""
        return tensors[0] if len(tensors) == 1 else self.add("Concat", *tensors, axis=0)


class RoutedFile:
    """Puts a file together from parts."""

    def __init__(self, parts: Sequence[Part], images: Tensor) -> None:
        """`images`: (2, C, H, W), to trace with."""
        from onnx import numpy_helper

        self.parts, self.images = parts, images
        self.shapes = arriving_at(parts, images)
        self.outer = Graph("route")
        self.constants: dict[str, np.ndarray] = {}
        examples = [self.shapes[part.name] for part in parts]
        names = [f"{part.name}:{name}" for part in parts for name in part.gives]
        arrivals = [f"{part.name}:arriving" for part in parts]
        traced = onnx_file.model_of(Together(parts).eval(), examples, arrivals, names, fuses=False)
        self.opsets = traced.opset_import
        self.maker = {output: node for node in traced.graph.node for output in node.output}
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in traced.graph.initializer}
        self.windows = stored_once(self.weights)

    def constant(self, name: str, value: Any) -> str:
        """A small tensor of int64, stored once under its name."""
        self.constants.setdefault(name, np.asarray(value, dtype=np.int64))
        return name

    def body(self, part: Part, x: str, graph: Graph) -> None:
        """Append the nodes of a part, with slices of its weights; `x` is what arrives."""
        from onnx import NodeProto

        names = {f"{part.name}:arriving": x} | {f"{part.name}:{name}": f"{part.name}:{name}" for name in part.gives}
        nodes = needed([f"{part.name}:{name}" for name in part.gives], self.maker)
        for name in dict.fromkeys(name for node in nodes for name in node.input if name in self.weights):
            names[name] = self.sliced(name, graph)
        for node in nodes:
            renamed = NodeProto()
            renamed.CopyFrom(node)
            for field in (renamed.input, renamed.output):
                field[:] = [names.setdefault(name, f"{part.name}/v{len(names)}") if name else "" for name in field]
            renamed.name = renamed.output[0]
            graph.nodes.append(renamed)

    def sliced(self, name: str, graph: Graph) -> str:
        """A weight of a part: a stored one, or a slice of it."""
        stored, starts = self.windows[name]
        shape = self.weights[name].shape
        if shape == self.weights[stored].shape:
            return stored
        ends = tuple(start + size for start, size in zip(starts, shape, strict=True))
        return graph.add("Slice", stored, *(self.constant(f"at{'x'.join(map(str, p))}", p) for p in (starts, ends)))

    def branch(self, part: Part, arriving: Sequence[tuple[str, str]]) -> None:
        """Append a part as an `If` on whether images arrive: `arriving` names activations and rows of each."""
        from onnx import helper

        size = self.outer.add("Size", f"{part.name}:rows")
        some = self.outer.add("Greater", size, self.constant("zero", 0))
        runs, skips = Graph(part.name), Graph(f"{part.name}/none")
        x = runs.joined([runs.add("Gather", activation, rows, axis=0) for activation, rows in arriving])
        self.body(part, x, runs)
        names = [f"{part.name}:{name}" for name in part.gives]
        graphs = {"then_branch": self.subgraph(part, runs, names)}
        empty = []
        for name in names:
            value = np.zeros((0, *self.shapes[name].shape[1:]), dtype=self.shapes[name].numpy().dtype)
            shape = self.constant(f"at{'x'.join(map(str, value.shape))}", value.shape)
            kind = helper.make_tensor("none", helper.np_dtype_to_tensor_dtype(value.dtype), [1], [0])
            empty.append(skips.add("ConstantOfShape", shape, value=kind))
        graphs["else_branch"] = self.subgraph(part, skips, names, empty)
        self.outer.nodes.append(helper.make_node("If", [some], names, name=part.name, **graphs))

    def subgraph(self, part: Part, graph: Graph, names: Sequence[str], outputs: Sequence[str] | None = None) -> Any:
        """A branch, whose outputs have the types of what a part gives."""
        from onnx import helper

        values = [self.value(out, name) for out, name in zip(outputs or names, names, strict=True)]
        return helper.make_graph(graph.nodes, graph.prefix, [], values)

    def value(self, name: str, like: str) -> Any:
        """The description of a tensor (any number of images) that is like one of a part's."""
        from onnx import helper

        tensor = self.shapes[like].numpy()
        return helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(tensor.dtype), [ALL, *tensor.shape[1:]]
        )

    def model(self, columns: int, about: Mapping[str, Any]) -> Any:
        """The whole file. `columns`: how many decisions the route of an image holds."""
        from onnx import TensorProto, helper, numpy_helper

        add, first = self.outer.add, self.parts[0]
        count = add("Shape", onnx_file.INPUT, start=0, end=1)  # (1,)
        scalar = add("Squeeze", count)
        add("Range", self.constant("zero", 0), scalar, self.constant("one", 1), out=f"{first.name}:rows")
        route = add("ConstantOfShape", add("Concat", count, self.constant("columns", [columns]), axis=0),
                    value=helper.make_tensor("none", TensorProto.INT64, [1], [0]))  # fmt: skip
        arriving: dict[str | None, list[tuple[str, str, str]]] = {}  # of each part: tensors, rows in them and in all
        for part in self.parts:
            if part is first:
                self.body(part, onnx_file.INPUT, self.outer)
            else:
                self.outer.nodes.append(self.rows_of(part, [whole for _, _, whole in arriving[part.name]]))
                self.branch(part, [(tensor, rows) for tensor, rows, _ in arriving[part.name]])
            if part.column is not None:
                route = self.entered(part, route)
            for place, following in enumerate(part.following):
                source = f"{part.name}:{'output' if following is None else 'activation'}"
                rows, whole = self.going(part, place)
                arriving.setdefault(following, []).append((source, rows, whole))
        self.finish([(source, rows, whole) for source, rows, whole in arriving[None]], count)
        add("Identity", route, out="route")
        weights = {name: self.weights[name] for name in {window.stored for window in self.windows.values()}}
        used = {name for node in self.all_nodes() for name in node.input}
        tensors = {name: value for name, value in {**weights, **self.constants}.items() if name in used}
        graph = helper.make_graph(
            self.outer.nodes,
            "routed",
            [self.value(onnx_file.INPUT, first.name)],
            [
                self.value("output", next(f"{p.name}:output" for p in self.parts if "output" in p.gives)),
                helper.make_tensor_value_info("route", TensorProto.INT64, [ALL, columns]),
            ],
            [numpy_helper.from_array(tensors[name], name) for name in sorted(tensors)],
        )
        model = helper.make_model(graph, opset_imports=self.opsets, ir_version=10)
        helper.set_model_props(model, {onnx_file.SPEC: json.dumps(about, sort_keys=True)})
        return model

    def all_nodes(self) -> list[Any]:
        """The nodes of the outer graph and of its branches."""
        nodes = list(self.outer.nodes)
        for node in self.outer.nodes:
            for attribute in node.attribute:
                nodes += attribute.g.node
        return nodes

    def rows_of(self, part: Part, rows: Sequence[str]) -> Any:
        """Which images of the batch a part runs."""
        from onnx import helper

        attributes: dict[str, Any] = {} if len(rows) == 1 else {"axis": 0}
        operator, name = "Concat" if attributes else "Identity", f"{part.name}:rows"
        return helper.make_node(operator, list(rows), [name], name=name, **attributes)

    def going(self, part: Part, place: int) -> tuple[str, str]:
        """The images of a part that one of its decisions is for: their rows within the part and within the batch."""
        add, rows = self.outer.add, f"{part.name}:rows"
        if len(part.following) == 1:
            return add("Range", self.constant("zero", 0), add("Size", rows), self.constant("one", 1)), rows
        chosen = add("Equal", f"{part.name}:decision", self.constant(f"place{place}", place))
        here = add("Squeeze", add("NonZero", chosen), self.constant("dimension0", [0]))
        return here, add("Gather", rows, here, axis=0)

    def entered(self, part: Part, route: str) -> str:
        """The route, (B, G), with what a part decided."""
        add = self.outer.add
        values = add("Gather", self.constant(f"{part.name}:values", part.values), f"{part.name}:decision", axis=0)
        last = self.constant("dimension1", [1])
        rows = add("Unsqueeze", f"{part.name}:rows", last)  # (b, 1)
        column = add("Expand", self.constant(f"column{part.column}", [[part.column]]), add("Shape", rows))
        return add("ScatterND", route, add("Concat", rows, column, axis=1), values)

    def finish(self, leaving: Sequence[tuple[str, str, str]], count: str) -> None:
        """Put outputs back into the rows of their images."""
        from onnx import helper

        graph, like = self.outer, self.shapes[leaving[0][0]].numpy()
        outputs = graph.joined([graph.add("Gather", source, rows, axis=0) for source, rows, _ in leaving])
        places = graph.add(
            "Unsqueeze", graph.joined([whole for *_, whole in leaving]), self.constant("dimension1", [1])
        )
        shape = graph.add("Concat", count, self.constant("output:shape", like.shape[1:]), axis=0)
        kind = helper.make_tensor("none", helper.np_dtype_to_tensor_dtype(like.dtype), [1], [0])
        graph.add("ScatterND", graph.add("ConstantOfShape", shape, value=kind), places, outputs, out="output")


def needed(outputs: Sequence[str], maker: Mapping[str, Any]) -> list[Any]:
    """The nodes that some tensors depend on, in running order. `maker`: the node that returns each tensor."""
    ordered: list[Any] = []
    done: set[str] = set()
    open_names = list(outputs)
    while open_names:
        name = open_names[-1]
        node = maker.get(name)
        waiting = [] if node is None else [i for i in node.input if i in maker and i not in done]
        if name not in done and waiting:
            open_names += waiting
            continue
        open_names.pop()
        if node is not None and name not in done:
            done.update(node.output)
            ordered.append(node)
    return ordered


def claims(point: OperatingPoint) -> dict[str, int]:
    """The multiply-adds that a point claims for one image, by its route ("0-3")."""
    assert point.routing_space is not None
    routes = list(product(*point.routing_space))
    madds = point.madds(torch.tensor(routes)).tolist()
    return {"-".join(map(str, route)): cost for route, cost in zip(routes, madds, strict=True)}


def write_routed(path: Path, point: OperatingPoint, images: Tensor, about: Mapping[str, Any]) -> None:
    """Write a dynamic point to one ONNX file. `images`: (2, C, H, W), to trace with.

    Raises:
        UserError: what decides is no network; a package of the extra `onnx` is missing.
    """
    onnx_file.check_extra()
    parts, madds = point.parts(), claims(point)
    columns = len(point.routing_space)  # type: ignore[arg-type]
    model = RoutedFile(parts, images.contiguous()).model(columns, {**about, "madds": madds})
    path.write_bytes(model.SerializeToString(deterministic=True))


def load_routed(path: Path, threads: int = 0) -> Callable[[Tensor], Prediction]:
    """The file in onnxruntime; `threads` as in `onnx_file.load`."""
    run = onnx_file.load(path, threads)
    return lambda x: Prediction(*run(x))
