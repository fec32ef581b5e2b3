"""A network as ONNX: one file with its weights inside, for any batch size. Needs the extra `onnx`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.export.pt2_file import quiet, traced

EXTRA = ("onnx", "onnxscript", "onnxruntime")
INPUT = "input"
SPEC = "slicebench"  # key of the model's metadata


def check_extra() -> None:
    """Raise `UserError` where one of the packages of the extra is missing."""
    for package in EXTRA:
        try:
            with quiet():
                importlib.import_module(package)
        except ImportError as error:
            raise UserError(f"ONNX needs {package}; install it with pip install 'slicebench[onnx]'") from error


def write(path: Path, network: nn.Module, example: Tensor, outputs: tuple[str, ...], about: Mapping[str, Any]) -> None:
    check_extra()
    with quiet():
        program: Any = torch.onnx.export(
            traced(network, example), dynamo=True, input_names=[INPUT], output_names=list(outputs), verbose=False
        )
    model = program.model_proto
    _forget_traces(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = SPEC, json.dumps(about, sort_keys=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _forget_traces(model: Any) -> None:
    """Drop what the exporter notes of the Python source behind each node: it names paths of this machine."""
    for part in (model.graph, *model.functions):
        for node in (*part.node, *part.value_info, part):
            del node.metadata_props[:]
            node.doc_string = ""


def load(path: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The network in onnxruntime, as a function from an input to the tuple of its outputs."""
    check_extra()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array) for array in session.run(None, {INPUT: x.contiguous().numpy()}))

    return run
