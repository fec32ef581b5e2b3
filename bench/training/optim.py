"""Optimizers and the learning-rate schedule as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bench.core.spec import TrainSpec


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict]:
    """Weights with decay; one-dimensional parameters (biases, norms) without it (METHODS 6)."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def sgd(modules: Iterable[nn.Module], spec: TrainSpec) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, the optimizer of DS-Net and of the slimmable networks."""
    groups = parameter_groups(modules, spec.weight_decay)
    return torch.optim.SGD(groups, spec.lr, spec.momentum, nesterov=spec.momentum > 0, foreach=True)


def learning_rate(step: int, steps: int, warmup: int, peak: float, floor: float) -> float:
    """Linear warm-up from `floor` over the first `warmup` steps, then a cosine from `peak` to `floor`."""
    if step < warmup:
        return floor + (peak - floor) * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmed_decay(decay: float, step: int) -> float:
    """(1 + step) / (10 + step) until that reaches `decay`: an average does not keep its initial weights for long."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def move_average(average: nn.Module, current: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * current over parameters and statistics (METHODS 4.1, item 7)."""
    pairs = list(zip(_floating(average), _floating(current), strict=True))
    means, values = [mean for mean, _ in pairs], [value for _, value in pairs]
    torch._foreach_lerp_(means, values, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]


def _floating(module: nn.Module) -> list[Tensor]:
    tensors = [*module.parameters(), *module.buffers()]
    return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
