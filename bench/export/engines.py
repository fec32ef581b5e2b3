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
    """An ONNX file run by an engine on the CPU: images (B, C, H, W), in plain layout, to the output (B, ...).

    The file is written once and read back once; the module has no parameters of its own.

    Args:
        write: writes the file. engine: a key of `ENGINES`. threads: of one call; 0 for the engine's default.
    """

    def __init__(self, write: Callable[[Path], None], engine: str = "onnx", threads: int = 0) -> None:
        super().__init__()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            write(path)
            self.run = ENGINES[engine].load(path, threads)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)[0]


def network_in_engine(network: nn.Module, images: Tensor, engine: str = "onnx", threads: int = 0) -> InEngine:
    """A plain network with batch norm folded; `images` (2, C, H, W) are traced. Raises `UserError` as the engine."""
    plain = folded(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return InEngine(lambda path: onnx_file.write(path, plain, images.contiguous(), ("output",), {}), engine, threads)


def point_in_engine(point: OperatingPoint, images: Tensor, engine: str = "onnx", threads: int = 0) -> InEngine:
    """A point as one file, routed inside where it is dynamic; `images` (2, C, H, W) are traced.

    Raises:
        UserError: the point has no exported form, or the engine does not take the file.
    """
    if point.kind == "dynamic":
        return InEngine(lambda path: write_routed(path, point, images, {}), engine, threads)
    if isinstance(point, StaticPoint):
        return network_in_engine(point.network, images, engine, threads)
    raise UserError(f"{point.name} is of a kind that has no exported form")
