"""Optimizers, the learning-rate schedule as a function of the step, and the moving average of weights."""

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


def optimizer_of(modules: Iterable[nn.Module], spec: TrainSpec) -> torch.optim.Optimizer:
    """The optimizer that a spec names: `sgd`, or timm's of that name with its own defaults for what a spec does not
    say. Momentum is that of the spec where an optimizer has one; AdamW's betas are its own."""
    if spec.optimizer == "sgd":
        return sgd(modules, spec)
    from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage] (takes seconds to import)

    groups = parameter_groups(modules, spec.weight_decay)
    return create_optimizer_v2(groups, spec.optimizer, lr=spec.lr, momentum=spec.momentum, filter_bias_and_bn=False)


def rate_of(spec: TrainSpec, step: int, steps: int, per_epoch: int) -> float:
    """The learning rate of a step out of `steps`, of which `per_epoch` are an epoch."""
    warmup = round(spec.warmup_epochs * per_epoch) if spec.warmup_steps is None else spec.warmup_steps
    if spec.schedule == "step":
        every = max(round(spec.decay_epochs * per_epoch), 1)
        return falling_by_steps(step, warmup, spec.lr, spec.min_lr, every, spec.decay_rate)
    return learning_rate(step, steps, warmup, spec.lr, spec.min_lr, linear=spec.schedule == "linear")


def learning_rate(step: int, steps: int, warmup: int, peak: float, floor: float, linear: bool = False) -> float:
    """Linear warm-up from `floor` over the first `warmup` steps, then a cosine, or a line, from `peak` to `floor`."""
    if step < warmup:
        return floor + (peak - floor) * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    if linear:
        return floor + (peak - floor) * (1 - progress)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def falling_by_steps(step: int, warmup: int, peak: float, floor: float, every: int, factor: float) -> float:
    """The same warm-up, then `peak` times `factor` for each `every` steps since the start, never below `floor`."""
    if step < warmup:
        return floor + (peak - floor) * (step + 1) / warmup
    return max(peak * factor ** (step // every), floor)


def growing_decay(decay: float, step: int) -> float:
    """The decay of a moving average at a step (counted from 0): it grows as (1 + step) / (10 + step) until it reaches
    `decay`. Otherwise the average of a run of a few hundred steps is mostly the initial weights."""
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
