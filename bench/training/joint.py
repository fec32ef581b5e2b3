"""Train several sub-networks of a supernet in each step: which ones, and who teaches each, is a list of lessons.

S-Net, AutoSlim and the nested transformers differ in that list only (METHODS 9 and 13). Losses are summed over the
lessons, each back-propagated on its own to bound memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.data.dataset import Batch
from bench.slicing.choice import AnyChoice
from bench.slicing.supernet import Supernet
from bench.tasks.task import Task
from bench.training.front import forwarded_once
from bench.training.loop import Plan, fit, stable_seed, total_steps
from bench.training.precision import back_propagate
from bench.training.run import Run


@dataclass(frozen=True)
class Lesson:
    """What one sub-network learns from in a step.

    Attributes:
        labels: weight of the loss against the labels.
        teacher: index of an earlier lesson of the same step, whose output is distilled at weight 1; None for none.
    """

    choice: AnyChoice
    labels: float = 1.0
    teacher: int | None = None


Rule = Callable[[float, random.Random], Sequence[Lesson]]
"""(share of the training that is done, in [0, 1); randomness of the step) to the lessons of the step."""


def joint_step(
    net: Supernet, batch: Batch, lessons: Sequence[Lesson], task: Task, smoothing: float, front: int = 0
) -> dict[str, float]:
    """Back-propagate the loss of each lesson into `net` and return them. Takes no optimizer step.

    Args:
        front: so many segments, which are the same under all choices of the lessons, are forwarded once for them all.
    """
    taught = {lesson.teacher for lesson in lessons}
    softened, losses = {}, {}
    with forwarded_once(net, batch.x, lessons[0].choice, front) as output_of:
        for index, lesson in enumerate(lessons):
            output, labels = output_of(lesson.choice), lesson.labels
            loss = labels * task.loss(output, batch.targets, smoothing) if labels else output.new_zeros(())
            if lesson.teacher is not None:
                loss = loss + task.distill(output, softened[lesson.teacher])
            if index in taught:
                softened[index] = task.soften(output)
            back_propagate(loss)
            losses[f"lesson{index}"] = loss.item()
    return losses


def train_jointly(name: str, net: Supernet, rule: Rule, run: Run, front: int = 0) -> dict[str, Any]:
    """Train `net` in place by a rule, as the checkpoint `name`, and return the training's history; `front` as for
    `joint_step`."""
    spec = run.spec.train
    steps = total_steps(spec, run.data.train.steps(spec.batch_size))

    def step(batch: Batch, index: int) -> dict[str, float]:
        lessons = rule(index / steps, random.Random(stable_seed(run.spec.seed, "lessons", index)))
        return joint_step(net, batch, lessons, run.task, spec.label_smoothing, front)

    net.train()
    history = fit(Plan(name, {"supernet": net}, step), run)
    net.eval()
    return history
