"""Dynamic inference: each image runs the sub-network that its gates choose. Three strategies, one result.

`grouped` really skips work: the batch is split by choice at each gate, each group runs its own slice, and results go
back to their rows. `masked` computes every channel and zeroes what was not chosen: a control that saves nothing.
`one_by_one` runs images alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.slicing.bound import SoftChoice
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.extract import extract_segment, folded
from bench.slicing.gate import decide
from bench.slicing.groups import split, take, together
from bench.slicing.supernet import Features, Supernet, to_channels_last

Router = Callable[[int, Features, Tensor], Tensor]
"""(gate index, what the gate sees, rows of the batch) to the option taken for each of those rows."""


GroupKey = Callable[[ChoiceSpace, int, Choice, int], str]
"""(space, gate, choice up to the next gate, channels that arrive there) to what a group's images have in common."""


class Prediction(NamedTuple):
    """What an operating point returns: the output (B, ...) and the G decisions taken for each image, int64 (B, G)."""

    output: Tensor
    route: Tensor


class Segments(Protocol):
    """Anything that can run segment `index` under a choice: the supernet's views, or extracted copies."""

    def __call__(self, index: int, x: Tensor, choice: Choice) -> tuple[Tensor, Features | None]: ...


class _Group(NamedTuple):
    choice: Choice
    rows: Tensor  # which images of the batch
    x: Tensor


