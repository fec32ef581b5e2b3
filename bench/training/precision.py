"""In which numbers a network is trained: float32, or bfloat16 by autocast.

Under autocast convolutions and matrix products round their inputs to bfloat16; weights, their gradients and averages,
the optimizer, batch-norm statistics and losses stay float32. Evaluation, calibration and profiling are float32 always.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from bench.core.errors import UserError


def check_precision(precision: str, device: torch.device | str) -> None:
    """Raise `UserError` for bfloat16 on a device that has no instructions for it, where it would be slower."""
    if precision == "float32":
        return
    if torch.device(device).type == "cuda":
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError("train.precision=bfloat16 needs a GPU that computes in it, and this one does not")
    elif not {"avx512_bf16", "amx_bf16"} & {name for name, there in torch.cpu.get_capabilities().items() if there}:
        raise UserError(
            "train.precision=bfloat16 needs a processor with AVX-512 BF16 or AMX instructions, and this one has "
            "neither, so it would be several times slower than float32"
        )


def precision_of(precision: str, device: torch.device) -> dict[str, Any]:
    """What `train.json` says of the numbers that a run was trained in; nothing where that is float32 on a CPU. On CUDA
    float32 need not be what it says: torch has TF32 for convolutions, unless it is told otherwise."""
    if device.type == "cuda":
        backends = {"matmul": torch.backends.cuda.matmul, "conv": torch.backends.cudnn.conv}  # pyright: ignore
        tf32 = {name: backend.fp32_precision == "tf32" for name, backend in backends.items()}
        return {"precision": precision, "tf32": tf32}
    return {} if precision == "float32" else {"precision": precision}


def computing_in(precision: str, device: torch.device | str) -> AbstractContextManager[object]:
    """What forward passes are run in. Nothing rounded is kept for a second use: a weight that was rounded for a forward
    pass without gradients would otherwise be without gradients in the next one."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def back_propagate(output: Tensor, gradient: Tensor | None = None) -> None:
    """`output.backward(gradient)` outside of autocast, which is for forward passes alone."""
    with torch.autocast(output.device.type, enabled=False):
        output.backward(gradient)
