"""The gate: reads what the network already computed for an image and picks the option that finishes it.

Double-headed (Li et al. 2021, sec. 3.3): its trunk is the squeeze of the channel attention in front of it, which costs
nothing extra; the attention head scales channels, the slimming head chooses the width. In families without attention,
and where it is asked for, the gate has a trunk of its own: a hidden layer that reads mean and deviation (`moments`).

Every gate's input is standardised by fixed statistics (`bench/training/gating.py`), so one learning rate serves gates
at any depth of any family. A budget is an offset on what the gate computes (`bench/training/budget.py`).

The paper chose among designs of a gate by ablation (METHODS 5.1); how the others were built is not public, so
`ScalarGate`, a trunk of the gate's own, the standardisation and the offset are our design.
"""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.slicing.choice import Choice
from bench.slicing.supernet import Features, Supernet

Head = Literal["one_hot", "scalar"]
"""One output an option, or a single one that is quantised to an option."""
Trunk = Literal["shared", "separate"]
"""What a gate reads: the trunk that attention computed (released), or `moments` through a hidden layer of its own."""
Routing = tuple[tuple[int, ...], ...]
"""For each gate, the options that it may take, cheapest first."""


def moments(x: Tensor) -> Tensor:
    """Mean and standard deviation over all positions: (B, C, H, W) or tokens (B, N, C) to (B, 2C).

    The deviation is there because the mean of early features says little of how much there is to see. It costs no
    multiply-adds, and its gradient is finite where all positions are equal.
    """
    positions = (2, 3) if x.dim() == 4 else (1,)
    return torch.cat((x.mean(positions), (x.var(positions, correction=0) + 1e-6).sqrt()), dim=1)


