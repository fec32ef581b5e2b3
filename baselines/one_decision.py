"""Networks that decide once for each image how to go on, and the operating points of a threshold on that decision.

What all images need is run for the whole batch. Then images that go on alike run together: work that an image does not
need is never done for it. One threshold trades cost for accuracy; that of a budget is found on the validation split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.data.dataset import Split
from bench.evaluation.accuracy import BATCH
from bench.points import OperatingPoint
from bench.slicing.dynamic import Prediction
from bench.slicing.groups import split, take, together
from bench.training.run import Run

State = tuple[Tensor, ...]
"""What is known of each image when the decision is taken: tensors (B, ...)."""


class OneDecision(nn.Module):
    """A network with K ways to go on, cheapest first. An image takes the first that it may be sure enough of.

    decides: what the ways are, in a word (`OperatingPoint.decides`).
    """

    decides: str

    def begin(self, x: Tensor) -> tuple[State, Tensor]:
        """What every image runs: (B, C, H, W) to the state and the confidence (B, K - 1) in each option but the last,
        which never falls from an option to the next."""
        raise TypeError(f"{type(self).__name__} does not say how it begins")

    def finish(self, state: State, option: int) -> Tensor:
        """What images that take one option run on: their state to outputs (B, ...)."""
        raise TypeError(f"{type(self).__name__} does not say how it goes on")

    def forward(self, x: Tensor, option: int) -> Tensor:
        """All images by one option, whatever the confidence."""
        return self.finish(self.begin(x)[0], option)


def options_of(confidence: Tensor, threshold: float) -> Tensor:
    """(B, K - 1) to (B,): the first option whose confidence is above the threshold, else the last."""
    return (confidence <= threshold).sum(1)


def run_by_option(network: OneDecision, threshold: float, x: Tensor) -> Prediction:
    """Run a batch; behind the decision each option runs for its own images only."""
    state, confidence = network.begin(x)
    option = options_of(confidence, threshold)
    groups = split(option)
    parts = [network.finish(tuple(take(part, rows) for part in state), chosen) for chosen, rows in groups]
    return Prediction(together(parts, [rows for _, rows in groups]), option[:, None])


class Deciding(nn.Module):
    """A network under a threshold, as a module from images to outputs."""

    def __init__(self, network: OneDecision, threshold: float) -> None:
        super().__init__()
        self.network, self.threshold = network, threshold

    def forward(self, x: Tensor) -> Tensor:
        return run_by_option(self.network, self.threshold, x).output


class Pinned(nn.Module):
    """A network on one option, as a plain module without a decision; images to outputs and confidences, so that a
    tracer sees what an image pays to be judged, too."""

    def __init__(self, network: OneDecision, option: int) -> None:
        super().__init__()
        self.network, self.option = network, option

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state, confidence = self.network.begin(x)
        return self.network.finish(state, self.option), confidence


class OneDecisionPoint(OperatingPoint):
    """A network that decides under a threshold.

    Args:
        forms: the same network in the forms in which it can run; the first makes the predictions, and the plain
            networks are made of the form `extracted`.
        costs, params: claimed multiply-adds and active parameters of an image, by option.
    """

    kind = "dynamic"

    def __init__(
        self,
        name: str,
        forms: Mapping[str, OneDecision],
        threshold: float,
        costs: Sequence[int],
        params: Sequence[int],
    ) -> None:
        self.name = name
        self.threshold = threshold
        self.forms = {form: network.eval() for form, network in forms.items()}
        self.costs, self.params = torch.tensor(costs), torch.tensor(params)
        self.routing_space = (tuple(range(len(costs))),)
        self.decides = next(iter(self.forms.values())).decides

    def __call__(self, x: Tensor) -> Prediction:
        return run_by_option(next(iter(self.forms.values())), self.threshold, x)

    def madds(self, route: Tensor) -> Tensor:
        return self.costs[route[:, 0].cpu()]

    def params_active(self, route: Tensor) -> Tensor:
        return self.params[route[:, 0].cpu()]

    @property
    def params_stored(self) -> int:
        return int(self.params[-1])

    def executables(self) -> dict[str, nn.Module]:
        return {form: Deciding(network, self.threshold) for form, network in self.forms.items()}

    def subnetworks(self, routes: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], nn.Module]:
        return {route: Pinned(self.forms["extracted"], route[0]) for route in routes}


def threshold_for(confidence: Tensor, costs: Sequence[int], budget: float) -> float:
    """The largest threshold at which images cost at most `budget` multiply-adds on average.

    Args:
        confidence: (n, K - 1) of n images; costs: of the K options, never falling.

    Returns:
        A value halfway between two confidences, so that rounding moves no image; an infinite one where all images
        take the first or the last option.
    """
    count = len(confidence)
    values, order = confidence.detach().cpu().double().flatten().sort(stable=True)
    dearer = torch.tensor(costs).diff().repeat(count)[order]  # what it costs to rise past each value
    passed = int((costs[0] * count + dearer.cumsum(0) <= budget * count).sum())
    infinity = values.new_tensor([float("inf")])
    edges = torch.cat((-infinity, values, infinity))
    while passed and edges[passed] == edges[passed + 1]:  # equal values are passed together
        passed -= 1
    return float((edges[passed] + edges[passed + 1]) / 2)


@torch.no_grad()
def confidences(network: OneDecision, split: Split, device: torch.device) -> Tensor:
    """(n, K - 1): the confidence of every image of a split."""
    return torch.cat([network.begin(batch.x)[1] for batch in split.batches(BATCH, device=device)])


def fit_thresholds(network: OneDecision, costs: Sequence[int], full: int, run: Run) -> None:
    """Find the threshold of each budget of the run's options on the validation split, and keep them as the checkpoint
    `thresholds`, so that every process judges the same points.

    Args:
        costs: multiply-adds of an image by option. full: those of the full network, of which budgets are fractions.
    """

    def thresholds() -> tuple[dict[str, Tensor], dict[str, Any]]:
        confidence = confidences(network, run.data.validation, run.device)
        budgets = named_budgets(run.options.budgets)
        values = {name: threshold_for(confidence, costs, budget * full) for name, budget in budgets.items()}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}, {}

    run.once("thresholds", thresholds)


def fitted_thresholds(run: Run) -> dict[str, float]:
    """What `fit_thresholds` kept, by the point's name, in the order of the run's budgets."""
    tensors, _ = run.read("thresholds")
    return {name: float(tensors[name]) for name in named_budgets(run.options.budgets)}


def named_budgets(budgets: Sequence[float]) -> dict[str, float]:
    """Budgets, fractions of the full network's multiply-adds, by the names of their points."""
    return {f"budget{budget:g}": budget for budget in budgets}


def check_budgets(budgets: Iterable[float], cheapest: int, full: int) -> None:
    """Raise `UserError` for a budget below what an image costs at least, `cheapest` of `full` multiply-adds."""
    for budget in budgets:
        if budget * full < cheapest:
            raise UserError(
                f"no image costs as little as budget {budget:g}: the cheapest way through this network takes "
                f"{cheapest / full:.3f} of the full multiply-adds"
            )
