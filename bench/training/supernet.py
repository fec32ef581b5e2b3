"""Stage I: train a supernet by the sandwich rule with in-place distillation or in-place bootstrapping.

Li et al. 2021, sec. 3.2 and its released code (METHODS 4.1); Yu & Huang 2019 for the sandwich rule and in-place
distillation. Losses are summed over the choices of a step, each back-propagated on its own to bound memory.

Multi-view consistency (MvCo) is what Li et al. 2022 train DS-ViT++ with. Its formula is not public (METHODS 4.2); ours
is our design: bootstrapping across two augmentations of each image, the teacher's and the students'.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.data.dataset import Batch
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.supernet import Supernet
from bench.tasks.task import Task
from bench.training.loop import Plan, fit, stable_seed
from bench.training.optim import growing_decay, move_average
from bench.training.precision import back_propagate
from bench.training.run import Run

Distillation = Literal["none", "inplace", "bootstrap", "ensemble_bootstrap"]


@dataclass(frozen=True)
class StageOne:
    """How a supernet is trained.

    Attributes:
        distillation: who teaches the sub-networks. "none": the labels; "inplace": the largest network's output of the
            same step; "bootstrap" (IB): the EMA supernet's largest network; "ensemble_bootstrap" (IEB): the same, and
            for the smallest the mean of EMA outputs at the largest and at random choices.
        random_widths: random choices of a step, between the largest and the smallest.
        ema: decay of the EMA supernet, a step; it teaches (IB) and is what gets evaluated.
        ema_warmup: let the decay grow as (1 + step) / (10 + step) until it reaches `ema`. The official code has none:
            over its 400,000 steps it would make no difference, but a run of a few hundred steps would be taught by an
            average that is mostly the initial weights.
        multi_view: the EMA teacher sees another augmentation of the images than the sub-networks do (MvCo).

    Raises:
        UserError: a value that is impossible, or `multi_view` without an EMA teacher.
    """

    distillation: Distillation = "bootstrap"
    random_widths: int = 2
    ema: float = 0.997
    ema_warmup: bool = True
    multi_view: bool = False

    def __post_init__(self) -> None:
        if self.random_widths < 0:
            raise UserError(f"random_widths must be at least 0, not {self.random_widths}")
        if not 0 <= self.ema <= 1:
            raise UserError(f"ema must be at least 0 and at most 1, not {self.ema:g}")
        if self.multi_view and not self.averages:
            raise UserError(
                f"multi_view needs a teacher of its own, and distillation {self.distillation!r} has none; "
                "use bootstrap or ensemble_bootstrap"
            )

    def decay(self, step: int) -> float:
        """EMA decay at a step (counted from 0)."""
        return growing_decay(self.ema, step) if self.ema_warmup else self.ema

    @property
    def averages(self) -> bool:
        return self.distillation in ("bootstrap", "ensemble_bootstrap")

    @property
    def views(self) -> int:
        """Augmentations of each image that a step needs."""
        return 2 if self.multi_view else 1


def sandwich(space: ChoiceSpace, random_widths: int, generator: random.Random) -> list[Choice]:
    """The choices of one step: largest, `random_widths` random ones, smallest (Yu & Huang 2019)."""
    return [space.largest, *(space.sample(generator) for _ in range(random_widths)), space.smallest]


def views_of(batch: Batch, multi_view: bool) -> tuple[Tensor, Tensor]:
    """What the EMA teacher sees of a batch, and what all students see, the largest with its labels included.

    With `multi_view` the teacher has the first view and the students the second, so that on equal views MvCo is
    bootstrapping. One forward of each network as there: MvCo costs the second augmentation and nothing else.
    """
    return batch.views[0], batch.views[1 if multi_view else 0]


@torch.no_grad()
def teacher_targets(teacher: Supernet, x: Tensor, extra: list[Choice], task: Task) -> tuple[Tensor, Tensor]:
    """Targets by the EMA supernet: of its largest network, and the mean over that and the `extra` choices."""
    largest = task.soften(teacher(x, teacher.space.largest))
    if not extra:
        return largest, largest
    outputs = [largest, *(task.soften(teacher(x, choice)) for choice in extra)]
    return largest, torch.stack(outputs).mean(0)


def back_propagate_choices(
    net: Supernet, x: Tensor, choices: list[Choice], loss_of: Callable[[Tensor, Choice], Tensor]
) -> Iterator[tuple[Choice, float]]:
    """Back-propagate the loss of each choice; choices that agree up to the first gate run what is in front of it once.

    In DS-MBNet all routed networks do, so the early layers, where most of the time goes, are computed and
    back-propagated once a step instead of once a choice. The gradient is the same sum.
    """
    alike: dict[str, list[Choice]] = {}
    for choice in choices:
        alike.setdefault(choice.key(net.space.depth_after(0)), []).append(choice)
    for group in alike.values():
        shared = len(group) > 1 and len(net.segments) > 1
        arrived = net.segments[0].through(x, group[0]) if shared else x  # type: ignore[operator]
        leaf = arrived.detach().requires_grad_(shared)
        for choice in group:
            loss = loss_of(net(leaf, choice, start=int(shared)), choice)
            back_propagate(loss)
            yield choice, loss.item()
        if shared:
            back_propagate(arrived, leaf.grad)


def supernet_step(
    net: Supernet,
    teacher: Supernet | None,
    batch: Batch,
    settings: StageOne,
    task: Task,
    smoothing: float,
    generator: random.Random,
) -> dict[str, float]:
    """Back-propagate one step's summed losses into `net` and return them by role. Takes no optimizer step."""
    (seen_by_teacher, x), space = views_of(batch, settings.multi_view), net.space
    choices = sandwich(space, settings.random_widths, generator)
    largest = net(x, choices[0])
    loss = task.loss(largest, batch.targets, smoothing)
    back_propagate(loss)
    losses = {"largest": loss.item()}
    target = smallest_target = task.soften(largest) if settings.distillation == "inplace" else None
    if teacher is not None and settings.averages:
        ensemble = settings.distillation == "ensemble_bootstrap"
        extra = [space.sample(generator) for _ in range(settings.random_widths)] if ensemble else []
        target, smallest_target = teacher_targets(teacher, seen_by_teacher, extra, task)

    def narrower(output: Tensor, choice: Choice) -> Tensor:
        soft = smallest_target if choice == space.smallest else target
        return task.loss(output, batch.targets, smoothing) if soft is None else task.distill(output, soft)

    for choice, value in back_propagate_choices(net, x, choices[1:], narrower):
        losses["smallest" if choice == space.smallest else "random"] = value
    return losses


def train_supernet(net: Supernet, settings: StageOne, run: Run) -> tuple[Supernet, dict[str, Any]]:
    """Stage I. Returns the network to evaluate (the EMA supernet where there is one) and the training's history."""
    net.train()
    ema = copy.deepcopy(net).eval().requires_grad_(False) if settings.averages else None

    def step(batch: Batch, index: int) -> dict[str, float]:
        generator = random.Random(stable_seed(run.spec.seed, "sandwich", index))
        return supernet_step(net, ema, batch, settings, run.task, run.spec.train.label_smoothing, generator)

    def average(index: int) -> None:
        if ema is not None:
            move_average(ema, net, settings.decay(index))

    kept = {} if ema is None else {"ema": ema}
    plan = Plan("supernet", {"supernet": net}, step, kept=kept, views=settings.views, after_step=average)
    history = fit(plan, run)
    return (net if ema is None else ema).eval(), history
