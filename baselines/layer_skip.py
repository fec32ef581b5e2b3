"""`layer_skip`: a gate in front of each residual block decides for each image whether it runs.

After SkipNet (Wang et al. 2018) and ConvNet-AIG (Veit & Belongie 2018): a small network on the pooled input of a block
gives two logits, trained by straight-through Gumbel-softmax with the rest of the network; a target-rate loss
holds the share of images that run each block. At evaluation the larger logit decides, without noise, and a block runs
for the images that take it and for no others. Ours: a plain network is trained first, and each target starts from it;
the form of the gates (`skip_gate`); a block of a transformer is attention and MLP together. Blocks that change the
shape have no identity to skip to and always run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from baselines.staged import Staged, costs_of, pooled, require_pairs, staged
from bench.core.errors import UserError
from bench.core.ranges import Count, FromZero, NotNegative, Positive, Shares
from bench.core.spec import RunSpec
from bench.data.dataset import Batch
from bench.methods import Method, Run, build_model, fresh_model, reseed, train_network
from bench.models.resnet.units import PlainResidual
from bench.models.vit.plain import PlainBlock
from bench.points import OperatingPoint
from bench.slicing.dynamic import Prediction
from bench.slicing.extract import folded, parameters_of
from bench.slicing.gate import decide, gumbel_straight_through
from bench.slicing.supernet import Supernet, to_channels_last
from bench.training.loop import Loss

SKIP, RUN = 0, 1


@dataclass(frozen=True)
class LayerSkipOptions:
    """
    Attributes:
        targets: shares of the images that are to run a block that can be skipped, one operating point each.
        gate_epochs, gate_lr: of training network and gates together, from the plain network, for each target.
        gate_hidden: width of each gate's hidden layer.
        rate_weight: weight of the target-rate loss.
        temperature: of the Gumbel-softmax.
    """

    targets: Shares = (0.75, 0.5)
    gate_epochs: FromZero = 10
    gate_lr: Positive = 0.05
    gate_hidden: Count = 16
    rate_weight: NotNegative = 2.0
    temperature: Positive = 1.0


def is_skippable(block: nn.Module) -> bool:
    """Whether a block is residual with an identity beside it, so that images can go past it."""
    return isinstance(block, PlainBlock) or (isinstance(block, PlainResidual) and len(block.shortcut) == 0)


def skip_gate(width: int, hidden: int, target: float) -> nn.Sequential:
    """Two logits from the pooled input (B, width) of a block.

    Batch norm without parameters stands in front, so that a gate sees in what images differ; it starts by parting them
    at random, about `target` of them to run. Gates that start undecided stay so for long: sampled rates then
    meet the target, and without noise all images decide alike.
    """
    head = nn.Linear(hidden, 2)
    nn.init.normal_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.0, torch.logit(torch.tensor(target), eps=0.01)]))
    return nn.Sequential(nn.BatchNorm1d(width, affine=False), nn.Linear(width, hidden), nn.ReLU(), head)


def rate_loss(runs: Tensor, target: float) -> Tensor:
    """Mean over blocks of (share of the batch that runs the block - target)^2 (Veit & Belongie 2018, eq. 4).

    Args:
        runs: (B, G), one where an image runs a block.
    """
    return (runs.mean(0) - target).square().mean()


class SkipNetwork(nn.Module):
    """A network with a gate in front of each block that can be skipped."""

    def __init__(self, network: Staged, gates: Mapping[str, nn.Module]) -> None:
        """`gates`: by the index of their block."""
        super().__init__()
        self.network, self.gates = network, nn.ModuleDict(dict(gates))

    def logits(self, index: int, x: Tensor) -> Tensor | None:
        """(B, 2) of the gate in front of block `index`; None where there is none."""
        if str(index) not in self.gates:
            return None
        return self.gates[str(index)](pooled(x))

    def sampled(self, x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Training: every block is computed and mixed in by a sampled decision. The output, and (B, G) who ran it."""
        x, runs = self.network.stem(x), []
        for index, block in enumerate(self.network.blocks):
            logits = self.logits(index, x)
            if logits is None:
                x = block(x)
                continue
            runs.append(gumbel_straight_through(logits, temperature)[:, RUN])
            x = x + runs[-1].view(-1, *[1] * (x.dim() - 1)) * (block(x) - x)
        return self.network.head(x), torch.stack(runs, 1)

    def predict(self, x: Tensor) -> Prediction:
        """Evaluation: each block runs for the images whose gate says so."""
        x, route = self.network.stem(x), []
        for index, block in enumerate(self.network.blocks):
            logits = self.logits(index, x)
            if logits is None:
                x = block(x)
                continue
            route.append(decide(logits))
            x = run_for(block, x, (route[-1] == RUN).nonzero().flatten())
        return Prediction(self.network.head(x), torch.stack(route, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(x).output

    def along(self, route: tuple[int, ...]) -> nn.Module:
        """The plain network that an image of this route runs, without gates."""
        taken = dict(zip(self.gates, route, strict=True))
        blocks = [b for index, b in enumerate(self.network.blocks) if taken.get(str(index), RUN) == RUN]
        return nn.Sequential(self.network.stem, *blocks, self.network.head)


def run_for(block: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
    """x (B, ...) in which `block` has replaced the given rows; the block sees no others."""
    if len(rows) in (0, len(x)):
        return block(x) if len(rows) else x
    y = x.clone()
    y[rows] = block(x[rows])
    return y


class SkipPoint(OperatingPoint):
    """A network with trained gates. The decisions of an image are, for each gate, SKIP or RUN.

    Args:
        image: (1, C, H, W), an image of the size that multiply-adds are counted for.
    """

    kind = "dynamic"
    decides = "gate"

    def __init__(self, name: str, network: SkipNetwork, image: Tensor) -> None:
        self.name, self.network = name, network.eval()
        self.routing_space = ((SKIP, RUN),) * len(network.gates)
        self.runner: SkipNetwork = to_channels_last(folded(network))
        pieces = [network.network.stem, *network.network.blocks, network.network.head]
        self._madds = Priced(network.gates, costs_of(pieces, image)[0])
        self._params = Priced(network.gates, [parameters_of(piece) for piece in pieces])

    def __call__(self, x: Tensor) -> Prediction:
        return self.runner.predict(x)

    def overhead(self) -> int:
        layers = [layer for layer in self.network.gates.modules() if isinstance(layer, nn.Linear)]
        return sum(layer.weight.numel() for layer in layers)

    def madds(self, route: Tensor) -> Tensor:
        return self._madds.of(route) + self.overhead()

    def params_active(self, route: Tensor) -> Tensor:
        return self._params.of(route) + parameters_of(self.network.gates)

    @property
    def params_stored(self) -> int:
        return parameters_of(self.network)

    def executables(self) -> dict[str, nn.Module]:
        return {"extracted": self.runner}

    def subnetworks(self, routes: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], nn.Module]:
        return {route: self.network.along(route) for route in routes}


class Priced:
    """What a route costs: what always runs, and each block that is taken.

    Args:
        gated: indices of the blocks that have a gate. prices: of stem, blocks and head.
    """

    def __init__(self, gated: Iterable[str], prices: list[int]) -> None:
        self.blocks = torch.tensor([prices[1 + int(index)] for index in gated])
        self.always = sum(prices) - int(self.blocks.sum())

    def of(self, route: Tensor) -> Tensor:
        """(B, G) to int64 (B,)."""
        return self.always + ((route.cpu() == RUN) * self.blocks).sum(1)


class LayerSkip(Method):
    """A plain network, then for each target a copy of it trained together with its gates."""

    name = "layer_skip"
    kind = "dynamic"
    paper = "Wang et al. 2018, arXiv 1711.09485; Veit & Belongie 2018, arXiv 1711.11503"
    trains = ("dynamic slimmable", "dynamic weight slicing", "universally slimmable")
    families = ("resnet", "vit")
    Options = LayerSkipOptions

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        if not any(map(is_skippable, staged(net).blocks)):
            raise UserError(f"no block of {spec.model} can be skipped: all of them change the shape")
        require_pairs(self.name, spec.train.batch_size, self.options(spec).gate_epochs)

    def train(self, run: Run) -> None:
        options: LayerSkipOptions = run.options
        base = staged(build_model(run))
        widths = arriving(base, run)
        train_network("base", base, run)
        together = replace(
            run.spec.train, epochs=options.gate_epochs, lr=options.gate_lr, warmup_epochs=0.0, warmup_steps=None
        )
        for target in options.targets:
            network = gated(base, widths, target, run)
            train_network(f"rate{target:g}", network, run, skip_loss(network, target, run), together)

    def points(self, run: Run) -> list[OperatingPoint]:
        base, points = staged(fresh_model(run)), []
        widths, image = arriving(base, run), run.example
        for target in run.options.targets:
            name, network = f"rate{target:g}", gated(base, widths, target, run)
            run.restore(name, {"network": network})
            points.append(SkipPoint(name, network, image))
        return points


def arriving(base: Staged, run: Run) -> dict[str, int]:
    """Channels that arrive at each block that can be skipped, by its index."""
    outputs = costs_of([base.stem, *base.blocks], run.example)[1]
    widths = [x.shape[1 if x.dim() == 4 else -1] for x in outputs]
    return {str(i): widths[i] for i, block in enumerate(base.blocks) if is_skippable(block)}


def gated(base: Staged, widths: Mapping[str, int], target: float, run: Run) -> SkipNetwork:
    """A copy of a plain network with gates that start at random, at about the target."""
    reseed(run.spec, "gates", target)
    gates = {index: skip_gate(width, run.options.gate_hidden, target) for index, width in widths.items()}
    return SkipNetwork(copy.deepcopy(base), gates).to(run.device)


def skip_loss(network: SkipNetwork, target: float, run: Run) -> Loss:
    """The labels' loss of sampled decisions plus the weighted target-rate loss."""

    def loss(batch: Batch, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        output, runs = network.sampled(batch.x, run.options.temperature)
        labels, rate = run.loss(output, batch), rate_loss(runs.float(), target)
        return labels + run.options.rate_weight * rate, {"loss": labels, "rate": rate}

    return loss
