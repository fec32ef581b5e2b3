"""A second engine for the same ONNX files: OpenVINO on the CPU, in float32. Needs the extra `openvino`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.export.pt2_file import quiet


def check_extra() -> None:
    """Raise `UserError` where the package of the extra is missing."""
    try:
        with quiet():
            importlib.import_module("openvino")
    except ImportError as error:
        raise UserError("OpenVINO needs openvino; install it with pip install 'slicebench[openvino]'") from error


def load(path: Path, threads: int = 0) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The network in OpenVINO, as a function from an input to the tuple of its outputs.

    `threads`: of one call; 0 for OpenVINO's default. It is compiled for latency (one request at a time), and computes
    in float32 where it would take a shorter type by itself.

    Raises:
        UserError: the engine does not take the file; the sentence names the operator where the engine does.
    """
    check_extra()
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        network = openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise UserError(f"OpenVINO cannot run {path.name}: {_reason(error)}") from error

    def run(x: Tensor) -> tuple[Tensor, ...]:
        results = network(x.contiguous().numpy())
        return tuple(torch.from_numpy(results[output]) for output in network.outputs)

    return run


def _reason(error: RuntimeError) -> str:
    """The last line of what the engine says: those above it are places in its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it gives no reason"
