"""Networks of others with weights that a formula draws, and the logits that their authors' code gives on them.

A fixture in tests/golden holds names, shapes, a checksum of each drawn tensor, and logits of the official code in
float64: facts only, neither code nor trained weights.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"
STATISTICS = {"running_mean": "mean", "running_var": "var"}


def fixture(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def draw(name: str, shape: list[int], factor: float = 1.0) -> np.ndarray:
    """The values of a tensor, float32, seeded by its name."""
    generator, last = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))), name.rsplit(".", 1)[-1]
    is_token = last in ("cls_token", "dist_token", "pos_embed")
    scale = 0.1 if last == "running_mean" else 0.5 if is_token else np.sqrt(2 / np.prod(shape[1:]))
    if len(shape) > 1 or last == "running_mean":
        value = scale * generator.standard_normal(shape)
    else:
        low = {"running_var": 0.5, "weight": 0.8, "bias": -0.2}.get(last, 0.3)
        value = low + (1.0 if last == "running_var" else 0.4) * generator.random(shape)
    return (factor * value).astype(np.float32)


def state_of(golden: dict) -> dict[str, Tensor]:
    """All tensors of the official state dict but its counters of batches, each checked by its checksum."""
    state = {}
    for name, shape, dtype, checksum, *factor in golden["tensors"]:
        if dtype == "float32":
            value = draw(name, shape, *factor)
            assert zlib.crc32(value.tobytes()) == checksum, name
            state[name] = torch.from_numpy(value)
    return state


def images() -> Tensor:
    values = np.random.Generator(np.random.PCG64(zlib.crc32(b"input"))).standard_normal((2, 3, 224, 224))
    return torch.from_numpy(values.astype(np.float32))
