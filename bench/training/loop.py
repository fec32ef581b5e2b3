"""The training loop: every step is a function of (weights, seed, step), so a killed run resumes to the same weights."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.spec import TrainSpec
from bench.data.dataset import Batch, Split
from bench.data.group import Group
from bench.profilers.madds import check_counted
from bench.slicing.supernet import View
from bench.training import checkpoint
from bench.training.mixing import mixed, training_split
from bench.training.optim import growing_decay, move_average, optimizer_of, rate_of
from bench.training.precision import back_propagate, check_precision, computing_in
from bench.training.run import Run

CURVE_POINTS = 50
"""About as many steps of a training are kept with their losses, to four digits."""
StepFunction = Callable[[Batch, int], dict[str, float]]
"""(batch, step) to named losses; it back-propagates, and the loop takes the optimizer's step.

Where a batch is forwarded in parts, it is called for each of them with the same step: whatever it draws for the step
(the choices of a sandwich) is then equal for all parts, and so it is on all processes of a group.
"""


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

    The checkpoint's notes hold the history and the curve of the losses (`CURVE_POINTS`).

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
    if run.group.rank == 0:
        run.checkpoint(f"{plan.name}.partial").unlink(missing_ok=True)  # also what a kill between these lines left
    return {key: value for key, value in history.items() if key != "curve"}


def total_steps(spec: TrainSpec, per_epoch: int) -> int:
    """Optimizer steps of a training."""
    steps = per_epoch * spec.epochs
    return steps if spec.max_steps is None else min(steps, spec.max_steps)


def _train(plan: Plan, spec: TrainSpec, run: Run) -> dict[str, Any]:
    check_precision(spec.precision, run.device)
    split = training_split(spec, run.data)
    per_epoch = split.steps(spec.batch_size)
    steps = total_steps(spec, per_epoch)
    optimizer = optimizer_of(plan.trained.values(), spec)
    averages = {} if not spec.ema else {name: _average_of(module) for name, module in plan.trained.items()}
    kept = {**plan.modules, **{f"{name}.average": module for name, module in averages.items()}}
    partial = run.checkpoint(f"{plan.name}.partial")
    step, losses, curve = _resume(kept, optimizer, partial, run)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    statistics = [b for module in plan.trained.values() for b in module.buffers() if b.is_floating_point()]
    saved_at, last = time.monotonic(), steps if run.rehearsal is None else min(steps, run.rehearsal)
    for batch in itertools.islice(_batches(split, plan.views, spec, step, per_epoch, run), last - step):
        for group in optimizer.param_groups:
            group["lr"] = rate_of(spec, step, steps, per_epoch)
        optimizer.zero_grad(set_to_none=True)
        losses = _forward_parts(plan, spec, batch, step, run)
        if run.group.size > 1:
            losses = add_up(run.group, parameters, statistics, losses)
        if not all(math.isfinite(value) for value in losses.values()):
            raise UserError(f"training {plan.name} diverged at step {step} ({losses}); lower train.lr")
        finish_gradients(parameters, spec.accumulate * run.group.size, spec.clip_grad)
        optimizer.step()
        if plan.after_step is not None:
            plan.after_step(step)
        for name, average in averages.items():
            move_average(average, plan.trained[name], growing_decay(spec.ema, step))
        step += 1
        run.progress(plan.name, step, steps)
        if step % max(1, steps // CURVE_POINTS) == 0 or step == steps:
            curve.append([step, {name: float(f"{value:.4g}") for name, value in losses.items()}])
        if run.group.rank == 0 and time.monotonic() - saved_at > run.checkpoint_s:
            tensors, numbers = checkpoint.optimizer_state(optimizer)
            notes = {"step": step, "losses": losses, "curve": curve, "optimizer": numbers}
            checkpoint.save(partial, {**checkpoint.gather(kept), **tensors}, run.run_id, notes)
            saved_at = time.monotonic()
    for name, average in averages.items():
        plan.trained[name].load_state_dict(average.state_dict())
    return {"steps": step, "images": step * spec.batch_size, "losses": losses, "curve": curve}


def _average_of(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).requires_grad_(False)


def _forward_parts(plan: Plan, spec: TrainSpec, batch: Batch, step: int, run: Run) -> dict[str, float]:
    """Back-propagate the parts of this process's share of a batch in turn, whose gradients add up; return the means of
    their losses. What is drawn for a part depends on its place among the parts of all processes."""
    seed, parts = run.spec.seed, []
    for index in range(spec.accumulate):
        place = index * run.group.size + run.group.rank
        key = (step, place) if place else (step,)
        part = batch.part(index, spec.accumulate)
        if spec.mixes:
            part = mixed(part, spec, len(run.data.classes), stable_seed(seed, "mix", plan.name, *key))
        torch.manual_seed(stable_seed(seed, plan.name, *key))  # dropout and noise of this step
        with computing_in(spec.precision, run.device):
            parts.append(plan.step(part, step))
    return parts[0] if len(parts) == 1 else {name: sum(p[name] for p in parts) / len(parts) for name in parts[0]}


@torch.no_grad()
def add_up(
    group: Group, parameters: Sequence[nn.Parameter], statistics: Sequence[Tensor], losses: Mapping[str, float]
) -> dict[str, float]:
    """Make gradients the sums over the processes of a group and running statistics those of rank 0; return the means of
    the losses. It is one reduction of one tensor. A parameter without a gradient in any process stays without."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    numbers = [*(float(p.grad is not None) for p in parameters), *losses.values()]
    of_rank_0 = statistics if group.rank == 0 else [torch.zeros_like(statistic) for statistic in statistics]
    parts = [*gradients, *of_rank_0, parameters[0].new_tensor(numbers)]
    flat = group.add(torch.cat([part.reshape(-1) for part in parts]))
    *sums, numbers = flat.split([part.numel() for part in parts])
    with_gradient = numbers[: len(parameters)].tolist()
    for parameter, gradient, total, count in zip(parameters, gradients, sums, with_gradient, strict=False):
        parameter.grad = gradient.copy_(total.view_as(gradient)) if count else None
    for statistic, total in zip(statistics, sums[len(parameters) :], strict=True):
        statistic.copy_(total.view_as(statistic))
    return dict(zip(losses, (numbers[len(parameters) :] / group.size).tolist(), strict=True))


