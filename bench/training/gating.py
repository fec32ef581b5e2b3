"""Stage II: train the gates on the frozen supernet.

Loss = task loss of the gated network + sandwich gate sparsification (SGS) + a penalty on multiply-adds (Li et al.
2021, sec. 3.3; METHODS 5.2). SGS is a cross-entropy on the gate's raw logits: the released code applies it to
probabilities, which bounds it away from zero.

With several gates every gate has the same target: whether the slimmest routed network solves the image. The task loss
and the penalty reach all gates through the straight-through weights; the network runs masked, each gate reading what
the gates in front of it left. A gate's input is detached, so its SGS loss trains that gate alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.data.dataset import Batch
from bench.slicing.bound import SoftChoice
from bench.slicing.choice import Choice
from bench.slicing.dynamic import softened
from bench.slicing.gate import GATES, Gate, Head, ScalarGate, Trunk
from bench.slicing.supernet import Features, Supernet
from bench.tasks.task import Task
from bench.training.loop import Plan, fit
from bench.training.run import Run

HardSamples = Literal["try_best", "give_up"]
GATES_DIFFER: dict[str, Any] = {
    "optimizer": "sgd", "warmup_epochs": 0.0, "warmup_steps": None, "mixup": 0.0, "cutmix": 0.0, "ema": 0.0,
    "precision": "float32",
}  # fmt: skip
"""What stage II does whatever the run says: whether an image is solved is asked of whole images with their labels, the
gates' learning rate is one for SGD, and multiply-adds need more digits than bfloat16 has."""
Routing = tuple[tuple[int, ...], ...]
"""For each gate, the options that it may take, cheapest first."""