class Gate(nn.Module):
    """The slimming head: one linear layer without bias, from what it reads of an image to (B, K), a score an option.

    Its scores are logits, one an option (a one-hot gate).

    Args:
        inputs: T, the features that it reads of an image.
        options: K.
        hidden: width of the layer of the gate's own between features and head; 0 for none.
        trunk: which features those are.

    Attributes:
        shift, scale: (T,), fixed before training: features are standardised as (features - shift) / scale.
        offset: (outputs,), added to what the head computes; zero unless a budget asks for more.
    """

    shift: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, inputs: int, options: int, hidden: int = 0, trunk: Trunk = "shared") -> None:
        super().__init__()
        self.options, self.trunk = options, trunk
        self.hidden = nn.Linear(inputs, hidden) if hidden else None
        self.head = nn.Linear(hidden or inputs, self.outputs(options), bias=False)
        nn.init.zeros_(self.head.weight)  # before training no option is preferred
        self.register_buffer("shift", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("offset", torch.zeros(self.outputs(options)))

    @staticmethod
    def outputs(options: int) -> int:
        """How many numbers the head computes."""
        return options

    def read(self, features: Features) -> Tensor:
        """(B, T): what the gate reads of an image, before it is standardised."""
        if self.trunk == "separate":
            return moments(features.activation)
        assert features.trunk is not None, "this place in the network has no trunk to share"
        return features.trunk

    @torch.no_grad()
    def standardise(self, seen: Tensor) -> None:
        """Fix `shift` and `scale` such that the features `seen` (n, T) have deviation one, and mean zero, or one where
        the head has no layer in front of it: a head without bias learns from that mean how often an option is right.

        A feature that hardly varies among these images is divided by no less than a tenth of the mean deviation, so
        that an image where it does is no outlier.
        """
        deviation, mean = torch.std_mean(seen.double(), dim=0, correction=0)
        scale = deviation.clamp_min(max(deviation.mean().item() / 10, 1e-6))
        self.scale.copy_(scale)
        self.shift.copy_(mean if self.hidden is not None else mean - scale)

    def raw(self, features: Features) -> Tensor:
        """(B, outputs): what the head computes, which is what losses and samples start from."""
        seen = (self.read(features) - self.shift) / self.scale
        return self.head(seen if self.hidden is None else self.hidden(seen).relu()) + self.offset

    def leaning(self, offset: float, costs: Tensor) -> Gate:
        """A copy that adds `offset` times its cost (K,) to every option's logit."""
        gate = copy.deepcopy(self)
        gate.offset.copy_(offset * self.slopes(costs))
        return gate

    def slopes(self, costs: Tensor) -> Tensor:
        """(K,) to (outputs,): what an offset of one adds to what the head computes."""
        return costs

    def switches(self, raw: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
        """At which offsets an image goes on to a costlier option, and by how much its cost then grows.

        An image takes the option of the largest logit + offset * cost. That is an upper envelope of lines, so its cost
        never falls as the offset grows, and options below the envelope are never taken.

        Args:
            raw: (n, outputs), what the head computes at offset zero. costs: (K,), not falling.

        Returns:
            Two tensors (n, K - 1), offsets ascending; infinite where an image has no further option.
        """
        raw, costs = raw.double(), costs.double()
        cheapest = torch.where(costs == costs[0], raw, -math.inf)
        option, offsets, added = cheapest.argmax(1), [], []
        for _ in range(len(costs) - 1):
            steps = costs - costs[option][:, None]  # (n, K)
            meets = (raw.gather(1, option[:, None]) - raw) / steps
            offset, following = torch.where(steps > 0, meets, math.inf).min(1)
            following = torch.where(offset.isinf(), option, following)
            offsets.append(offset)
            added.append(costs[following] - costs[option])
            option = following
        return torch.stack(offsets, 1), torch.stack(added, 1)

    def scores(self, raw: Tensor) -> Tensor:
        """(B, outputs) to (B, K): the option of the largest score is taken."""
        return raw

    def sample(self, raw: Tensor) -> Tensor:
        """(B, outputs) to one-hot weights (B, K) that carry a gradient: how the gate decides while it is trained."""
        return gumbel_straight_through(raw)

    def forward(self, features: Features) -> Tensor:
        return self.scores(self.raw(features))

    @property
    def madds(self) -> int:
        """Multiply-adds for one image."""
        return self.head.weight.numel() + (0 if self.hidden is None else self.hidden.weight.numel())


class ScalarGate(Gate):
    """A gate of one output: its sigmoid is a place on the list of options, and the nearest option is taken.

    Li et al. 2021 compared such a gate with the one-hot one; their details are not public. Ours: no noise in training,
    the quantised place forward, and backward the gradient of the linear interpolation between its two neighbours.
    """

    @staticmethod
    def outputs(options: int) -> int:
        return 1

    def scores(self, raw: Tensor) -> Tensor:
        return interpolated(raw.sigmoid(), self.options)

    def sample(self, raw: Tensor) -> Tensor:
        return straight_through(self.scores(raw))

    def slopes(self, costs: Tensor) -> Tensor:
        return (costs[-1] - costs[0])[None]

    def switches(self, raw: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
        between = (torch.arange(len(costs) - 1, dtype=torch.float64, device=raw.device) + 0.5) / (len(costs) - 1)
        offsets = (between.logit() - raw.double()) / self.slopes(costs).double()
        return offsets, costs.double().diff().expand_as(offsets)


GATES: dict[Head, type[Gate]] = {"one_hot": Gate, "scalar": ScalarGate}


@torch.no_grad()
def new_gates(
    net: Supernet, routing: Routing, image_size: int, head: Head = "one_hot", trunk: Trunk = "shared"
) -> list[Gate]:
    """Untrained gates for a routing space, each for what its place in the network shows it.

    Args:
        trunk: "separate" gives a gate a trunk of its own, as wide as the one that it would share. Where there is none
            to share, every gate has its own.
    """
    device = next(net.parameters()).device
    x = torch.zeros(1, net.input_channels, image_size, image_size, device=device)
    choice, gates = Choice(net.space.fixed), []
    for index, options in enumerate(routing):
        x, features = net.segments[index](x, choice)
        squeezed = 0 if features.trunk is None else features.trunk.shape[1]
        if trunk == "shared" and squeezed:
            gate = GATES[head](squeezed, len(options))
        else:
            inputs = moments(features.activation).shape[1]
            gate = GATES[head](inputs, len(options), squeezed or net.gate_hidden, "separate")
        gates.append(gate.to(device))
        choice = choice.then(net.space.decisions[index].options[options[0]])
    return gates


def interpolated(fraction: Tensor, options: int) -> Tensor:
    """(B, 1) in [0, 1] to weights (B, K): the place `fraction` * (K - 1), shared by the two options beside it."""
    place = fraction * (options - 1)
    steps = torch.arange(options, dtype=fraction.dtype, device=fraction.device)
    return (1 - (place - steps).abs()).clamp_min(0)


def decide(scores: Tensor) -> Tensor:
    """(B, K) to (B,): the option of the largest score. No noise: routing at evaluation depends on the image alone."""
    return scores.argmax(dim=1)


def straight_through(soft: Tensor) -> Tensor:
    """One-hot at the largest of the weights (B, K) forward, the gradient of the weights themselves backward."""
    hard = F.one_hot(soft.argmax(dim=1), soft.shape[1]).to(soft.dtype)
    return hard + soft - soft.detach()


def gumbel_straight_through(
    logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """One-hot samples (B, K) forward, the gradient of the soft sample backward (Jang et al. 2017; Li et al. 2021).

    Args:
        generator: source of the Gumbel noise; the global one where None.
    """
    uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype, device=logits.device)
    tiny = torch.finfo(logits.dtype).tiny
    noise = -torch.log((-torch.log(uniform.clamp_min(tiny))).clamp_min(tiny))
    return straight_through(F.softmax((logits + noise) / temperature, dim=1))