@torch.no_grad()
def finish_gradients(parameters: Sequence[nn.Parameter], parts: int, limit: float) -> None:
    """Turn the sum of the gradients of a batch's parts into their mean, and limit its norm where `limit` is not 0."""
    if parts > 1:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_div_(gradients, parts)  # pyright: ignore[reportPrivateImportUsage]
    if limit:
        nn.utils.clip_grad_norm_(parameters, limit)


def _resume(
    modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, partial: Path, run: Run
) -> tuple[int, dict[str, float], list[Any]]:
    """The step to go on from, the losses of the one before it, and the curve so far. All processes of a group begin as
    rank 0 does."""
    if not run.group.same(partial.exists):
        if run.group.size > 1:
            checkpoint.scatter(run.group.same(lambda: checkpoint.gather(modules)), modules)
        return 0, {}, []
    tensors, notes = run.group.same(lambda: checkpoint.load(partial, run.run_id))
    checkpoint.scatter(tensors, modules)
    checkpoint.load_optimizer(optimizer, tensors, notes.get("optimizer", {}))
    return notes["step"], notes["losses"], notes["curve"]


def _batches(split: Split, views: int, spec: TrainSpec, start: int, per_epoch: int, run: Run) -> Iterator[Batch]:
    """Batches from step `start` on, or this process's shares of them; each depends on (seed, epoch, step) alone."""
    part: dict[str, Any] = {"part": (run.group.rank, run.group.size)} if run.group.size > 1 else {}
    for epoch in range(start // per_epoch, spec.epochs):
        first = start - epoch * per_epoch if epoch == start // per_epoch else 0
        yield from split.train_batches(
            spec.batch_size, seed=run.spec.seed, epoch=epoch, start=first, views=views, device=run.device, **part
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
        UserError: as `fit` does; before anything trains, for a network with an operator of unknown cost.
    """

    def step(batch: Batch, index: int) -> dict[str, float]:
        total = run.loss(network(batch.x), batch) if loss is None else loss(batch, index)
        total, parts = total if isinstance(total, tuple) else (total, {"loss": total})
        back_propagate(total)
        return {key: part.item() for key, part in parts.items()}

    check_precision((spec or run.spec.train).precision, run.device)
    if loss is None and not isinstance(network, View) and not run.checkpoint(name).exists():  # a view has no graph
        check_counted(network, run.example)
    network.train()
    history = fit(Plan(name, {"network": network}, step, spec), run)
    network.eval()
    return history
