"""The training loop: every step is a function of (weights, seed, step), so a killed run resumes to the same weights."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.core.errors import UserError
from bench.core.spec import TrainSpec
from bench.data.dataset import Batch, Split
from bench.training import checkpoint
from bench.training.context import Context
from bench.training.optim import learning_rate, sgd

StepFunction = Callable[[Batch, int], dict[str, float]]
"""(batch, step) to named losses; it back-propagates, and the loop takes the optimizer's step."""


def stable_seed(*parts: object) -> int:
    """A seed from any values, equal in every process and version."""
    digest = hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).digest()
    return int.from_bytes(digest[:8], "little") % (1 << 63)


@dataclass(frozen=True)
class Plan:
    """One training: what is called `name`, on which data, for how long.

    Attributes:
        trained: modules that the optimizer changes. `kept` are saved beside them (an EMA network).
        after_step: called when the optimizer has stepped.
    """

    name: str
    trained: Mapping[str, nn.Module]
    kept: Mapping[str, nn.Module]
    step: StepFunction
    spec: TrainSpec
    seed: int
    views: int = 1
    after_step: Callable[[int], None] | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {**self.trained, **self.kept}


def fit(plan: Plan, split: Split, context: Context) -> dict[str, Any]:
    """Train, or load what was trained before, and return its history: steps, images, final losses.

    Raises:
        UserError: the split is smaller than a batch, the loss is no longer finite, or a checkpoint is damaged.
    """
    path = context.checkpoint(plan.name)
    if path.exists():
        tensors, history = checkpoint.load(path, context.run_id)
        checkpoint.scatter(tensors, plan.modules)
    else:
        history = _train(plan, split, split.steps(plan.spec.batch_size), context)
        tensors = checkpoint.gather(plan.modules)
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise UserError(f"training {plan.name} diverged in its last steps; lower train.lr")
        checkpoint.save(path, tensors, context.run_id, history)
    _partial(plan, context).unlink(missing_ok=True)  # also what a kill between these two lines left
    return history


def total_steps(spec: TrainSpec, per_epoch: int) -> int:
    """Optimizer steps of a training."""
    steps = per_epoch * spec.epochs
    return steps if spec.max_steps is None else min(steps, spec.max_steps)


def _partial(plan: Plan, context: Context):
    return context.checkpoint(f"{plan.name}.partial")


def _train(plan: Plan, split: Split, per_epoch: int, context: Context) -> dict[str, Any]:
    steps = total_steps(plan.spec, per_epoch)
    warmup = round(plan.spec.warmup_epochs * per_epoch)
    optimizer = sgd(plan.trained.values(), plan.spec)
    step, losses = _resume(plan, optimizer, context)
    saved_at = time.monotonic()
    for batch in itertools.islice(_batches(plan, split, step, per_epoch, context.device), steps - step):
        rate = learning_rate(step, steps, warmup, plan.spec.lr, plan.spec.min_lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(stable_seed(plan.seed, plan.name, step))  # dropout and noise of this step
        optimizer.zero_grad(set_to_none=True)
        losses = plan.step(batch, step)
        if not all(math.isfinite(value) for value in losses.values()):
            raise UserError(f"training {plan.name} diverged at step {step} ({losses}); lower train.lr")
        optimizer.step()
        if plan.after_step is not None:
            plan.after_step(step)
        step += 1
        context.progress(plan.name, step, steps)
        if time.monotonic() - saved_at > context.checkpoint_s:
            tensors = {**checkpoint.gather(plan.modules), **checkpoint.optimizer_tensors(optimizer)}
            checkpoint.save(_partial(plan, context), tensors, context.run_id, {"step": step, "losses": losses})
            saved_at = time.monotonic()
    return {"steps": step, "images": step * plan.spec.batch_size, "losses": losses}


def _resume(plan: Plan, optimizer: torch.optim.Optimizer, context: Context) -> tuple[int, dict[str, float]]:
    path = _partial(plan, context)
    if not path.exists():
        return 0, {}
    tensors, notes = checkpoint.load(path, context.run_id)
    checkpoint.scatter(tensors, plan.modules)
    checkpoint.load_optimizer(optimizer, tensors)
    return notes["step"], notes["losses"]


def _batches(plan: Plan, split: Split, start: int, per_epoch: int, device: torch.device) -> Iterator[Batch]:
    """Batches from step `start` on; each depends on (seed, epoch, step) alone."""
    for epoch in range(start // per_epoch, plan.spec.epochs):
        first = start - epoch * per_epoch if epoch == start // per_epoch else 0
        yield from split.train_batches(
            plan.spec.batch_size, seed=plan.seed, epoch=epoch, start=first, views=plan.views, device=device
        )


def train_classifier(
    name: str, network: nn.Module, split: Split, spec: TrainSpec, seed: int, task, context: Context
) -> dict[str, Any]:
    """Train one plain network on labels alone: what every static baseline does."""

    def step(batch: Batch, index: int) -> dict[str, float]:
        loss = task.loss(network(batch.x), batch.targets, spec.label_smoothing)
        loss.backward()
        return {"loss": loss.item()}

    network.train()
    history = fit(Plan(name, {"network": network}, {}, step, spec, seed), split, context)
    network.eval()
    return history
