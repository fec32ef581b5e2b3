"""Stage II: train the gate on the frozen supernet.

Loss = task loss of the gated network + sandwich gate sparsification (SGS) + a penalty on multiply-adds (Li et al.
2021, sec. 3.3; METHODS 5.2). SGS is a cross-entropy on the gate's raw logits: the released code applies it to
probabilities, which bounds it away from zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core.spec import TrainSpec
from bench.data.dataset import Batch, Split
from bench.slicing.choice import Choice
from bench.slicing.gate import Gate, gumbel_straight_through
from bench.slicing.layers import SoftChoice
from bench.slicing.supernet import Supernet
from bench.training.context import Context
from bench.training.loop import Plan, fit
from bench.training.tasks import Task

HardSamples = Literal["try_best", "give_up"]


@dataclass(frozen=True)
class StageTwo:
    """How a gate is trained.

    Attributes:
        epochs, lr, weight_decay: of the gate's own training (momentum and schedule as in stage I).
        task_weight, sgs_weight, madds_weight: factors of the three losses (METHODS 5.2: 1, 1, 0.5).
        hard_samples: where to send images that even the widest routed network gets wrong: "try_best" to the widest,
            "give_up" to the slimmest.
        temperature: of the straight-through Gumbel-softmax.
    """

    epochs: int = 5
    lr: float = 0.05
    weight_decay: float = 1e-4
    task_weight: float = 1.0
    sgs_weight: float = 1.0
    madds_weight: float = 0.5
    hard_samples: HardSamples = "try_best"
    temperature: float = 1.0


def sgs_targets(easy: Tensor, hopeless: Tensor, options: int, hard_samples: HardSamples) -> Tensor:
    """The option that SGS wants for each image: the first if the slimmest network solves it, else the last.

    Args:
        easy: (B,) bool, the slimmest routed network solves the image.
        hopeless: (B,) bool, even the widest routed network does not.
    """
    first = easy | hopeless if hard_samples == "give_up" else easy
    return torch.where(first, 0, options - 1)


def sgs_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the gate's raw logits (B, K); it can reach zero."""
    return F.cross_entropy(logits, targets)


def madds_penalty(weights: Tensor, madds: Tensor) -> Tensor:
    """(mean multiply-adds of the batch / those of the costliest option)^2; gradient through the weights (B, K).

    The paper divides by the supernet's total and the code by 1e9 (METHODS 5.2); dividing by the costliest option of
    the routing space makes the weight mean the same for every family and image size.
    """
    return ((weights @ madds).mean() / madds.max()).square()


class GateTrainer:
    """One gate's training step over a frozen supernet with a single decision.

    Args:
        routing: the options that the gate may take, cheapest first; the gate has one logit for each.
    """

    def __init__(self, net: Supernet, gate: Gate, routing: tuple[int, ...], image_size: int, task: Task) -> None:
        space = net.space
        self.net, self.gate, self.task = net, gate, task
        self.choices = tuple(space.routed([option]) for option in routing)
        costs = [cost.madds for cost in net.costs(self.choices, image_size)]
        self.madds = torch.tensor(costs, dtype=torch.float32)
        self.depth = space.decisions[0].stage
        self.fixed = Choice(space.fixed)

    def step(self, batch: Batch, settings: StageTwo, smoothing: float) -> dict[str, float]:
        """Back-propagate the three losses into the gate and return them."""
        with torch.no_grad():
            x, features = self.net.segments[0](batch.x, self.fixed)
        logits = self.gate(features)
        targets = self.targets(x, batch.targets, settings.hard_samples)
        sgs = sgs_loss(logits, targets)
        loss = settings.sgs_weight * sgs
        losses = {"sgs": sgs.item()}
        if settings.task_weight or settings.madds_weight:
            weights = gumbel_straight_through(logits, settings.temperature)
            output, _ = self.net.segments[1](x, SoftChoice(self.choices, weights, self.depth))
            task_loss = self.task.loss(output, batch.targets, smoothing)
            penalty = madds_penalty(weights, self.madds.to(weights.device))
            loss = loss + settings.task_weight * task_loss + settings.madds_weight * penalty
            losses |= {"task": task_loss.item(), "madds": penalty.item()}
        loss.backward()
        return losses

    @torch.no_grad()
    def targets(self, x: Tensor, labels: Tensor, hard_samples: HardSamples) -> Tensor:
        """SGS targets of a batch that has reached the gate."""
        easy = self.solved(x, self.choices[0], labels)
        give_up = hard_samples == "give_up"
        hopeless = ~self.solved(x, self.choices[-1], labels) if give_up else ~easy
        return sgs_targets(easy, hopeless, len(self.choices), hard_samples)

    def solved(self, x: Tensor, choice: Choice, labels: Tensor) -> Tensor:
        output, _ = self.net.segments[1](x, choice)
        return self.task.score(output, labels) >= self.task.threshold


def train_gate(
    net: Supernet,
    routing: tuple[int, ...],
    split: Split,
    spec: TrainSpec,
    seed: int,
    settings: StageTwo,
    task: Task,
    image_size: int,
    context: Context,
    name: str,
) -> tuple[Gate, dict[str, Any]]:
    """Stage II for one routing space: the trained gate and its training's history. The supernet does not change."""
    net.eval().requires_grad_(False)
    example = next(iter(split.batches(1, device=context.device)))
    with torch.no_grad():
        _, features = net.segments[0](example.x, Choice(net.space.fixed))
    gate = Gate(features.trunk.shape[1], len(routing)).to(context.device)
    trainer = GateTrainer(net, gate, routing, image_size, task)

    def step(batch: Batch, index: int) -> dict[str, float]:
        return trainer.step(batch, settings, spec.label_smoothing)

    gate_spec = replace(
        spec, epochs=settings.epochs, lr=settings.lr, weight_decay=settings.weight_decay, warmup_epochs=0.0
    )
    history = fit(Plan(name, {"gate": gate}, {}, step, gate_spec, seed), split, context)
    return gate.eval(), history
