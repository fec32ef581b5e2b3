"""A network as ONNX: one file with its weights inside, for any batch size. Needs the extra `onnx`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.export.pt2_file import quiet, traced

Engine = Callable[[Path, int], Callable[[Tensor], tuple[Tensor, ...]]]
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
    model = model_of(network, example, [INPUT], outputs)
    entry = model.metadata_props.add()
    entry.key, entry.value = SPEC, json.dumps(about, sort_keys=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def model_of(
    network: nn.Module,
    example: Tensor | list[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    fuses: bool = True,
) -> Any:
    """The ONNX model of a network, for any batch size.

    Args:
        example: two images, or a list of what arrives at each input, two of each.
        fuses: False leaves batch norm out of the weights of convolutions.
    """
    check_extra()
    import onnxscript.optimizer

    with quiet():
        program: Any = torch.onnx.export(
            traced(network, example),
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
            optimize=fuses,
        )
        if not fuses:
            onnxscript.optimizer.optimize_ir(program.model, input_size_limit=1024, output_size_limit=1024)
    model = program.model_proto
    _forget_traces(model)
    return model


def _forget_traces(model: Any) -> None:
    """Drop what the exporter notes of the Python source behind each node: it names paths of this machine."""
    for part in (model.graph, *model.functions):
        for node in (*part.node, *part.value_info, part):
            del node.metadata_props[:]
            node.doc_string = ""


def load(path: Path, threads: int = 0) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The network in onnxruntime, as a function from an input to the tuple of its outputs.

    `threads`: of one call; 0 for onnxruntime's default, all cores. Threads that have nothing to do sleep, so that a
    session takes no processor time from what runs between its calls.
    """
    check_extra()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array) for array in session.run(None, {INPUT: x.contiguous().numpy()}))

    return run
