"""`early_exit`: a network with classifiers behind some of its blocks; an image leaves at the first that is confident.

After BranchyNet (Teerapittayanon et al. 2016: joint training, thresholds on confidence) and MSDNet (Huang et al. 2018:
confidence is the largest softmax probability, thresholds from a geometric distribution over the exits, chosen on
validation images for a budget). Their architectures are replaced by the suite's presets, so that all methods start from
the same network. Ours: where the exits stand, and their form (`exit_head`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import torch
from annotated_types import Gt, Lt, MinLen
from torch import Tensor, nn

from baselines.exit_thresholds import thresholds_for
from baselines.exits import ExitNetwork, confidences, exit_point, served
from baselines.staged import Staged, costs_of, require_classes, staged
from bench.core.errors import UserError
from bench.core.ranges import NamedOnce, Positive
from bench.core.spec import RunSpec
from bench.data.dataset import Batch
from bench.methods import Method, Run, build_model, fresh_model, reseed, train_network
from bench.points import OperatingPoint
from bench.slicing.supernet import Supernet


@dataclass(frozen=True)
class EarlyExitOptions:
    """
    Attributes:
        exits: fractions of the network's multiply-adds at which a classifier stands, each behind the block that ends
            nearest; fractions that come to one block share it.
        exit_weight: weight of each exit's loss, that of the last classifier being 1.
        budgets: fractions of the full network's multiply-adds (without exits) that the mean over the validation images
            must not exceed, one operating point each.
        maximum: fraction that no image may exceed; null for none. Everything leaves at the last exit within it.
    """

    exits: Annotated[tuple[Annotated[float, Gt(0), Lt(1)], ...], MinLen(1), NamedOnce] = (0.25, 0.5, 0.75)
    exit_weight: Positive = 1.0
    budgets: Annotated[tuple[Positive, ...], MinLen(1), NamedOnce] = (0.75, 0.5)
    maximum: float | None = None


def exit_head(arriving: Tensor, classes: int, channel: int = 1) -> nn.Module:
    """A classifier of an activation: (B, C, H, W) by quarters of the image, tokens (B, N, C) by their mean.

    It is cheap, for every image pays for all exits that it passes.

    channel: the dimension of a map that holds its channels.
    """
    if arriving.dim() == 4 and channel == 3:
        return nn.Sequential(ChannelsFirst(), exit_head(arriving.movedim(3, 1), classes))
    if arriving.dim() == 4:
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * arriving.shape[1], classes))
    return nn.Sequential(nn.LayerNorm(arriving.shape[-1]), MeanToken(), nn.Linear(arriving.shape[-1], classes))


class ChannelsFirst(nn.Module):
    """(B, H, W, C) to (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(3, 1)


class MeanToken(nn.Module):
    """Mean of the tokens: (B, N, C) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def places(costs: Sequence[int], fractions: Sequence[float]) -> list[int]:
    """Numbers of blocks in front of each exit, ascending.

    Args:
        costs: multiply-adds of stem, blocks and head. No exit stands behind the last block, where the head does.
    """
    ends = [sum(costs[: 2 + block]) / sum(costs) for block in range(len(costs) - 3)]  # behind block 0, 1, ...
    if not ends:
        raise UserError("this network has a single block, so there is no place for an exit")
    nearest = [min(range(len(ends)), key=lambda block: abs(ends[block] - fraction)) for fraction in fractions]
    return sorted({block + 1 for block in nearest})


def with_exits(network: Staged, fractions: Sequence[float], x: Tensor) -> ExitNetwork:
    """The network cut at its exits, whose classifiers start at random. `x`: one image."""
    pieces = [network.stem, *network.blocks, network.head]
    costs, outputs = costs_of(pieces, x)
    classes = outputs[-1].shape[-1]
    cuts = places(costs, fractions)
    bounds = [-1, *cuts, len(network.blocks)]
    parts = [nn.Sequential(*pieces[start + 1 : end + 1]) for start, end in pairwise(bounds)]
    return ExitNetwork(parts, [*(exit_head(outputs[cut], classes, network.channel) for cut in cuts), network.head])


def exit_costs(network: ExitNetwork, x: Tensor) -> tuple[list[int], int]:
    """Multiply-adds of an image that leaves at each exit, classifiers on its way included, and of the network without
    exits. `x`: one image."""
    parts, outputs = costs_of(network.parts, x)
    heads = [costs_of([head], output)[0][0] for head, output in zip(network.heads, outputs, strict=True)]
    return [sum(parts[:n]) + sum(heads[:n]) for n in range(1, len(parts) + 1)], sum(parts) + heads[-1]


class EarlyExit(Method):
    """All classifiers are trained at once; thresholds are chosen on the validation split, for each budget."""

    name = "early_exit"
    kind = "dynamic"
    paper = "Teerapittayanon et al. 2016, arXiv 1709.01686; Huang et al. 2018, arXiv 1703.09844"
    Options = EarlyExitOptions

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        options: EarlyExitOptions = self.options(spec)
        image = torch.zeros(1, net.input_channels, image_size, image_size)
        costs, full = exit_costs(with_exits(staged(net), options.exits, image), image)
        limits = options.budgets if options.maximum is None else (*options.budgets, options.maximum)
        least = min(limits)
        if costs[0] > least * full:
            raise UserError(
                f"no image can leave within {least:g} of the full multiply-adds: the first exit costs "
                f"{costs[0] / full:.3f}; raise the budget or move the first of the exits to the front"
            )

    def train(self, run: Run) -> None:
        require_classes(self.name, run.data)
        options: EarlyExitOptions = run.options
        network, image = exit_network(build_model(run), run)
        weights = [options.exit_weight] * (len(network.heads) - 1) + [1.0]

        def loss(batch: Batch, index: int) -> tuple[Tensor, dict[str, Tensor]]:
            losses = [run.loss(output, batch) for output in network(batch.x)]
            total = sum(w * each for w, each in zip(weights, losses, strict=True)) / sum(weights)
            return total, {f"exit{n}": each for n, each in enumerate(losses)}  # type: ignore[return-value]

        def thresholds() -> tuple[dict[str, Tensor], dict[str, Any]]:
            costs, full = exit_costs(network, image)
            seen = confidences(served(network), run.data.validation, run.device)
            limit = math.inf if options.maximum is None else options.maximum * full
            rows = [thresholds_for(seen, costs, budget * full, limit) for budget in options.budgets]
            return {"thresholds": torch.tensor(rows, dtype=torch.float64)}, {}

        train_network("network", network, run, loss)
        run.once("thresholds", thresholds)

    def points(self, run: Run) -> list[OperatingPoint]:
        network, image = exit_network(fresh_model(run), run)
        run.restore("network", {"network": network})
        costs, _ = exit_costs(network.eval(), image)
        rows = run.read("thresholds")[0]["thresholds"].tolist()
        named = zip(run.options.budgets, rows, strict=True)
        return [exit_point(f"budget{budget:g}", network, thresholds, costs) for budget, thresholds in named]


def exit_network(net: Supernet, run: Run) -> tuple[ExitNetwork, Tensor]:
    """The full network with exits that start at random, and one image (1, C, H, W) of the right shape."""
    plain = staged(net)
    reseed(run.spec, "exits")
    return with_exits(plain, run.options.exits, run.example).to(run.device), run.example
