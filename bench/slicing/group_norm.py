"""Group norm with a fixed number of channels a group, which divides every width, so no statistics are kept.

A group sees the same channels at every width that holds it, so a slice normalises exactly as the same channels of a
wider one do. It takes the place of batch norm where several gates reach more sub-networks than statistics can be kept
for (DESIGN 2; METHODS 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.slicing import ops
from bench.slicing.ops import Width


class SlicedGroupNorm(nn.Module):
    """Group norm over the channels that arrive.

    Args:
        channels: the largest width.
        group: channels of each group.
        widths: the widths that may arrive. Raises `UserError` for one that `group` does not divide.
    """

    def __init__(self, channels: int, group: int, widths: Iterable[int] = (), eps: float = 1e-5) -> None:
        super().__init__()
        for width in (channels, *widths):
            if width % group:
                raise UserError(f"group norm with {group} channels a group cannot run {width} channels")
        self.group, self.eps = group, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, width: Width) -> Tensor:
        """(B, C, H, W) to the same; channels outside a soft width come out zero."""
        count = x.shape[1]
        weight, bias = ops.rows(self.weight, count), ops.rows(self.bias, count)
        return ops.masked(F.group_norm(x, count // self.group, weight, bias, self.eps), width)

    def extract(self, width: int) -> nn.GroupNorm:
        plain = nn.GroupNorm(width // self.group, width, self.eps, device=self.weight.device)
        with torch.no_grad():
            plain.weight.copy_(self.weight[:width])
            plain.bias.copy_(self.bias[:width])
        return plain.train(self.training)