@dataclass(frozen=True)
class StageTwo:
    """How gates are trained.

    Attributes:
        epochs, lr, weight_decay: of the gates' own training (momentum and schedule as in stage I).
        task_weight, sgs_weight, madds_weight: factors of the three losses (METHODS 5.2: 1, 1, 0.5).
        hard_samples: where to send images that even the widest routed network gets wrong: "try_best" to the widest,
            "give_up" to the slimmest.
        temperature: of the straight-through Gumbel-softmax.
        gate_head, gate_trunk: how gates are built (`new_gates`).

    Raises:
        UserError: a number that is impossible.
    """

    epochs: int = 5
    lr: float = 0.05
    weight_decay: float = 1e-4
    task_weight: float = 1.0
    sgs_weight: float = 1.0
    madds_weight: float = 0.5
    hard_samples: HardSamples = "try_best"
    temperature: float = 1.0
    gate_head: Head = "one_hot"
    gate_trunk: Trunk = "shared"

    def __post_init__(self) -> None:
        for name in ("epochs", "lr", "weight_decay", "task_weight", "sgs_weight", "madds_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"gate {name} must be at least 0, not {getattr(self, name):g}")


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


def scalar_sgs_loss(raw: Tensor, targets: Tensor, options: int) -> Tensor:
    """The same for a gate of one output (B, 1): binary cross-entropy towards the ends 0 and 1 of its list."""
    wanted = targets.to(raw.dtype) / max(options - 1, 1)
    return F.binary_cross_entropy_with_logits(raw[:, 0], wanted)


def sgs_loss_of(gate: Gate, raw: Tensor, targets: Tensor) -> Tensor:
    """SGS by what a gate's head computed."""
    return scalar_sgs_loss(raw, targets, gate.options) if isinstance(gate, ScalarGate) else sgs_loss(raw, targets)


def route_costs(net: Supernet, routing: Routing, image_size: int) -> list[Tensor]:
    """Multiply-adds of the network by what its gates take: (K0,) for the first gate, with all in front of it, then
    (K of the gate before, K) for each next one. A route costs the sum of its entries, gates themselves left out.

    A segment's cost depends on the width that arrives, so on the decision before it, and on its own (DESIGN 2).
    """

    def costs(gate: int, taken: dict[int, int]) -> int:
        route = [taken.get(g, options[0]) for g, options in enumerate(routing)]
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


def largest_madds(costs: Sequence[Tensor]) -> Tensor:
    """Multiply-adds of the costliest route."""
    reached = costs[0]
    for table in costs[1:]:
        reached = (reached[:, None] + table).amax(0)
    return reached.max()


def madds_penalty(weights: Sequence[Tensor], costs: Sequence[Tensor]) -> Tensor:
    """(mean multiply-adds of the batch / those of the costliest route)^2; gradient through the weights (B, K).

    The paper divides by the supernet's total and the code by 1e9 (METHODS 5.2); dividing by the costliest route of
    the routing space makes the weight mean the same for every family and image size.
    """
    return (expected_madds(weights, costs).mean() / largest_madds(costs)).square()


class GateTrainer:
    """One training step of all gates over a frozen supernet."""

    def __init__(self, net: Supernet, gates: Sequence[Gate], routing: Routing, image_size: int, task: Task) -> None:
        space = net.space
        self.net, self.gates, self.routing, self.task = net, gates, routing, task
        device = next(net.parameters()).device
        self.costs = [table.to(device) for table in route_costs(net, routing, image_size)]
        self.fixed = Choice(space.fixed)
        self.slimmest = space.routed([options[0] for options in routing])
        self.widest = space.routed([options[-1] for options in routing])

    def step(self, batch: Batch, settings: StageTwo, smoothing: float) -> dict[str, float]:
        """Back-propagate the three losses into the gates and return them."""
        joint = bool(settings.task_weight or settings.madds_weight)
        with torch.no_grad():
            x, features = self.net.segments[0](batch.x, self.fixed)
        easy, hopeless = self.difficulty(x, batch.targets, settings.hard_samples)
        raw, weights, choice, x = self.gated(x, features, settings.temperature, joint)
        targets = [sgs_targets(easy, hopeless, len(options), settings.hard_samples) for options in self.routing]
        sgs = torch.stack([sgs_loss_of(*told) for told in zip(self.gates, raw, targets, strict=True)]).mean()
        loss = settings.sgs_weight * sgs
        losses = {"sgs": sgs.item()}
        if joint:
            output, _ = self.net.segments[len(self.gates)](x, choice)
            task_loss = self.task.loss(output, batch.targets, smoothing)
            penalty = madds_penalty(weights, self.costs)
            loss = loss + settings.task_weight * task_loss + settings.madds_weight * penalty
            losses |= {"task": task_loss.item(), "madds": penalty.item()}
        loss.backward()
        return losses

    def gated(
        self, x: Tensor, features: Features, temperature: float, joint: bool
    ) -> tuple[list[Tensor], list[Tensor], Choice | SoftChoice, Tensor]:
        """All gates in turn, from what reaches the first one: their raw outputs and sampled weights, what the last
        segment is to run under, and what reaches it. Without `joint` no gradient passes from a gate to those before."""
        choice: Choice | SoftChoice = self.fixed
        raw, weights = [], []
        for index, gate in enumerate(self.gates):
            raw.append(gate.raw(Features(*(part.detach() for part in features))))
            weights.append(gate.sample(raw[-1], temperature))
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
def new_gates(
    net: Supernet, routing: Routing, image_size: int, head: Head = "one_hot", trunk: Trunk = "shared"
) -> list[Gate]:
    """Untrained gates for a routing space, each for what its place in the network shows it.

    Args:
        trunk: "separate" gives a gate a hidden layer of its own, as wide as the trunk that it would share.

    Raises:
        UserError: a separate trunk for a network whose gates share none.
    """
    if trunk == "separate":
        check_shared_trunk(net)
    device = next(net.parameters()).device
    x = torch.zeros(1, net.input_channels, image_size, image_size, device=device)
    choice, gates = Choice(net.space.fixed), []
    for index, options in enumerate(routing):
        x, features = net.segments[index](x, choice)
        width = features.trunk.shape[1]
        seen, hidden = (width, net.gate_hidden) if trunk == "shared" else (features.pooled.shape[1], width)
        gates.append(GATES[head](seen, len(options), hidden, trunk).to(device))
        choice = choice.then(net.space.decisions[index].options[options[0]])
    return gates


def check_shared_trunk(net: Supernet) -> None:
    """Raise `UserError` unless a network's gates share the trunk of channel attention."""
    if net.gate_hidden:
        raise UserError(
            "the gates of this model have a layer of their own already, for it has no channel attention to share a "
            "trunk with; leave gate_trunk at shared"
        )


def named_gates(gates: Sequence[Gate]) -> dict[str, nn.Module]:
    """Gates by the names under which checkpoints keep them."""
    return {f"gate{index}": gate for index, gate in enumerate(gates)}


def train_gates(
    name: str, net: Supernet, routing: Routing, settings: StageTwo, task: Task, run: Run
) -> tuple[list[Gate], dict[str, Any]]:
    """Stage II for one routing space: the trained gates, one a decision, by one optimizer, and the training's history.
    The supernet does not change.

    Args:
        name: of the checkpoint. task: the run's, fitted to what the widest routed network solves.
    """
    net.eval().requires_grad_(False)
    gates = new_gates(net, routing, run.data.image_size, settings.gate_head, settings.gate_trunk)
    trainer = GateTrainer(net, gates, routing, run.data.image_size, task)

    def step(batch: Batch, index: int) -> dict[str, float]:
        return trainer.step(batch, settings, run.spec.train.label_smoothing)

    gate_spec = replace(
        run.spec.train, epochs=settings.epochs, lr=settings.lr, weight_decay=settings.weight_decay, **GATES_DIFFER
    )
    history = fit(Plan(name, named_gates(gates), step, gate_spec), run)
    return [gate.eval() for gate in gates], history
