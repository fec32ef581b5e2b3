"""Networks with exits: how they run, and the operating point of thresholds on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from baselines.exit_thresholds import Measure, confidence
from bench.data.dataset import Split
from bench.evaluation.accuracy import BATCH
from bench.points import OperatingPoint
from bench.slicing.dynamic import Prediction
from bench.slicing.extract import folded, parameters_of
from bench.slicing.groups import take, together
from bench.slicing.parts import Part
from bench.slicing.supernet import to_channels_last


class ExitNetwork(nn.Module):
    """Parts of a network with a classifier behind each; the last classifier is the network's own."""

    def __init__(self, parts: Iterable[nn.Module], heads: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts, self.heads = nn.ModuleList(parts), nn.ModuleList(heads)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The logits (B, classes) of every classifier."""
        outputs = []
        for part, head in zip(self.parts, self.heads, strict=True):
            x = part(x)
            outputs.append(head(x))
        return outputs

    def until(self, exit: int) -> ExitNetwork:
        """The network that an image runs which leaves at `exit`, the classifiers on its way included."""
        return ExitNetwork(list(self.parts)[: exit + 1], list(self.heads)[: exit + 1])


class Exits(nn.Module):
    """Runs a batch, grouped: behind each part only the images that are not yet confident go on.

    Args:
        thresholds: confidence from which on an image leaves at each exit but the last.
        measure: of confidence, from logits.
        blind: from images to the exit that each takes, if that is not where the network is confident (controls).
    """

    def __init__(
        self,
        network: ExitNetwork,
        thresholds: Sequence[float],
        measure: Measure = confidence,
        blind: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.thresholds = network, (*thresholds, -math.inf)
        self.measure, self.blind = measure, blind

    def predict(self, x: Tensor) -> Prediction:
        exits = None if self.blind is None else self.blind(x)
        rows = torch.arange(len(x), device=x.device)
        route = torch.empty(len(x), 1, dtype=torch.int64, device=x.device)
        outputs, leaving = [], []
        for index, (part, head) in enumerate(zip(self.network.parts, self.network.heads, strict=True)):
            x = part(x)
            logits = head(x)
            leaves = self.measure(logits) >= self.thresholds[index] if exits is None else exits[rows] <= index
            outputs.append(logits[leaves])
            leaving.append(rows[leaves])
            route[leaving[-1]] = index
            staying = leaves.logical_not().nonzero().flatten()
            if not len(staying):
                break
            rows, x = take(rows, staying), take(x, staying)
        return Prediction(together(outputs, leaving), route)

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(x).output


class ExitPart(nn.Module):
    """A part with the classifier behind it: what arrives to the logits, the activation and whether an image goes on."""

    def __init__(self, layers: nn.Module, head: nn.Module, threshold: float, measure: Measure) -> None:
        super().__init__()
        self.layers, self.head, self.threshold, self.measure = layers, head, threshold, measure

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.layers(x)
        logits = self.head(x)
        return logits, x, (self.measure(logits) < self.threshold).long()


def exit_parts(network: ExitNetwork, exits: Exits, numbers: Sequence[int]) -> list[Part]:
    """The parts of a network with exits, to be written to one file. The last one decides nothing.

    Args:
        exits: it as it is run. numbers: what a decision for each exit is called.
    """
    parts = []
    pieces = list(zip(network.parts, network.heads, exits.thresholds, strict=True))
    for index, (layers, head, threshold) in enumerate(pieces[:-1]):
        gives, following = ("output", "activation", "decision"), (None, f"part{index + 1}")
        exit = ExitPart(layers, head, threshold, exits.measure)
        parts.append(Part(f"part{index}", exit, gives, following, 0, (numbers[index], numbers[index + 1])))
    return [*parts, Part(f"part{len(parts)}", nn.Sequential(*pieces[-1][:2]), ("output",), (None,))]


class ExitPoint(OperatingPoint):
    """A network with exits at given thresholds. The decision of an image is the number of its exit.

    Args:
        network: the plain network. forms: it in the forms in which it can run; the first makes the predictions.
        costs, params: claimed multiply-adds and active parameters of an image that leaves at each exit.
        stored: parameters that must be kept.
        numbers: what a decision for each exit is called in routes, ascending; the exits counted from 0 where None.
    """

    kind = "dynamic"
    decides = "exit"

    def __init__(
        self,
        name: str,
        network: ExitNetwork,
        forms: Mapping[str, Exits],
        costs: Sequence[int],
        params: Sequence[int],
        stored: int,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self.name, self.network, self.forms = name, network.eval(), forms
        self.exits = next(iter(forms.values()))
        self.numbers = torch.tensor(numbers or range(len(costs)))
        self.routing_space = (self.numbers.tolist(),)
        self.costs, self.params, self.stored = torch.tensor(costs), torch.tensor(params), stored

    def __call__(self, x: Tensor) -> Prediction:
        output, exits = self.exits.predict(x)
        return Prediction(output, self.numbers.to(exits.device)[exits])

    def places(self, route: Tensor) -> Tensor:
        """Routes (B, 1) to the exits (B,) that they stand for, counted from 0."""
        return torch.searchsorted(self.numbers, route[:, 0].cpu())

    def madds(self, route: Tensor) -> Tensor:
        return self.costs[self.places(route)]

    def params_active(self, route: Tensor) -> Tensor:
        return self.params[self.places(route)]

    @property
    def params_stored(self) -> int:
        return self.stored

    def parts(self) -> list[Part]:
        return exit_parts(self.network, self.exits, self.numbers.tolist())

    @torch.no_grad()
    def margins(self, x: Tensor) -> Tensor:
        pairs = zip(self.network(x)[:-1], self.exits.thresholds, strict=False)
        return torch.stack([(self.exits.measure(logits) - threshold).abs() for logits, threshold in pairs]).amin(0)

    def executables(self) -> dict[str, nn.Module]:
        return dict(self.forms)

    def subnetworks(self, routes: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], nn.Module]:
        return {route: self.network.until(self.numbers.tolist().index(route[0])) for route in routes}


def exit_point(name: str, network: ExitNetwork, thresholds: Sequence[float], costs: Sequence[int]) -> ExitPoint:
    """A trained network with exits, served with batch norm folded."""
    params = [parameters_of(network.until(exit)) for exit in range(len(costs))]
    forms = {"extracted": Exits(served(network), thresholds)}
    return ExitPoint(name, network, forms, costs, params, parameters_of(network))


def served(network: ExitNetwork) -> ExitNetwork:
    """A copy as it is run: batch norm folded, channels last."""
    return to_channels_last(folded(network))


@torch.no_grad()
def confidences(network: ExitNetwork, split: Split, device: torch.device, measure: Measure = confidence) -> Tensor:
    """(n, exits): how confident every exit but the last is of each image of a split."""
    batches = (network(batch.x)[:-1] for batch in split.batches(BATCH, device=device))
    return torch.cat([torch.stack([measure(logits) for logits in outputs], 1) for outputs in batches]).cpu()
