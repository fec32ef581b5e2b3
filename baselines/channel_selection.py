"""A convolution whose output channel groups are selected for each image, and networks of such convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.staged import Staged, pooled
from bench.core.errors import UserError
from bench.models.resnet.units import PlainResidual
from bench.slicing.groups import split, take, together
from bench.slicing.ops import drop_path

Run = Callable[[nn.Module, Tensor], Tensor]
"""How each step of a network is run; that of a `GatedConv` needs to be said."""


class GatedConv(nn.Module):
    """A convolution and its norm, of whose `groups` groups of output channels an image keeps `kept`.

    A selection is a number: the place of its groups among all combinations, in lexicographic order.
    """

    bits: Tensor
    places: Tensor  # (2^groups,), from the sum of the bits of its groups to the selection

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, groups: int, kept: int) -> None:
        super().__init__()
        channels = conv.out_channels
        if channels % groups or (isinstance(norm, nn.GroupNorm) and norm.num_groups % groups):
            raise UserError(f"{groups} groups do not divide a convolution of {channels} channels and its norm")
        self.groups, self.kept, self.size = groups, kept, channels // groups
        self.layers = nn.Sequential(conv, norm)
        self.centre = nn.BatchNorm1d(conv.in_channels, affine=False)  # over images: what they share ranks no group
        self.predictor = nn.Linear(conv.in_channels, groups)
        nn.init.zeros_(self.predictor.weight)  # one selection for all images, which the trained filters can adapt to
        self.combinations = list(combinations(range(groups), kept))
        bits = torch.tensor([1 << group for group in range(groups)])
        places = torch.zeros(1 << groups, dtype=torch.int64)
        for place, chosen in enumerate(self.combinations):
            places[bits[list(chosen)].sum()] = place
        self.register_buffer("bits", bits, persistent=False)
        self.register_buffer("places", places, persistent=False)

    @property
    def idle_parameters(self) -> int:
        """Parameters of the filters that an image does not use."""
        return sum(p.numel() for p in self.layers.parameters()) * (self.groups - self.kept) // self.groups

    def scores(self, x: Tensor) -> Tensor:
        """(B, I, H, W) to (B, groups): what groups are ranked by."""
        return self.predictor(self.centre(pooled(x)))

    def chosen(self, scores: Tensor) -> Tensor:
        """(B, groups): one for the `kept` highest scores of each image, zero for the others."""
        return torch.zeros_like(scores).scatter(1, scores.topk(self.kept, dim=1).indices, 1.0)

    def selection(self, scores: Tensor) -> Tensor:
        """(B, groups) to the selection of each image, int64 (B,)."""
        return self.places[(self.chosen(scores).long() * self.bits).sum(1)]

    def masked(self, x: Tensor) -> Tensor:
        """Training: all channels computed, those not chosen zeroed, the others scaled by their saliency."""
        scores = self.scores(x)
        return self.layers(x) * self._by_channel(self.chosen(scores) * saliency(scores))

    def selected(self, x: Tensor, scores: Tensor, selection: int) -> Tensor:
        """Only the filters of one selection, for all images; the other channels of the output are zero.

        Batch norm must have been folded into the convolution.
        """
        groups = torch.tensor(self.combinations[selection], device=x.device)
        channels = (groups[:, None] * self.size + torch.arange(self.size, device=x.device)).flatten()
        y = self._filtered(x, channels)
        y = y * self._by_channel(saliency(scores)[:, groups])
        whole = y[:, :1].expand(-1, self.groups * self.size, -1, -1)
        return torch.zeros_like(whole, memory_format=torch.channels_last).index_copy(1, channels, y)

    def _by_channel(self, factors: Tensor) -> Tensor:
        """(B, groups) to (B, channels, 1, 1)."""
        return factors[:, :, None].expand(-1, -1, self.size).flatten(1)[:, :, None, None]

    def _filtered(self, x: Tensor, channels: Tensor) -> Tensor:
        conv, norm = self.layers
        assert isinstance(conv, nn.Conv2d)
        bias = None if conv.bias is None else conv.bias[channels]
        y = F.conv2d(x, conv.weight[channels], bias, conv.stride, conv.padding)
        if not isinstance(norm, nn.GroupNorm):
            return y
        groups = norm.num_groups * self.kept // self.groups
        return F.group_norm(y, groups, norm.weight[channels], norm.bias[channels], norm.eps)

    def grouped(self, x: Tensor, scores: Tensor, selection: Tensor) -> Tensor:
        """Each image with the filters of its own selection (B,); images of equal selection run together."""
        groups = split(selection)
        parts = [self.selected(take(x, rows), take(scores, rows), number) for number, rows in groups]
        return together(parts, [rows for _, rows in groups])


def saliency(scores: Tensor) -> Tensor:
    """The factor of a group's channels, between 0 and 2; 1 for a score of zero."""
    return 2 * scores.sigmoid()


def masked(step: nn.Module, x: Tensor) -> Tensor:
    """A step as it is trained."""
    return step.masked(x) if isinstance(step, GatedConv) else step(x)


class GatedBlock(nn.Module):
    """Steps that run one after the other, and for a residual block what is added to them."""

    def __init__(self, steps: Iterable[nn.Module], shortcut: nn.Module | None, drop_path: float = 0.0) -> None:
        super().__init__()
        self.steps, self.shortcut, self.drop_path = nn.Sequential(*steps), shortcut, drop_path

    def forward(self, x: Tensor, run: Run) -> Tensor:
        y = x
        for step in self.steps:
            y = run(step, y)
        if self.shortcut is None:
            return y
        return (drop_path(y, self.drop_path, self.training) + self.shortcut(x)).relu_()


class GatedNetwork(nn.Module):
    """A network in which every convolution of a block that an activation follows is gated, depth-wise ones excepted.

    `network(x, run)`: (B, C, H, W) to (B, classes), each step run by `run`.
    """

    def __init__(self, network: Staged, groups: int, kept: int) -> None:
        super().__init__()
        self.stem, self.head = network.stem, network.head
        self.blocks = nn.ModuleList([gated_block(block, groups, kept) for block in network.blocks])

    @property
    def gated(self) -> list[GatedConv]:
        return [module for module in self.modules() if isinstance(module, GatedConv)]

    def forward(self, x: Tensor, run: Run) -> Tensor:
        x = run(self.stem, x)
        for block in self.blocks:
            x = block(x, run)
        return run(self.head, x)


def gated_block(block: nn.Module, groups: int, kept: int) -> GatedBlock:
    """The same block, same weights, with its convolutions gated."""
    is_residual = isinstance(block, PlainResidual)
    layers = leaves(block.branch if is_residual else block)
    steps: list[nn.Module] = []
    for place, layer in enumerate(layers):
        if place and isinstance(steps[-1], GatedConv) and steps[-1].layers[1] is layer:
            continue  # the norm of the convolution in front of it
        is_gated = isinstance(layer, nn.Conv2d) and layer.groups == 1 and place + 2 < len(layers)
        steps.append(GatedConv(layer, layers[place + 1], groups, kept) if is_gated else layer)  # type: ignore[arg-type]
    return GatedBlock(steps, block.shortcut, block.drop_path) if is_residual else GatedBlock(steps, None)


def leaves(module: nn.Module) -> list[nn.Module]:
    """The modules inside nested `nn.Sequential`s, in order."""
    if type(module) is not nn.Sequential:
        return [module]
    return [leaf for child in module for leaf in leaves(child)]
