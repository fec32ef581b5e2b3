"""Stage II: train the gates on the frozen supernet.

Loss = task loss of the gated network + sandwich gate sparsification (SGS) + a penalty on multiply-adds (Li et al.
2021, sec. 3.3; METHODS 5.2). SGS is a cross-entropy on the gate's raw logits: the released code applies it to
probabilities, which bounds it away from zero.

With several gates every gate has the same target: whether the slimmest routed network solves the image. The task loss
and the penalty reach all gates through the straight-through weights; the network runs masked, each gate reading what
the gates in front of it left. A gate's input is detached, so its SGS loss trains that gate alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.ranges import FromZero, NotNegative, Rate
from bench.data.dataset import Batch, Split
from bench.slicing.bound import SoftChoice
from bench.slicing.choice import Choice
from bench.slicing.dynamic import softened
from bench.slicing.gate import Gate, Head, Routing, ScalarGate, Trunk, new_gates
from bench.slicing.supernet import Features, Supernet
from bench.statistics.routing import level_routes
from bench.tasks.task import Task
from bench.training.loop import Plan, fit
from bench.training.optim import growing_decay, move_average
from bench.training.run import Run

HardSamples = Literal["try_best", "give_up"]
BATCH = 250
"""Images of a batch whose features are standardised by. Fixed, because float sums may differ between batch sizes."""
GATES_DIFFER: dict[str, Any] = {
    "optimizer": "sgd", "warmup_epochs": 0.0, "warmup_steps": None, "mixup": 0.0, "cutmix": 0.0, "ema": 0.0,
    "precision": "float32",
}  # fmt: skip
"""What stage II does whatever the run says: whether an image is solved is asked of whole images with their labels, the
gates' learning rate is one for SGD, and multiply-adds need more digits than bfloat16 has."""


@dataclass(frozen=True)
class StageTwo:
    """How gates are trained.

    Attributes:
        gate_epochs, gate_lr, gate_weight_decay: of the gates' own training (momentum and schedule as in stage I). The
            released code decays a gate's weights by 0.01.
        task_weight, sgs_weight, madds_weight: factors of the three losses (METHODS 5.2: 1, 1, 0.5).
        hard_samples: where to send images that even the widest routed network gets wrong: "try_best" to the widest,
            "give_up" to the slimmest.
        sgs_smoothing: label smoothing of SGS. The released code has 0.1.
        gate_ema: decay, a step, of the average of a gate's weights that is evaluated; 0 for the weights themselves. The
            released code has 0.997. It begins lower (`growing_decay`).
        gate_head, gate_trunk: how gates are built (`bench/slicing/gate.py`). A shared trunk is that of channel
            attention; where a network has none, every trunk is separate. The attention head is a property of the
            network: the `ds_mobilenet_plain_` presets are without.
    """

    gate_epochs: FromZero = 5
    gate_lr: NotNegative = 0.05
    gate_weight_decay: NotNegative = 1e-4
    task_weight: NotNegative = 1.0
    sgs_weight: NotNegative = 1.0
    madds_weight: NotNegative = 0.5
    hard_samples: HardSamples = "try_best"
    sgs_smoothing: Rate = 0.0
    gate_ema: Rate = 0.0
    gate_head: Head = "one_hot"
    gate_trunk: Trunk = "shared"

    def new_gates(self, net: Supernet, routing: Routing, image_size: int) -> list[Gate]:
        """Untrained gates for a routing space."""
        return new_gates(net, routing, image_size, self.gate_head, self.gate_trunk)


def sgs_targets(easy: Tensor, hopeless: Tensor, options: int, hard_samples: HardSamples) -> Tensor:
    """The option that SGS wants for each image: the first if the slimmest network solves it, else the last.

    Args:
        easy: (B,) bool, the slimmest routed network solves the image.
        hopeless: (B,) bool, even the widest routed network does not.
    """
    first = easy | hopeless if hard_samples == "give_up" else easy
    return torch.where(first, 0, options - 1)


def sgs_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the gate's raw logits (B, K); without label smoothing it can reach zero."""
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def scalar_sgs_loss(raw: Tensor, targets: Tensor, options: int, smoothing: float = 0.0) -> Tensor:
    """The same for a gate of one output (B, 1): binary cross-entropy towards the ends 0 and 1 of its list."""
    wanted = targets.to(raw.dtype) / max(options - 1, 1) * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(raw[:, 0], wanted)


