"""`slice_cascade`: the slimmest slice answers first; images that it is not sure of run a wider one, on the same front.

A cascade inside one supernet: what its sub-networks have in front of the first decision is run once, and a second
opinion then costs the slim suffix alone. Nothing is trained, so it works on the checkpoint of any supernet. This method
is the suite's own.

Every suffix that ran is paid for. Where the sub-networks of a chain differ from the first layer on, nothing is shared,
and the networks are paid whole: `front_madds` of a point says how much is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines.exit_thresholds import MEASURES, thresholds_for
from baselines.exits import ExitNetwork, ExitPoint, Exits, confidences, served
from baselines.staged import require_classes
from bench.core.errors import UserError
from bench.core.ranges import Fractions
from bench.core.spec import RunSpec
from bench.data.dataset import Dataset, Split
from bench.methods import Method, Run, method_of, trained_supernet
from bench.models.preset import SUPERNETS
from bench.points import OperatingPoint
from bench.slicing.choice import Choice
from bench.slicing.extract import extract_part, parameters_of, parameters_used
from bench.slicing.supernet import Supernet, View
from bench.training.budget import Span, check_budgets, spendable


class Chain:
    """Sub-networks of a supernet, slimmest first, and what they have in common.

    As networks with exits: the first part is the shared front, the parts behind it are empty, and the suffixes are the
    heads.

    Args:
        choices: the sub-networks, slimmest first, by the numbers that routes name them by.

    Attributes:
        costs: multiply-adds of an image that stops at each sub-network: the front and all suffixes up to there.
        span: multiply-adds of the first and of the last sub-network by themselves.
        front_madds: of the front; 0 where the sub-networks share no layer.
    """

    def __init__(self, net: Supernet, choices: Mapping[int, Choice], image_size: int) -> None:
        self.net, self.numbers, self.choices = net.eval(), list(choices), list(choices.values())
        first, front = self.choices[0], net.space.shared_segments(self.choices)
        madds = [[cost.madds for cost in net.segment_costs(choice, image_size)] for choice in self.choices]
        self.front_madds = sum(madds[0][:front])
        self.costs = list(accumulate((sum(segments[front:]) for segments in madds), initial=self.front_madds))[1:]
        self.span = Span(self.costs[0], sum(madds[-1]))
        empty = [nn.Identity() for _ in self.choices[1:]]
        views = [View(net, choice, front) for choice in self.choices]
        self.view = ExitNetwork([View(net, first, 0, front), *empty], views)
        plain = [extract_part(net, choice, front) for choice in self.choices]
        self.plain = ExitNetwork([extract_part(net, first, 0, front), *empty], plain)


class CascadePoint(ExitPoint):
    """A chain at thresholds of confidence, one for each sub-network but the last. The decision of an image is the
    number of the sub-network at which it stopped.

    Args:
        measure: of confidence, by its name in `MEASURES`.
        blind: from images to the place in the chain at which each stops, if that is not where the chain is sure of it.
    """

    decides = "cascade"

    def __init__(
        self,
        name: str,
        chain: Chain,
        thresholds: Sequence[float],
        measure: str = "probability",
        blind: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.chain, self.thresholds, self.measure = chain, thresholds, measure
        places = range(1, len(chain.choices) + 1)
        params = [parameters_used(chain.net, chain.choices[:place]) for place in places]
        exits = partial(Exits, thresholds=thresholds, measure=MEASURES[measure], blind=blind)
        forms = {"view": exits(chain.view), "extracted": exits(served(chain.plain))}
        super().__init__(name, chain.plain, forms, chain.costs, params, parameters_of(chain.net), chain.numbers)
        self.front_madds = chain.front_madds


@torch.no_grad()
def fitted_thresholds(
    chain: Chain, budgets: Iterable[float], split: Split, device: torch.device, measure: str
) -> list[list[float]]:
    """The thresholds of each budget, a fraction of what the last sub-network costs by itself: images of a split cost at
    most as much on average (`thresholds_for`).

    Args:
        split: the validation split. measure: of confidence, by its name in `MEASURES`.
    """
    sure = confidences(chain.view, split, device, MEASURES[measure])
    return [thresholds_for(sure, chain.costs, budget * chain.span.costliest) for budget in budgets]


@dataclass(frozen=True)
class SliceCascadeOptions:
    """
    Attributes:
        chains: lists of two or three sub-networks, as numbers in the list of those that the parent's supernet is ready
            to run as, slimmest first. Empty: one chain, of the slimmest and the widest.
        budgets: wanted mean multiply-adds as fractions of what the last sub-network of a chain costs by itself; one
            operating point for each chain that can spend it.
        measure: how sure a network is of an image: its largest probability, or the entropy of all.
    """

    chains: tuple[tuple[int, ...], ...] = ()
    budgets: Fractions = (0.75, 0.5)
    measure: Literal["probability", "entropy"] = "probability"

    def __post_init__(self) -> None:
        for chain in self.chains:
            if not 2 <= len(chain) <= 3 or list(chain) != sorted(set(chain)):
                raise UserError(f"chain {list(chain)} must list two or three sub-networks, each once, slimmest first")
        if len(set(self.chains)) < len(self.chains):
            raise UserError(f"chains must name each chain once, not {[list(chain) for chain in self.chains]}")


class SliceCascade(Method):
    """Cascades on the checkpoint of another run; only thresholds are fitted, on the validation split."""

    name = "slice_cascade"
    kind = "dynamic"
    paper = "this suite's own"
    needs_parent = True
    trains = SUPERNETS
    Options = SliceCascadeOptions

    def check_start(self, parent: RunSpec) -> None:
        if method_of(parent.method).leaves != "supernet":
            raise UserError(
                f"{parent.run_id} is a run of {parent.method}, which leaves no supernet to make a cascade of"
            )

    def check_on(self, spec: RunSpec, parent: RunSpec, net: Supernet, image_size: int) -> None:
        options: SliceCascadeOptions = self.options(spec)
        chains = chains_of(options, net, ready(parent, net), image_size)
        check_budgets(options.budgets, [chain.span for chain in chains.values()])

    def check_data(self, spec: RunSpec, data: Dataset) -> None:
        require_classes(self.name, data)

    def train(self, run: Run) -> None:
        options: SliceCascadeOptions = run.options

        def thresholds() -> tuple[dict[str, Tensor], dict[str, Any]]:
            fitted = {}
            for name, chain in chains_on(run).items():
                budgets = spendable(options.budgets, chain.span)
                rows = fitted_thresholds(chain, budgets, run.data.validation, run.device, options.measure)
                fitted[name] = torch.tensor(rows, dtype=torch.float64).reshape(len(budgets), -1)
            return fitted, {}

        run.once("thresholds", thresholds)

    def points(self, run: Run) -> list[OperatingPoint]:
        options: SliceCascadeOptions = run.options
        thresholds, _ = run.read("thresholds")
        return [
            CascadePoint(f"{name}-budget{budget:g}", chain, row, options.measure)
            for name, chain in chains_on(run).items()
            for budget, row in zip(spendable(options.budgets, chain.span), thresholds[name].tolist(), strict=True)
        ]


def ready(parent: RunSpec, net: Supernet) -> list[Choice]:
    """The sub-networks that a parent's supernet is ready to run as, slimmest first."""
    return method_of(parent.method).subnetworks(parent, net)


