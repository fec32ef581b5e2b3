"""The gate: reads what the network already computed for an image and picks the option that finishes it.

Double-headed (Li et al. 2021, sec. 3.3): its trunk is the squeeze of the channel attention in front of it, which costs
nothing extra; the attention head scales channels, the slimming head chooses the width. Families without attention give
it pooled activations, and it may have a hidden layer of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.slicing.supernet import Features


class Gate(nn.Module):
    """The slimming head: one linear layer without bias over the shared trunk, (B, T) to (B, K) logits.

    Args:
        trunk: T, the features of an image.
        options: K.
        hidden: width of a layer of the gate's own between trunk and head, for families without channel attention to
            share one with; 0 for none.
    """

    def __init__(self, trunk: int, options: int, hidden: int = 0) -> None:
        super().__init__()
        self.hidden = nn.Linear(trunk, hidden) if hidden else None
        self.head = nn.Linear(hidden or trunk, options, bias=False)
        nn.init.zeros_(self.head.weight)  # before training every option is equally likely

    def forward(self, features: Features) -> Tensor:
        trunk = features.trunk if self.hidden is None else self.hidden(features.trunk).relu()
        return self.head(trunk)

    @property
    def madds(self) -> int:
        """Multiply-adds for one image."""
        return self.head.weight.numel() + (0 if self.hidden is None else self.hidden.weight.numel())


def decide(logits: Tensor) -> Tensor:
    """(B, K) to (B,): the option of the largest logit. No noise: routing at evaluation depends on the image alone."""
    return logits.argmax(dim=1)


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
    soft = F.softmax((logits + noise) / temperature, dim=1)
    hard = F.one_hot(soft.argmax(dim=1), logits.shape[1]).to(soft.dtype)
    return hard + soft - soft.detach()
