"""The operating point: one setting of accuracy and cost. Evaluators, profilers and reports see nothing else.

A pruned network is one operating point, a slimmable network a set of them, a dynamic network one whose cost is a
distribution over images (DESIGN 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.slicing.choice import Choice
from bench.slicing.dynamic import (
    ExtractedSegments,
    Prediction,
    Router,
    Segments,
    ViewSegments,
    check_routing,
    gate_router,
    run_grouped,
)
from bench.slicing.extract import extract, folded, parameters_of
from bench.slicing.gate import Gate
from bench.slicing.parts import Part, gated_parts
from bench.slicing.supernet import Features, Supernet, View

STATIC_ROUTE = 0  # a static point takes no decisions: its routes have no columns


class OperatingPoint:
    """What a method yields. Subclasses run batches and claim a cost for each image; the suite proves the claim.

    Attributes:
        name: unique among the points of one run.
        kind: "static", or "dynamic" where the cost depends on the image.
        routing_space: for each decision the options that it may take, cheapest first. None where nothing is decided,
            or what is decided is no such option.
        front_madds: of a cascade, the multiply-adds that all its sub-networks share; 0 where they share no layer.
        route: of a static point that is one route through a network with gates, the options taken; else None.
        decides: what decides for each image, in a word: "gate", "exit", "cascade"; None where nothing does.
        reported: of a point with its authors' weights, the key of what they report of it (`results/reported`).
    """

    name: str
    kind: str
    routing_space: Sequence[Sequence[int]] | None = None
    front_madds: int | None = None
    route: tuple[int, ...] | None = None
    decides: str | None = None
    reported: str | None = None

    def __call__(self, x: Tensor) -> Prediction:
        """(B, C, H, W) to the output (B, ...) and the decisions taken for each image, int64 (B, G)."""
        raise TypeError(f"{type(self).__name__} does not say how it runs")

    def madds(self, route: Tensor) -> Tensor:
        """Claimed multiply-adds (convolutions, matrix products, gates) of each image: (B, G) to int64 (B,)."""
        raise TypeError(f"{type(self).__name__} does not say what it costs")

    def madds_theoretical(self, route: Tensor) -> Tensor | None:
        """Multiply-adds of each image, int64 (B,), if products that the method makes zero but must execute did not
        count. Shown beside the claim and never in its place; None where nothing executed is left out."""
        return None

    def params_active(self, route: Tensor) -> Tensor:
        """Parameters used for each image: (B, G) to int64 (B,)."""
        raise TypeError(f"{type(self).__name__} does not say which parameters it uses")

    @property
    def params_stored(self) -> int:
        """Parameters that must be kept to run this point (buffers excluded)."""
        raise TypeError(f"{type(self).__name__} does not say what it stores")

    def executables(self) -> dict[str, nn.Module]:
        """The forms in which this point can run, as modules from images to outputs: what counters and timers run."""
        raise TypeError(f"{type(self).__name__} offers nothing to run")

    def subnetworks(self, routes: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], nn.Module]:
        """The plain network behind each route, for a counter that needs static graphs."""
        raise TypeError(f"{type(self).__name__} offers no plain networks")

    def overhead(self) -> int:
        """Multiply-adds of each image that no plain network of `subnetworks` holds (gates)."""
        return 0

    def parts(self) -> list[Part]:
        """A dynamic point as plain networks with decisions between them, to be written to one file.

        Raises:
            UserError: what decides is no network.
        """
        raise UserError(f"{self.name} is of a kind that has no exported form")

    def margins(self, x: Tensor) -> Tensor:
        """(B,): how far the closest decision of each image is from another one, in what is compared."""
        raise TypeError(f"{type(self).__name__} does not say how close its decisions are")

    def on(self, images: Iterable[Tensor]) -> OperatingPoint:
        """This point for unlabelled batches of images it will be judged on; only controls make use of them."""
        return self


class StaticPoint(OperatingPoint):
    """One network that runs alike for every image.

    Args:
        network: the plain network. Its form `extracted` is served with batch norm folded into the convolutions.
        madds: what it claims to cost for one image.
        view: the same sub-network as a view of a supernet, if there is one; it then makes the predictions.
        params_stored: what is kept in memory where that is more than the network (a supernet).
        route: see `OperatingPoint`.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> point = StaticPoint("linear", network, madds=640)
    >>> output, route = point(torch.randn(3, 1, 8, 8))
    >>> tuple(output.shape), tuple(route.shape), point.madds(route).tolist(), point.params_stored
    ((3, 10), (3, 0), [640, 640, 640], 650)
    """

    kind = "static"

    def __init__(
        self,
        name: str,
        network: nn.Module,
        madds: int,
        view: nn.Module | None = None,
        params_stored: int | None = None,
        route: tuple[int, ...] | None = None,
    ) -> None:
        self.name, self.route = name, route
        self.claimed = madds
        self.network = network.eval()
        served = {"extracted": folded(network).to(memory_format=torch.channels_last)}  # type: ignore[call-overload]
        self.forms: dict[str, nn.Module] = served if view is None else {"view": view.eval(), **served}
        self._params_active = parameters_of(network)
        self._params_stored = self._params_active if params_stored is None else params_stored

    def __call__(self, x: Tensor) -> Prediction:
        output = next(iter(self.forms.values()))(x)
        return Prediction(output, torch.empty(len(x), STATIC_ROUTE, dtype=torch.int64, device=x.device))

    def madds(self, route: Tensor) -> Tensor:
        return torch.full((len(route),), self.claimed, dtype=torch.int64)

    def params_active(self, route: Tensor) -> Tensor:
        return torch.full((len(route),), self._params_active, dtype=torch.int64)

    @property
    def params_stored(self) -> int:
        return self._params_stored

    def executables(self) -> dict[str, nn.Module]:
        return dict(self.forms)

    def subnetworks(self, routes: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], nn.Module]:
        return dict.fromkeys(routes, self.forms["extracted"])


def subnetwork_point(
    supernet: Supernet, choice: Choice, image_size: int, name: str | None = None, route: tuple[int, ...] | None = None
) -> StaticPoint:
    """A sub-network of a supernet as a static point, in the forms `view` and `extracted`; `route` as in
    `OperatingPoint`.

    >>> from bench.models import PRESETS
    >>> net = PRESETS.get("ds_mobilenet_micro8").build().eval()

    >>> point = subnetwork_point(net, net.space.uniform(0), image_size=8)
    >>> point.name, point.madds(torch.zeros(1, 0)).item() == net.cost(net.space.uniform(0), 8).madds
    ('uniform0', True)
    """
    return StaticPoint(
        name or supernet.space.name_of(choice),
        extract(supernet, choice),
        supernet.cost(choice, image_size).madds,
        View(supernet, choice),
        parameters_of(supernet),
        route,
    )


RouterFactory = Callable[[Tensor], Router]
"""From a batch of images to the router that decides for its rows."""


class RoutedPoint(OperatingPoint):
    """A supernet whose gates choose for each image; batches run grouped, so unused channels are never computed.

    Args:
        routing: for each gate, the options it may take (indices into the space's decision).
        gates: trained gates, one a decision, each with as many outputs as its options; empty where `router_for`
            decides without a network.
        router_for: decides instead of the gates, from the images themselves (controls).
    """

    kind = "dynamic"
    decides = "gate"

    def __init__(
        self,
        name: str,
        supernet: Supernet,
        gates: Sequence[Gate],
        routing: Sequence[Sequence[int]],
        image_size: int,
        router_for: RouterFactory | None = None,
    ) -> None:
        self.name = name
        self.supernet = supernet.eval()
        self.gates = nn.ModuleList(gates).eval()
        self.routing = self.routing_space = check_routing(supernet.space, routing)
        self.image_size = image_size
        trained = gate_router(list(gates), self.routing)
        self.router_for: RouterFactory = router_for or (lambda x: trained)
        self._madds: dict[tuple[int, ...], int] = {}
        self._params: dict[tuple[int, ...], int] = {}

    def __call__(self, x: Tensor) -> Prediction:
        return self.run(ViewSegments(self.supernet), x)

    def run(self, segments: Segments, x: Tensor) -> Prediction:
        """Grouped inference with the supernet's views or with extracted copies."""
        return run_grouped(segments, self.supernet.space, self.router_for(x), x)

    def parts(self) -> list[Part]:
        if len(self.gates) != len(self.routing):
            raise UserError(f"{self.name} is not routed by a network, so it cannot be exported")
        return gated_parts(self.supernet, self.gates, self.routing, self.image_size)

    @torch.no_grad()
    def margins(self, x: Tensor) -> Tensor:
        closest, router = torch.full((len(x),), torch.inf), self.router_for(x)

        def measured(index: int, features: Features, rows: Tensor) -> Tensor:
            if len(self.routing[index]) > 1:
                best = self.gates[index](features).topk(2).values
                closest[rows] = torch.minimum(closest[rows], best[:, 0] - best[:, 1])
            return router(index, features, rows)

        run_grouped(ViewSegments(self.supernet), self.supernet.space, measured, x)
        return closest

    def overhead(self) -> int:
        return sum(gate.madds for gate in self.gates)  # type: ignore[misc]

    def madds(self, route: Tensor) -> Tensor:
        return self._lookup(route, self._madds, self._claim)

    def params_active(self, route: Tensor) -> Tensor:
        return self._lookup(route, self._params, self._active)

    def _lookup(self, route: Tensor, table: dict[tuple[int, ...], int], value) -> Tensor:
        keys = [tuple(row) for row in route.tolist()]
        for key in set(keys) - table.keys():
            table[key] = value(key)
        return torch.tensor([table[key] for key in keys], dtype=torch.int64)

    def _claim(self, route: tuple[int, ...]) -> int:
        choice = self.supernet.space.routed(route)
        return self.supernet.cost(choice, self.image_size).madds + self.overhead()

    def _active(self, route: tuple[int, ...]) -> int:
        plain = extract(self.supernet, self.supernet.space.routed(route))
        return parameters_of(plain) + parameters_of(self.gates)

    @property
    def params_stored(self) -> int:
        return parameters_of(self.supernet) + parameters_of(self.gates)

    def executables(self) -> dict[str, nn.Module]:
        return {
            "view": Grouped(self, ViewSegments(self.supernet)),
            "extracted": Grouped(self, ExtractedSegments(self.supernet)),
        }

    def subnetworks(self, routes: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], nn.Module]:
        return {route: extract(self.supernet, self.supernet.space.routed(route)) for route in routes}


class Grouped(nn.Module):
    """A routed point as a module from images to outputs."""

    def __init__(self, point: RoutedPoint, segments: Segments) -> None:
        super().__init__()
        self.point, self.segments = point, segments

    def forward(self, x: Tensor) -> Tensor:
        return self.point.run(self.segments, x).output
