"""Budgets: the offset at which trained gates spend a wanted mean cost.

By argmax alone a gate that finds few images hard sends all of them to the cheapest option, however well it ranks them.
So a budget adds one offset, times the cost of an option, to the option's logit (`Gate.switches`). The offset is fitted
on validation images and fixed from then on: routing stays a deterministic function of the image. This is our design.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.data.dataset import Split
from bench.slicing.choice import Choice
from bench.slicing.dynamic import run_grouped
from bench.slicing.gate import Gate, Routing, decide
from bench.slicing.supernet import Features, Supernet

GAP = 1e-4
"""A fitted value keeps half of this from every value that it was chosen by: float sums of another batch do not move an
image across it."""
BATCH = 250
NEAR = 1e-3  # of the budget: a search ends that comes so close
STEPS = 24  # of a search


def fit_offset(offsets: Tensor, added: Tensor, cheapest: float, budget: float) -> float:
    """The offset at which images cost `budget` on average, as nearly as they can.

    Args:
        offsets, added: (n, S) each, at which offsets an image goes on to a costlier option, and by how much its cost
            then grows (`Gate.switches`), of images for choosing, never of the test split.
        cheapest: what an image costs below its first offset. `budget` is in the same unit.
    """
    values, order = offsets.flatten().sort(stable=True)
    values = values[values.isfinite()]
    means = cheapest + torch.cat((values.new_zeros(1), added.flatten()[order][: len(values)].cumsum(0))) / len(offsets)
    apart = torch.ones(len(values) + 1, dtype=torch.bool)
    apart[1:-1] = values.diff() > GAP  # where an offset fits in between
    nearest = (means - budget).abs().where(apart, torch.inf).argmin()
    return middle(values, int(nearest))


def middle(values: Tensor, place: int) -> float:
    """A number between the ascending values number `place` - 1 and `place`; one beyond them at their ends."""
    if not len(values):
        return 0.0
    if place == 0:
        return values[0].item() - 1
    return values[-1].item() + 1 if place == len(values) else (values[place - 1] + values[place]).item() / 2


def search_offset(measure: Callable[[float], tuple[float, Tensor]], budget: float) -> float:
    """The same by bisection, where what one gate reads depends on what those in front of it took.

    Args:
        measure: from an offset to the mean cost of images, and all offsets (m,) at which one of them, as it came to the
            gates, would go on to a costlier option.
    """
    tried: list[tuple[float, float]] = []  # distance from the budget, offset

    def cost_at(offset: float) -> tuple[float, Tensor]:
        cost, switches = measure(offset)
        values = switches[switches.isfinite()].sort().values
        place = int((values < offset).sum())
        inside = 0 < place < len(values)
        if not inside or values[place] - values[place - 1] > GAP:
            tried.append((abs(cost - budget), middle(values, place)))
        return cost, values

    cost, values = cost_at(0.0)
    low = high = 0.0
    reach = 1.0 + (values.abs().max().item() if len(values) else 0.0)
    if cost < budget:
        high = reach
        while cost_at(high)[0] < budget and high < 64 * reach:
            low, high = high, 2 * high
    else:
        low = -reach
        while cost_at(low)[0] > budget and low > -64 * reach:
            low, high = 2 * low, low
    for _ in range(STEPS):
        if min(tried)[0] <= NEAR * budget:
            break
        between = (low + high) / 2
        if cost_at(between)[0] < budget:
            low = between
        else:
            high = between
    return min(tried)[1]


def option_costs(net: Supernet, routing: Routing, image_size: int) -> list[Tensor]:
    """For each gate, (K,) float64: what each of its options adds to the cheapest route, as a share of the distance
    between the cheapest route and the costliest. All gates so share one multiplier on cost."""

    def madds(route: Sequence[int]) -> int:
        return net.cost(net.space.routed(route), image_size).madds

    cheapest, costliest = [options[0] for options in routing], [options[-1] for options in routing]
    base, costs = madds(cheapest), []
    distance = max(madds(costliest) - base, 1)
    for gate, options in enumerate(routing):
        routes = [[*cheapest[:gate], option, *cheapest[gate + 1 :]] for option in options]
        costs.append(torch.tensor([(madds(route) - base) / distance for route in routes], dtype=torch.float64))
    return costs


class Span(NamedTuple):
    """Multiply-adds of an image on the cheapest and on the costliest way through a network, decisions included."""

    cheapest: int
    costliest: int


def route_span(net: Supernet, gates: Sequence[Gate], routing: Routing, image_size: int) -> Span:
    """The cheapest and the costliest route of a routing space, gates included."""
    overhead = sum(gate.madds for gate in gates)
    ends = [net.space.routed([options[end] for options in routing]) for end in (0, -1)]
    return Span(*(cost.madds + overhead for cost in net.costs(ends, image_size)))


def spendable(budgets: Sequence[float], span: Span) -> list[float]:
    """Those of the budgets, fractions of the costliest way, that lie between the cheapest and the costliest."""
    return [budget for budget in budgets if span.cheapest < budget * span.costliest < span.costliest]


def check_budgets(budgets: Sequence[float], spans: Sequence[Span]) -> None:
    """Raise `UserError` for a budget that is there twice, or that none of the spans can spend."""
    if len({f"{budget:g}" for budget in budgets}) < len(budgets):
        raise UserError(f"budgets must name each fraction once, not {list(budgets)}")
    for budget in budgets:
        if not any(spendable([budget], span) for span in spans):
            reach = ", ".join(f"{span.cheapest / span.costliest:.3f}" for span in spans)
            raise UserError(
                f"budget {budget:g} is out of reach: it must be below 1, the costliest way through the network, and "
                f"above the cheapest, {reach}"
            )


@torch.no_grad()
def budget_offsets(
    net: Supernet,
    gates: Sequence[Gate],
    routing: Routing,
    budgets: Sequence[float],
    image_size: int,
    split: Split,
    device: torch.device,
) -> list[float]:
    """The offset of each budget, by which `Gate.leaning` makes the gates that keep it.

    Args:
        budgets: wanted mean multiply-adds, gates included, as fractions of the costliest route.
        split: the validation split.
    """
    costs = [cost.to(device) for cost in option_costs(net, routing, image_size)]
    cheapest, costliest = route_span(net, gates, routing, image_size)
    shares = [(budget * costliest - cheapest) / (costliest - cheapest) for budget in budgets]
    if len(gates) == 1:
        _, switches = _decisions(net, gates, routing, costs, 0.0, split, device)
        offsets, added = (torch.cat(parts).cpu() for parts in zip(*switches, strict=True))
        return [fit_offset(offsets, added, 0.0, share) for share in shares]

    def measure(offset: float) -> tuple[float, Tensor]:
        routes, switches = _decisions(net, gates, routing, costs, offset, split, device)
        distinct, counts = routes.unique(dim=0, return_counts=True)
        spent = [cost.madds for cost in net.costs(map(net.space.routed, distinct.tolist()), image_size)]
        mean = (torch.tensor(spent, dtype=torch.float64) * counts.cpu()).sum().item() / len(routes)
        mean += sum(gate.madds for gate in gates)
        return (mean - cheapest) / (costliest - cheapest), torch.cat(
            [offsets.flatten() for offsets, _ in switches]
        ).cpu()

    return [search_offset(measure, share) for share in shares]


def _decisions(
    net: Supernet,
    gates: Sequence[Gate],
    routing: Routing,
    costs: Sequence[Tensor],
    offset: float,
    split: Split,
    device: torch.device,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The route of every image (n, G) under an offset, and `Gate.switches` of all that came to a gate. The last segment
    does not run."""
    added = [(offset * gate.slopes(cost)).float() for gate, cost in zip(gates, costs, strict=True)]
    tables = [torch.tensor(options, device=device) for options in routing]
    switches: list[tuple[Tensor, Tensor]] = []

    def route(index: int, features: Features, rows: Tensor) -> Tensor:
        raw = gates[index].raw(features)
        switches.append(gates[index].switches(raw, costs[index]))
        return tables[index][decide(gates[index].scores(raw + added[index]))]

    def up_to_the_last_gate(index: int, x: Tensor, choice: Choice) -> tuple[Tensor, Features | None]:
        return net.segments[index](x, choice) if index < len(gates) else (x[:, :1], None)

    batches = split.batches(BATCH, device=device)
    routes = [run_grouped(up_to_the_last_gate, net.space, route, batch.x).route for batch in batches]
    return torch.cat(routes), switches