def sliced(run: Run) -> tuple[Supernet, list[Choice]]:
    """The supernet that a run of cascades works on, and the sub-networks that it is ready to run as."""
    assert run.parent is not None  # `completed` refuses a cascade without a parent
    net = trained_supernet(run.parent)
    return net, ready(run.parent.spec, net)


def chains_on(run: Run) -> dict[str, Chain]:
    """The chains of a run on its parent's supernet, by name."""
    return chains_of(run.options, *sliced(run), run.data.image_size)


def chains_of(
    options: SliceCascadeOptions, net: Supernet, choices: Sequence[Choice], image_size: int
) -> dict[str, Chain]:
    """The chains that options name, by name. Raises `UserError` for a sub-network that there is none of."""
    if len(choices) < 2:
        raise UserError(
            f"a cascade needs two sub-networks, and the parent's supernet is ready to run as {len(choices)}"
        )
    chains = {}
    for numbers in options.chains or ((0, len(choices) - 1),):
        if not 0 <= numbers[0] <= numbers[-1] < len(choices):
            raise UserError(f"chain {list(numbers)} names a sub-network that is none of 0 to {len(choices) - 1}")
        name = "cascade" + "-".join(map(str, numbers))
        chains[name] = Chain(net, {number: choices[number] for number in numbers}, image_size)
    return chains
