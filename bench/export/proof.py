"""What an ONNX file executes: multiply-adds counted from ONNX Runtime's own profile of a run.

The engine reports every node that ran with the shapes that it met, branches included, so what a dynamic file saves is
not taken from our word. Only optimisations that keep ONNX's own operators are on.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from bench.core.errors import UserError
from bench.export.onnx_file import INPUT, check_extra

CHARGED = {"Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
FREE_CONTRACTIONS = {"ConvTranspose", "Einsum", "QLinearConv", "ConvInteger", "MatMulInteger", "Attention"}


def multiply_adds(operator: str, inputs: list[list[int]], output: list[int]) -> int:
    """Multiply-adds of one executed node, from the shapes of its inputs and its output.

    Raises:
        UserError: a node that multiplies matrices in a way that is not counted here.
    """
    if operator in FREE_CONTRACTIONS:
        raise UserError(f"the multiply-adds of the operator {operator} are not counted")
    if operator not in CHARGED:
        return 0
    if "Conv" in operator:
        return prod(output) * prod(inputs[1][1:])  # weight: (O, I / groups, kernel, kernel)
    if "Gemm" in operator:
        return prod(inputs[0]) * output[-1]  # (m, k) or (k, m) by n
    return prod(output) * inputs[0][-1]


def executed(path: Path, x: Tensor) -> dict[str, int]:
    """Multiply-adds that ONNX Runtime executes for a batch (B, C, H, W), by the name of each node that ran.

    Raises:
        UserError: see `multiply_adds`.
    """
    check_extra()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.enable_profiling = True
    with TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        session.run(None, {INPUT: x.contiguous().numpy()})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    madds: dict[str, int] = {}
    for event in events:
        if "output_type_shape" in event.get("args", {}):
            madds[event["name"]] = madds.get(event["name"], 0) + _cost(event["args"])
    return madds


def _cost(node: dict[str, Any]) -> int:
    inputs, outputs = (
        [next(iter(shape.values())) for shape in node[key]] for key in ("input_type_shape", "output_type_shape")
    )
    return multiply_adds(node["op_name"], inputs, outputs[0] if outputs else [])
