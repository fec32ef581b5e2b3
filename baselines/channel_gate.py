"""`channel_gate`: for each image and convolution, the channel groups that a saliency predictor ranks highest.

After FBS (Gao et al. 2019): a linear layer on the pooled input of a convolution predicts a saliency, the k highest win,
the others are suppressed to zero, and the winners are scaled by their saliency, by which the predictor learns. Ours:
whole groups of channels instead of single ones; the predictor reads its input centred over images; the saliency is
twice a sigmoid, without a penalty, behind the norm instead of in place of its scale; a plain network is trained first,
and each density starts from it. Gated are the first two convolutions of a bottleneck and the point-wise convolutions of
MobileNets.

Executed: images that agree on the selection of a convolution run together with its filters alone. Its input stays
dense, for images of such a group disagree on the channels in front of it. Theoretical (what papers report): products
with suppressed input channels are left out as well. Either count is the same for every image, since all keep k groups.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from baselines.channel_selection import GatedConv, GatedNetwork, masked
from baselines.staged import Staged, require_pairs, staged
from bench.core.errors import UserError
from bench.core.ranges import Fractions, FromZero, Positive
from bench.core.spec import RunSpec
from bench.data.dataset import Batch
from bench.methods import Method, Run, build_model, fresh_model, reseed, train_network
from bench.points import OperatingPoint
from bench.profilers.madds import executed_by, executed_madds
from bench.slicing.dynamic import Prediction
from bench.slicing.extract import folded, parameters_of
from bench.slicing.supernet import Supernet, to_channels_last


@dataclass(frozen=True)
class ChannelGateOptions:
    """
    Attributes:
        groups: of the channels of each gated convolution.
        densities: fractions of the groups that an image keeps, one operating point each.
        gate_epochs, gate_lr: of training network and predictors together, from the plain network, for each density.
    """

    groups: Annotated[int, Ge(2), Le(16)] = 4
    densities: Fractions = (0.75, 0.5)
    gate_epochs: FromZero = 10
    gate_lr: Positive = 0.05

    def __post_init__(self) -> None:
        for density in self.densities:
            if not float(density * self.groups).is_integer():
                raise UserError(f"densities are fractions of {self.groups} groups, not {density}")

    def kept(self, density: float) -> int:
        return round(density * self.groups)


class Runner(nn.Module):
    """Runs a batch, at each gated convolution grouped by selection."""

    def __init__(self, network: GatedNetwork) -> None:
        super().__init__()
        self.network = network

    def predict(self, x: Tensor) -> Prediction:
        selections: list[Tensor] = []

        def run(step: nn.Module, x: Tensor) -> Tensor:
            if not isinstance(step, GatedConv):
                return step(x)
            scores = step.scores(x)
            selections.append(step.selection(scores))
            return step.grouped(x, scores, selections[-1])

        output = self.network(x, run)
        return Prediction(output, torch.stack(selections, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(x).output


class Fixed(nn.Module):
    """The plain network of one route: every gated convolution has the filters of one selection."""

    def __init__(self, network: GatedNetwork, route: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.route = network, route

    def forward(self, x: Tensor) -> Tensor:
        selections = iter(self.route)

        def run(step: nn.Module, x: Tensor) -> Tensor:
            if not isinstance(step, GatedConv):
                return step(x)
            return step.selected(x, step.scores(x), next(selections))

        return self.network(x, run)


def suppressed_products(steps: Iterable[tuple[int, float]]) -> int:
    """Multiply-adds of an image with input channels that were suppressed, so are zero.

    Args:
        steps: in order, multiply-adds and the share of its output channels that are not zero. Suppressed channels
            are zero for the next step that multiplies anything, and for no other.
    """
    saved, arriving = 0, 1.0
    for madds, leaving in steps:
        if madds:
            saved += round(madds * (1 - arriving))
            arriving = leaving
    return saved


@torch.no_grad()
def counted_steps(network: GatedNetwork, image: Tensor) -> list[tuple[int, float]]:
    """The steps of a network (shortcuts and predictors are none), as `suppressed_products` takes them."""
    steps: list[tuple[int, float]] = []

    def run(step: nn.Module, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        if isinstance(step, GatedConv):
            scores = step.scores(x)
            madds = executed_by(lambda: outputs.append(step.selected(x, scores, 0)))
            steps.append((madds, step.kept / step.groups))
        else:
            madds = executed_by(lambda: outputs.append(step(x)))
            steps.append((madds, 1.0))
        return outputs[0]

    network(image, run)
    return steps


class ChannelPoint(OperatingPoint):
    """A network with trained predictors. The decisions of an image are, for each gated convolution, its selection.

    Args:
        image: (1, C, H, W), an image of the size that multiply-adds are counted for.
    """

    kind = "dynamic"
    decides = "gate"

    def __init__(self, name: str, network: GatedNetwork, image: Tensor) -> None:
        self.name, self.network = name, network.eval()
        self.runner = Runner(to_channels_last(folded(network)))
        self.executed = executed_madds(self.runner, image)
        self.theoretical = self.executed - suppressed_products(counted_steps(self.runner.network, image))
        self.active = parameters_of(network) - sum(conv.idle_parameters for conv in network.gated)

    def __call__(self, x: Tensor) -> Prediction:
        return self.runner.predict(x)

    def madds(self, route: Tensor) -> Tensor:
        return torch.full((len(route),), self.executed, dtype=torch.int64)

    def madds_theoretical(self, route: Tensor) -> Tensor:
        return torch.full((len(route),), self.theoretical, dtype=torch.int64)

    def params_active(self, route: Tensor) -> Tensor:
        return torch.full((len(route),), self.active, dtype=torch.int64)

    @property
    def params_stored(self) -> int:
        return parameters_of(self.network)

    def executables(self) -> dict[str, nn.Module]:
        return {"extracted": self.runner}

    def subnetworks(self, routes: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], nn.Module]:
        return {route: Fixed(self.runner.network, route) for route in routes}


class ChannelGate(Method):
    """A plain network, then for each density a copy of it trained together with its saliency predictors."""

    name = "channel_gate"
    kind = "dynamic"
    paper = "Gao et al. 2019, arXiv 1810.05331"
    trains = ("dynamic slimmable", "dynamic weight slicing", "universally slimmable")
    families = ("mobilenet", "resnet")
    Options = ChannelGateOptions

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        options: ChannelGateOptions = self.options(spec)
        GatedNetwork(staged(net), options.groups, 1)
        require_pairs(self.name, spec.train.batch_size, options.gate_epochs)

    def train(self, run: Run) -> None:
        options: ChannelGateOptions = run.options
        base = staged(build_model(run))
        train_network("base", base, run)
        together = replace(
            run.spec.train, epochs=options.gate_epochs, lr=options.gate_lr, warmup_epochs=0.0, warmup_steps=None
        )
        for density in options.densities:
            network = gated(base, density, run)

            def loss(batch: Batch, index: int, network: GatedNetwork = network) -> Tensor:
                return run.loss(network(batch.x, masked), batch)

            train_network(f"density{density:g}", network, run, loss, together)

    def points(self, run: Run) -> list[OperatingPoint]:
        base, points = staged(fresh_model(run)), []
        image = run.example
        for density in run.options.densities:
            name, network = f"density{density:g}", gated(base, density, run)
            run.restore(name, {"network": network})
            points.append(ChannelPoint(name, network, image))
        return points


def gated(base: Staged, density: float, run: Run) -> GatedNetwork:
    """A copy of a plain network with saliency predictors that start at random."""
    reseed(run.spec, "predictors", density)
    options: ChannelGateOptions = run.options
    return GatedNetwork(copy.deepcopy(base), options.groups, options.kept(density)).to(run.device)