def sgs_loss_of(gate: Gate, raw: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """SGS by what a gate's head computed."""
    if isinstance(gate, ScalarGate):
        return scalar_sgs_loss(raw, targets, gate.options, smoothing)
    return sgs_loss(raw, targets, smoothing)


def route_costs(net: Supernet, routing: Routing, image_size: int) -> list[Tensor]:
    """Multiply-adds of the network by what its gates take: (K0,) for the first gate, with all in front of it, then
    (K of the gate before, K) for each next one. A route costs the sum of its entries, gates themselves left out.

    A segment's cost depends on the width that arrives, so on the decision before it, and on its own (DESIGN 2).
    """

    def costs(gate: int, fixed: dict[int, int]) -> int:
        route = [fixed.get(g, options[0]) for g, options in enumerate(routing)]
        segments = net.segment_costs(net.space.routed(route), image_size)
        return sum(c.madds for c in segments[:2]) if gate == 0 else segments[gate + 1].madds

    tables = [[costs(0, {0: option}) for option in routing[0]]]
    for gate in range(1, len(routing)):
        tables.append([[costs(gate, {gate - 1: i, gate: j}) for j in routing[gate]] for i in routing[gate - 1]])  # type: ignore[misc]
    return [torch.tensor(table, dtype=torch.float32) for table in tables]


def expected_madds(weights: Sequence[Tensor], costs: Sequence[Tensor]) -> Tensor:
    """(B,): multiply-adds of each image by the weights (B, K) of each gate, linear in every one of them."""
    total = weights[0] @ costs[0]
    for before, here, table in zip(weights, weights[1:], costs[1:], strict=False):
        total = total + ((before @ table) * here).sum(1)
    return total


def madds_penalty(weights: Sequence[Tensor], costs: Sequence[Tensor], full: float) -> Tensor:
    """(mean multiply-adds of the batch / `full`)^2; gradient through the weights (B, K).

    Args:
        full: multiply-adds of the supernet's largest network, as published (METHODS 5.2; the released code divides by
            1e9). Routed networks cost a fraction of it, so the penalty is weak: over choices 0 to 3 of DS-MBNet it
            spans 0.0165 at the weight of one half.
    """
    return (expected_madds(weights, costs).mean() / full).square()


class GateTrainer:
    """One training step of all gates over a frozen supernet."""

    def __init__(self, net: Supernet, gates: Sequence[Gate], routing: Routing, image_size: int, task: Task) -> None:
        space = net.space
        self.net, self.gates, self.routing, self.task = net, gates, routing, task
        device = next(net.parameters()).device
        self.costs = [table.to(device) for table in route_costs(net, routing, image_size)]
        self.full = net.cost(space.largest, image_size).madds
        self.fixed = Choice(space.fixed)
        self.slimmest = space.routed([options[0] for options in routing])
        self.widest = space.routed([options[-1] for options in routing])

    def step(self, batch: Batch, settings: StageTwo, smoothing: float) -> dict[str, float]:
        """Back-propagate the three losses into the gates and return them."""
        joint = bool(settings.task_weight or settings.madds_weight)
        with torch.no_grad():
            x, features = self.net.segments[0](batch.x, self.fixed)
        easy, hopeless = self.difficulty(x, batch.targets, settings.hard_samples)
        raw, weights, choice, x = self.gated(x, features, joint)
        targets = [sgs_targets(easy, hopeless, len(options), settings.hard_samples) for options in self.routing]
        each = zip(self.gates, raw, targets, strict=True)
        sgs = torch.stack([sgs_loss_of(*one, settings.sgs_smoothing) for one in each]).mean()
        loss = settings.sgs_weight * sgs
        losses = {"sgs": sgs.item()}
        if joint:
            output, _ = self.net.segments[len(self.gates)](x, choice)
            task_loss = self.task.loss(output, batch.targets, smoothing)
            penalty = madds_penalty(weights, self.costs, self.full)
            loss = loss + settings.task_weight * task_loss + settings.madds_weight * penalty
            losses |= {"task": task_loss.item(), "madds": penalty.item()}
        loss.backward()
        return losses

    def gated(
        self, x: Tensor, features: Features, joint: bool
    ) -> tuple[list[Tensor], list[Tensor], Choice | SoftChoice, Tensor]:
        """All gates in turn, from what reaches the first one: their raw outputs and sampled weights, what the last
        segment is to run under, and what reaches it. Without `joint` no gradient passes from a gate to those before."""
        choice: Choice | SoftChoice = self.fixed
        raw, weights = [], []
        for index, gate in enumerate(self.gates):
            raw.append(gate.raw(features.detached()))
            weights.append(gate.sample(raw[-1]))
            choice = softened(self.net.space, index, self.routing[index], weights[-1], choice)
            if index + 1 < len(self.gates):
                with torch.set_grad_enabled(joint):
                    x, features = self.net.segments[index + 1](x, choice)
        return raw, weights, choice, x

    @torch.no_grad()
    def difficulty(self, x: Tensor, labels: Tensor, hard_samples: HardSamples) -> tuple[Tensor, Tensor]:
        """(B,) bool each, of a batch that has reached the first gate: solved by the slimmest routed network; not even
        by the widest (looked up only where `hard_samples` asks for it)."""
        easy = self.solved(x, self.slimmest, labels)
        return easy, ~self.solved(x, self.widest, labels) if hard_samples == "give_up" else ~easy

    def solved(self, x: Tensor, choice: Choice, labels: Tensor) -> Tensor:
        for segment in list(self.net.segments)[1:]:
            x = segment.through(x, choice)  # type: ignore[operator]
        return self.task.score(x, labels) >= self.task.threshold


@torch.no_grad()
def standardise(net: Supernet, gates: Sequence[Gate], routing: Routing, split: Split, device: torch.device) -> None:
    """Fix the shift and scale of every gate's input by the images of a split, in evaluation mode.

    What arrives at a gate depends on those in front of it, so the images run every level route, all weighing the same.
    """
    seen: list[list[Tensor]] = [[] for _ in gates]
    for route in level_routes(routing):
        choice = net.space.routed(route)
        for batch in split.batches(BATCH, device=device):
            x = batch.x
            for index, gate in enumerate(gates):
                x, features = net.segments[index](x, choice)
                seen[index].append(gate.read(features))
    for gate, parts in zip(gates, seen, strict=True):
        gate.standardise(torch.cat(parts))


def named_gates(gates: Sequence[Gate]) -> dict[str, nn.Module]:
    """Gates by the names under which checkpoints keep them."""
    return {f"gate{index}": gate for index, gate in enumerate(gates)}


def train_gates(
    name: str, net: Supernet, routing: Routing, settings: StageTwo, task: Task, run: Run
) -> tuple[list[Gate], dict[str, Any]]:
    """Stage II for one routing space: the gates to evaluate, one a decision, trained by one optimizer, and the
    training's history. The supernet does not change.

    Args:
        name: of the checkpoint. task: the run's, fitted to what the widest routed network solves.
    """
    net.eval().requires_grad_(False)
    gates = settings.new_gates(net, routing, run.data.image_size)
    standardise(net, gates, routing, run.data.calibration, run.device)
    averages = copy.deepcopy(gates) if settings.gate_ema else []
    trainer = GateTrainer(net, gates, routing, run.data.image_size, task)

    def step(batch: Batch, index: int) -> dict[str, float]:
        return trainer.step(batch, settings, run.spec.train.label_smoothing)

    def average(index: int) -> None:
        for mean, gate in zip(averages, gates, strict=False):
            move_average(mean, gate, growing_decay(settings.gate_ema, index))

    usual = replace(run.spec.train, **GATES_DIFFER)
    gate_spec = replace(
        usual, epochs=settings.gate_epochs, lr=settings.gate_lr, weight_decay=settings.gate_weight_decay
    )
    trained = {f"trained_{key}": gate for key, gate in named_gates(gates).items()} if averages else named_gates(gates)
    plan = Plan(name, trained, step, gate_spec, kept=named_gates(averages), after_step=average)
    history = fit(plan, run)
    return [gate.eval() for gate in averages or gates], history
