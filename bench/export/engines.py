"""The engines that run an exported ONNX file: what this suite times beside PyTorch itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.export import onnx_file, openvino_engine
from bench.export.routed import write_routed
from bench.points import OperatingPoint, StaticPoint
from bench.slicing.extract import folded


class Runtime(NamedTuple):
    """An engine. `check` raises `UserError` where something that it needs is not installed."""

    load: onnx_file.Engine
    check: Callable[[], None]


def check_openvino() -> None:
    """What writes the file is needed too."""
    onnx_file.check_extra()
    openvino_engine.check_extra()


ENGINES = {
    "onnx": Runtime(onnx_file.load, onnx_file.check_extra),
    "openvino": Runtime(openvino_engine.load, check_openvino),
}
"""By the form that they are timed as. "onnx" is ONNX Runtime."""


class InEngine(nn.Module):
    """A point as one ONNX file in an engine: images (B, C, H, W), in plain layout, to the output (B, ...).

    Args:
        images: (2, C, H, W), to trace with. threads: of one call; 0 for the engine's default.

    Raises:
        UserError: the point has no exported form, or the engine does not take the file.
    """

    def __init__(self, point: OperatingPoint, images: Tensor, engine: str, threads: int = 0) -> None:
        super().__init__()
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"{point.name}.onnx"
            if point.kind == "dynamic":
                write_routed(path, point, images, {})
            elif isinstance(point, StaticPoint):
                network = folded(point.network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
                onnx_file.write(path, network, images.contiguous(), ("output",), {})
            else:
                raise UserError(f"{point.name} is of a kind that has no exported form")
            self.run = ENGINES[engine].load(path, threads)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)[0]
