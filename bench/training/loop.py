"""The training loop: every step is a function of (weights, seed, step), so a killed run resumes to the same weights."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.spec import TrainSpec
from bench.data.dataset import Batch
from bench.training import checkpoint
from bench.training.optim import learning_rate, sgd
from bench.training.run import Run

StepFunction = Callable[[Batch, int], dict[str, float]]
"""(batch, step) to named losses; it back-propagates, and the loop takes the optimizer's step."""


def stable_seed(*parts: object) -> int:
    """A seed from any values, equal in every process and version."""
    digest = hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).digest()
    return int.from_bytes(digest[:8], "little") % (1 << 63)


@dataclass(frozen=True)
class Plan:
    """One training: what is called `name`, by which steps, for how long.

    Attributes:
        trained: modules that the optimizer changes. `kept` are saved beside them (an EMA network).
        spec: how long and how fast; None for as the run's spec says.
        after_step: called when the optimizer has stepped.
    """

    name: str
    trained: Mapping[str, nn.Module]
    step: StepFunction
    spec: TrainSpec | None = None
    kept: Mapping[str, nn.Module] = field(default_factory=dict)
    views: int = 1
    after_step: Callable[[int], None] | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {**self.trained, **self.kept}


def fit(plan: Plan, run: Run) -> dict[str, Any]:
    """Train on the run's training split, or load what was trained before; return the history: steps, images, losses.

    Raises:
        UserError: the split is smaller than a batch, the loss is no longer finite, or a checkpoint is damaged.
    """

    def trained() -> tuple[dict[str, Tensor], dict[str, Any]]:
        history = _train(plan, plan.spec or run.spec.train, run)
        tensors = checkpoint.gather(plan.modules)
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise UserError(f"training {plan.name} diverged in its last steps; lower train.lr")
        return tensors, history

    tensors, history = run.once(plan.name, trained)
    checkpoint.scatter(tensors, plan.modules)
    run.checkpoint(f"{plan.name}.partial").unlink(missing_ok=True)  # also what a kill between these lines left
    return history


def total_steps(spec: TrainSpec, per_epoch: int) -> int:
    """Optimizer steps of a training."""
    steps = per_epoch * spec.epochs
    return steps if spec.max_steps is None else min(steps, spec.max_steps)


def _train(plan: Plan, spec: TrainSpec, run: Run) -> dict[str, Any]:
    per_epoch, seed = run.data.train.steps(spec.batch_size), run.spec.seed
    steps = total_steps(spec, per_epoch)
    warmup = round(spec.warmup_epochs * per_epoch)
    optimizer = sgd(plan.trained.values(), spec)
    partial = run.checkpoint(f"{plan.name}.partial")
    step, losses = _resume(plan, optimizer, partial, run.run_id)
    saved_at = time.monotonic()
    for batch in itertools.islice(_batches(plan.views, spec, step, per_epoch, run), steps - step):
        rate = learning_rate(step, steps, warmup, spec.lr, spec.min_lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(stable_seed(seed, plan.name, step))  # dropout and noise of this step
        optimizer.zero_grad(set_to_none=True)
        losses = plan.step(batch, step)
        if not all(math.isfinite(value) for value in losses.values()):
            raise UserError(f"training {plan.name} diverged at step {step} ({losses}); lower train.lr")
        optimizer.step()
        if plan.after_step is not None:
            plan.after_step(step)
        step += 1
        run.progress(plan.name, step, steps)
        if time.monotonic() - saved_at > run.checkpoint_s:
            tensors = {**checkpoint.gather(plan.modules), **checkpoint.optimizer_tensors(optimizer)}
            checkpoint.save(partial, tensors, run.run_id, {"step": step, "losses": losses})
            saved_at = time.monotonic()
    return {"steps": step, "images": step * spec.batch_size, "losses": losses}


def _resume(plan: Plan, optimizer: torch.optim.Optimizer, partial: Path, run_id: str) -> tuple[int, dict[str, float]]:
    """The step to go on from and the losses of the one before it."""
    if not partial.exists():
        return 0, {}
    tensors, notes = checkpoint.load(partial, run_id)
    checkpoint.scatter(tensors, plan.modules)
    checkpoint.load_optimizer(optimizer, tensors)
    return notes["step"], notes["losses"]


def _batches(views: int, spec: TrainSpec, start: int, per_epoch: int, run: Run) -> Iterator[Batch]:
    """Batches from step `start` on; each depends on (seed, epoch, step) alone."""
    for epoch in range(start // per_epoch, spec.epochs):
        first = start - epoch * per_epoch if epoch == start // per_epoch else 0
        yield from run.data.train.train_batches(
            spec.batch_size, seed=run.spec.seed, epoch=epoch, start=first, views=views, device=run.device
        )


Loss = Callable[[Batch, int], Tensor | tuple[Tensor, dict[str, Tensor]]]
"""(batch, step) to the loss, or to the loss and the named parts of it that the history tells."""


def train_network(
    name: str, network: nn.Module, run: Run, loss: Loss | None = None, spec: TrainSpec | None = None
) -> dict[str, Any]:
    """Train a network in place as the checkpoint `name`, where it has the role `network`; return its history.

    Args:
        loss: what a step descends; None for the task's loss of the network's output, which is what every static
            baseline does.
        spec: how long and how fast; None for as the run's spec says.

    Raises:
        UserError: as `fit` does.
    """

    def step(batch: Batch, index: int) -> dict[str, float]:
        total = run.loss(network(batch.x), batch) if loss is None else loss(batch, index)
        total, parts = total if isinstance(total, tuple) else (total, {"loss": total})
        total.backward()
        return {key: part.item() for key, part in parts.items()}

    network.train()
    history = fit(Plan(name, {"network": network}, step, spec), run)
    network.eval()
    return history