def check_routing(space: ChoiceSpace, routing: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """The options that each gate may route to, checked against the space. Raises `UserError`."""
    if len(routing) != len(space.decisions):
        raise UserError(f"a routing space lists options for each gate: {len(space.decisions)}, not {len(routing)}")
    for options, decision in zip(routing, space.decisions, strict=True):
        outside = [option for option in options if not 0 <= option < len(decision.options)]
        if outside or not options:
            raise UserError(
                f"cannot route to choice {outside[0] if outside else 'none'}: a gate at stage {decision.stage} "
                f"has choices 0 to {len(decision.options) - 1}"
            )
    return tuple(tuple(options) for options in routing)


def by_segment(space: ChoiceSpace, gate: int, choice: Choice, channels: int) -> str:
    """What the segment behind a gate depends on. With statistics for each prefix: the whole choice. Without: the width
    that arrives and the stages just decided, so a gate with K options makes at most K x K groups."""
    if space.prefix_statistics:
        return choice.keys[-1]
    return f"{channels}|{choice.indices[space.decisions[gate].stage :]}"


def segment_slot(space: ChoiceSpace, index: int, choice: Choice, channels: int) -> str:
    """What segment `index` is extracted for: one slot for all choices under which its copy is the same."""
    decided = choice.prefix(space.depth_after(index))
    return by_segment(space, index - 1, decided, channels) if index else decided.keys[-1]


def by_path(space: ChoiceSpace, gate: int, choice: Choice, channels: int) -> str:
    """All decisions so far: up to K^gates groups. For comparison with `by_segment`; results are the same."""
    return choice.keys[-1]


def run_grouped(
    segments: Segments, space: ChoiceSpace, router: Router, x: Tensor, group_key: GroupKey = by_segment
) -> Prediction:
    """Run a batch, regrouped at every gate by what the rest of the network depends on.

    Args:
        group_key: what images must share to run together.

    >>> from bench.models import PRESETS
    >>> net = PRESETS.get("ds_mobilenet_micro8").build().eval()

    >>> x, route = torch.randn(4, net.input_channels, 8, 8), torch.tensor([[0], [3], [0], [2]])
    >>> with torch.no_grad():
    ...     output, route = run_grouped(ViewSegments(net), net.space, fixed_router(route), x)
    >>> tuple(output.shape), route.flatten().tolist()
    ((4, 10), [0, 3, 0, 2])
    """
    gates = len(space.decisions)
    route = torch.empty(len(x), gates, dtype=torch.int64, device=x.device)
    groups = [_Group(Choice(space.fixed), torch.arange(len(x), device=x.device), x)]
    for index in range(gates):
        arrived: dict[str, list[_Group]] = defaultdict(list)
        for group in groups:
            y, features = segments(index, group.x, group.choice)
            assert features is not None
            options = router(index, features, group.rows)
            route[group.rows, index] = options
            for option, here in split(options):
                choice = group.choice.then(space.decisions[index].options[option])
                part = _Group(choice, take(group.rows, here), take(y, here))
                arrived[group_key(space, index, part.choice, part.x.shape[1])].append(part)
        groups = [_merged(parts) for parts in arrived.values()]
    outputs = [segments(gates, group.x, group.choice)[0] for group in groups]
    return Prediction(together(outputs, [group.rows for group in groups]), route)


def _merged(parts: list[_Group]) -> _Group:
    if len(parts) == 1:
        return parts[0]
    return _Group(parts[0].choice, torch.cat([p.rows for p in parts]), torch.cat([p.x for p in parts]))


def run_masked(supernet: Supernet, router: Router, x: Tensor) -> Prediction:
    """Run every image through the widest routed network and mask what its gates did not choose."""
    space, rows, route = supernet.space, torch.arange(len(x), device=x.device), []
    choice: Choice | SoftChoice = Choice(space.fixed)
    for index, decision in enumerate(space.decisions):
        x, features = supernet.segments[index](x, choice)
        options = router(index, features, rows)
        weights = F.one_hot(options, len(decision.options)).to(x.dtype)
        choice = softened(space, index, range(len(decision.options)), weights, choice)
        route.append(options)
    output, _ = supernet.segments[len(route)](x, choice)
    return Prediction(output, torch.stack(route, 1) if route else rows.new_empty(len(rows), 0))


def softened(
    space: ChoiceSpace, gate: int, options: Sequence[int], weights: Tensor, front: Choice | SoftChoice
) -> SoftChoice:
    """`front`, continued behind a gate that gives each image a weight (B, K) for every one of its `options`."""
    decision = space.decisions[gate]
    shared = space.routed([0] * gate)  # stands for stages that `front` decides
    choices = tuple(shared.then(decision.options[option]) for option in options)
    return SoftChoice(choices, weights, decision.stage, front)


def run_one_by_one(segments: Segments, space: ChoiceSpace, router: Router, x: Tensor) -> Prediction:
    """Run each image alone; what grouping must agree with."""
    parts = []
    for row in range(len(x)):
        shifted = _shifted(router, row)
        parts.append(run_grouped(segments, space, shifted, x[row : row + 1]))
    return Prediction(torch.cat([p.output for p in parts]), torch.cat([p.route for p in parts]))


def _shifted(router: Router, start: int) -> Router:
    return lambda index, features, rows: router(index, features, rows + start)


def gate_router(gates: Sequence[nn.Module], routing: Sequence[Sequence[int]]) -> Router:
    """Route by trained gates: the largest logit among the options of the routing space."""
    tables = [torch.tensor(options) for options in routing]

    def route(index: int, features: Features, rows: Tensor) -> Tensor:
        return tables[index].to(rows.device)[decide(gates[index](features))]

    return route


def fixed_router(route: Tensor) -> Router:
    """Route by decisions taken beforehand: int64 (B, G)."""
    return lambda index, features, rows: route[rows, index]


class ViewSegments:
    """Runs the supernet's own segments, sliced at run time."""

    def __init__(self, supernet: Supernet) -> None:
        self.supernet = supernet

    def __call__(self, index: int, x: Tensor, choice: Choice) -> tuple[Tensor, Features | None]:
        return self.supernet.segments[index](x, choice)


class ExtractedSegments:
    """Runs plain copies of each segment, batch norm folded: made at first use of a choice and kept."""

    def __init__(self, supernet: Supernet) -> None:
        self.supernet = supernet
        self.plain: dict[tuple[int, str], nn.Module] = {}

    def __call__(self, index: int, x: Tensor, choice: Choice) -> tuple[Tensor, Features | None]:
        slot = index, segment_slot(self.supernet.space, index, choice, x.shape[1])
        if slot not in self.plain:
            segment = self.supernet.segments[index]
            copy = extract_segment(segment, choice, segment.decides)  # type: ignore[arg-type]
            self.plain[slot] = to_channels_last(folded(copy))
        result = self.plain[slot](x)
        return result if self.supernet.segments[index].decides else (result, None)
