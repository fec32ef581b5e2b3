"""Stage I: train a supernet by the sandwich rule with in-place distillation or in-place bootstrapping.

Li et al. 2021, sec. 3.2 and its released code (METHODS 4.1); Yu & Huang 2019 for the sandwich rule and in-place
distillation. Losses are summed over the choices of a step, each back-propagated on its own to bound memory.

Multi-view consistency (MvCo) is what Li et al. 2022 train DS-ViT++ with. Its formula is not public (METHODS 4.2); ours
is our design: bootstrapping across two augmentations of each image, the teacher's and the students'.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.data.dataset import Batch
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.supernet import Supernet
from bench.tasks.task import Task
from bench.training.front import forwarded_once
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
        shared_front: the segments that all sub-networks of a step share are forwarded once for them all, the largest
            included. The gradient is the same sum; their running batch-norm statistics move once a step.

    Raises:
        UserError: `multi_view` without an EMA teacher.
    """

    distillation: Distillation = "bootstrap"
    random_widths: int = 2
    ema: float = 0.997
    ema_warmup: bool = True
    multi_view: bool = False
    shared_front: bool = False

    def __post_init__(self) -> None:
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


def groups_of(choices: list[Choice], space: ChoiceSpace, shared_front: bool) -> list[tuple[list[Choice], int]]:
    """The choices of a step as (those forwarded from one front, segments of that front), the largest first.

    With `shared_front` it is what all of them share. Otherwise the largest runs alone, and of the others those that
    agree up to the first gate run what is in front of it once: in DS-MBNet all routed networks do, so the early layers,
    where most of the time goes, are computed once a step. The gradient is the same sum.
    """
    if shared_front:
        return [(choices, space.shared_segments(choices))]
    alike: dict[str, list[Choice]] = {}
    for choice in choices[1:]:
        alike.setdefault(choice.key(space.depth_after(0)), []).append(choice)
    is_cut = space.depth_after(0) < len(space.stages)
    return [(choices[:1], 0), *((group, int(is_cut and len(group) > 1)) for group in alike.values())]


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
    target = smallest_target = None
    if teacher is not None and settings.averages:
        ensemble = settings.distillation == "ensemble_bootstrap"
        extra = [space.sample(generator) for _ in range(settings.random_widths)] if ensemble else []
        target, smallest_target = teacher_targets(teacher, seen_by_teacher, extra, task)
    losses: dict[str, float] = {}
    for group, front in groups_of(choices, space, settings.shared_front):
        with forwarded_once(net, x, group[0], front) as output_of:
            for choice in group:
                output = output_of(choice)
                role = ("smallest" if choice == space.smallest else "random") if losses else "largest"
                soft = {"largest": None, "random": target, "smallest": smallest_target}[role]
                loss = task.loss(output, batch.targets, smoothing) if soft is None else task.distill(output, soft)
                back_propagate(loss)
                losses[role] = loss.item()
                if role == "largest" and settings.distillation == "inplace":
                    target = smallest_target = task.soften(output)
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
