"""A network as a `torch.export` archive: loaded by torch alone, for any batch size."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

SPEC = "slicebench.json"  # among the archive's extra files


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of the exporters, which speak of their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def traced(network: nn.Module, example: Tensor | list[Tensor]) -> ExportedProgram:
    """The graph of a network for any batch size, or of one that takes a list of tensors, each of any batch size.

    Args:
        example: must hold more than one image, or one is all that the network takes.
    """
    free: Any = {0: Dim("batch", min=1)}
    if isinstance(example, list):
        free = [{0: Dim(f"batch{index}", min=1)} for index in range(len(example))]
    with quiet(), torch.no_grad():
        return without_traces(torch.export.export(network, (example,), dynamic_shapes=(free,)))


def without_traces(program: ExportedProgram) -> ExportedProgram:
    """The same without what the exporter notes of the Python source: it names paths of this machine."""
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)
    return program


def write(path: Path, network: nn.Module, example: Tensor, outputs: tuple[str, ...], about: Mapping[str, Any]) -> None:
    save(path, traced(network, example), about)


def save(path: Path, program: ExportedProgram, about: Mapping[str, Any]) -> None:
    with quiet(), open(path, "wb") as file:
        torch.export.save(program, file, extra_files={SPEC: json.dumps(about, sort_keys=True)})


def load(path: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The network as a function from an input to the tuple of its outputs."""
    with quiet():
        network = torch.export.load(path).module()

    def run(x: Tensor) -> tuple[Tensor, ...]:
        found = network(x)
        return found if isinstance(found, tuple) else (found,)

    return run
