"""The gate: reads what the network already computed for an image and picks the option that finishes it.

Double-headed (Li et al. 2021, sec. 3.3): its trunk is the squeeze of the channel attention in front of it, which costs
nothing extra; the attention head scales channels, the slimming head chooses the width. Families without attention give
it pooled activations, and it may have a hidden layer of its own.

The paper chose among designs of a gate by ablation (METHODS 5.1); how the others were built is not public, so
`ScalarGate` and a trunk of the gate's own are our reading, and say so.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.slicing.supernet import Features

Head = Literal["one_hot", "scalar"]
"""One output an option, or a single one that is quantised to an option."""
Trunk = Literal["shared", "separate"]
"""What a gate reads: the trunk that attention computed, or the pooled activation through a layer of its own."""


class Gate(nn.Module):
    """The slimming head: one linear layer without bias over the trunk, (B, T) to a score for each option, (B, K).

    Its scores are logits, one an option (a one-hot gate).

    Args:
        inputs: T, the features that it reads of an image.
        options: K.
        hidden: width of a layer of the gate's own between features and head; 0 for none.
        trunk: which features those are.
    """

    def __init__(self, inputs: int, options: int, hidden: int = 0, trunk: Trunk = "shared") -> None:
        super().__init__()
        self.options, self.trunk = options, trunk
        self.hidden = nn.Linear(inputs, hidden) if hidden else None
        self.head = nn.Linear(hidden or inputs, self.outputs(options), bias=False)
        nn.init.zeros_(self.head.weight)  # before training no option is preferred

    @staticmethod
    def outputs(options: int) -> int:
        """How many numbers the head computes."""
        return options

    def raw(self, features: Features) -> Tensor:
        """(B, outputs): what the head computes, which is what losses and samples start from."""
        seen = features.trunk if self.trunk == "shared" else features.pooled
        return self.head(seen if self.hidden is None else self.hidden(seen).relu())

    def scores(self, raw: Tensor) -> Tensor:
        """(B, outputs) to (B, K): the option of the largest score is taken."""
        return raw

    def sample(self, raw: Tensor, temperature: float) -> Tensor:
        """(B, outputs) to one-hot weights (B, K) that carry a gradient: how the gate decides while it is trained."""
        return gumbel_straight_through(raw, temperature)

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

    def sample(self, raw: Tensor, temperature: float) -> Tensor:
        return straight_through(self.scores(raw))


GATES: dict[Head, type[Gate]] = {"one_hot": Gate, "scalar": ScalarGate}


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
