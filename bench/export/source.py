"""What is to be exported: from a run's name and a choice to a plain network, or to a routed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError, unknown
from bench.data.dataset import Dataset
from bench.methods import fresh_model
from bench.points import OperatingPoint, Prediction, RoutedPoint, StaticPoint
from bench.runs.run import points_of
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.extract import extract
from bench.slicing.supernet import View
from bench.training.run import Run


def origin(run: Run) -> dict[str, Any]:
    """What every exported file says of where it comes from and what it takes."""
    spec, data = run.spec, run.data
    size = {"channels": data.channels, "height": data.image_size, "width": data.image_size}
    about = {"export_version": 1, "run_id": spec.run_id, "run": spec.to_json(), "model": spec.model}
    return about | {"classes": list(data.classes), "input": size | _normalisation(data)}


def _normalisation(data: Dataset) -> dict[str, Any]:
    """How images become inputs, (pixel / peak - mean) / std by channel, where the dataset says so."""
    rule = getattr(data.validation, "normalisation", None)
    if rule is None:
        return {}
    return {"normalisation": {"peak": rule.peak, "mean": list(rule.mean), "std": list(rule.std)}}


@dataclass(frozen=True)
class Plain:
    """A static network and what it must agree with.

    Attributes:
        network: ordinary layers, batch norm not folded.
        reference: the view (for a network that never was a slice: the trained network itself).
        base: the choice whose plain network has the same layers, in these or other widths.
    """

    name: str
    network: nn.Module
    reference: Callable[[Tensor], Prediction]
    base: Choice


def find(run: Run, text: str | None, name: str | None = None) -> Plain | OperatingPoint:
    """What is to be exported of a run.

    Args:
        text: a point, `dynamic` where there is one such point, `largest`, an index of the ladder, or a choice spelled
            out (`0.0.1-2`).
        name: of a point, instead of `text`.

    Raises:
        UserError: nothing in this run goes by that name, or it is of a kind that cannot be exported.
    """
    points = {point.name: point for point in points_of(run)}
    source = Source(run.run_id, points, fresh_model(run).space)
    if (text is None) == (name is None):
        raise UserError("say what to export: a choice or a point's name, one of them")
    if name is not None and name not in points:
        raise unknown(f"point of {run.run_id}", name, points)
    text = name or text or ""
    if text in points:
        return source.of_point(points[text])
    if text == "dynamic":
        dynamic = [point for point in points.values() if point.kind == "dynamic"]
        if len(dynamic) == 1:
            return source.of_point(dynamic[0])
    try:
        choice = source.space.parse(text)
    except ValueError as error:
        raise unknown(f"choice of {run.run_id}", text, [*points, "largest", "0", "1"]) from error
    return source.of_choice(choice)


@dataclass(frozen=True)
class Source:
    """The points of a run and the space of its model."""

    run_id: str
    points: Mapping[str, OperatingPoint]
    space: ChoiceSpace

    def of_choice(self, choice: Choice) -> Plain:
        """A sub-network of the run: of its routed supernet, which is ready at every choice, else of a static point."""
        routed = next((point for point in self.points.values() if isinstance(point, RoutedPoint)), None)
        if routed is not None:
            return _of_view(self.space.name_of(choice), View(routed.supernet, choice))
        for point in self.points.values():
            plain = self.of_point(point)
            cut_out = "view" not in point.executables() and self._named(point.name) is None
            if isinstance(plain, Plain) and plain.base == choice and not cut_out:
                return plain
        name = self.space.name_of(choice)
        raise UserError(f"{self.run_id} trained no sub-network {name}; it has {', '.join(self.points)}")

    def of_point(self, point: OperatingPoint) -> Plain | OperatingPoint:
        """A point as it is exported: a dynamic one is itself. Raises `UserError` for one of a kind that cannot be."""
        if point.kind == "dynamic":
            return point
        if not isinstance(point, StaticPoint):
            raise UserError(f"{point.name} of {self.run_id} is of a kind that has no exported form")
        view = point.executables().get("view")
        if isinstance(view, View):
            return _of_view(point.name, view)
        base = self._named(point.name) or self.space.uniform_choices[-1]
        return Plain(point.name, point.network.eval(), point, base)

    def _named(self, name: str) -> Choice | None:
        """The sub-network of the ladder that goes by a point's name, unless it was cut out of one."""
        return next((choice for choice in self.space.named if self.space.name_of(choice) == name), None)


def _of_view(name: str, view: View) -> Plain:
    network = extract(view.supernet.eval(), view.choice).eval()

    def reference(x: Tensor) -> Prediction:
        return Prediction(view(x), torch.empty(len(x), 0, dtype=torch.int64))

    return Plain(name, network, reference, view.choice)
