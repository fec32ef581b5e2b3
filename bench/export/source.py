"""What is to be exported: from a run's name and a choice to a plain network, or to a routed one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError, unknown
from bench.core.spec import RunSpec
from bench.core.store import Store
from bench.data import load as load_data
from bench.data.dataset import Dataset
from bench.methods import method_of
from bench.models import PRESETS
from bench.points import OperatingPoint, Prediction, RoutedPoint, StaticPoint
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.extract import extract
from bench.slicing.supernet import View
from bench.training.context import Context


@dataclass(frozen=True)
class Trained:
    """A run whose training is complete, on the CPU."""

    spec: RunSpec
    data: Dataset
    points: list[OperatingPoint]
    space: ChoiceSpace

    @property
    def names(self) -> list[str]:
        return [point.name for point in self.points]

    def about(self) -> dict[str, Any]:
        """What every exported file says of where it comes from and what it takes."""
        spec, data = self.spec, self.data
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


def open_run(run_id: str, results: Path, data_root: Path | None) -> Trained:
    """Load a trained run. Nothing is trained and nothing is written.

    Raises:
        UserError: there is no such run, it is not trained, or a checkpoint is missing or not the one that it left.
    """
    store = Store(results, writable=False)
    spec = store.read_spec(run_id)
    _check_trained(store, run_id)
    data = load_data(spec.data, data_root)
    parent = parent_spec = None
    if spec.init_from is not None:
        parent, parent_spec = store.path(spec.init_from), store.read_spec(spec.init_from)
        _check_trained(store, spec.init_from)
    context = Context(
        store.path(run_id), run_id, torch.device("cpu"), parent=parent, parent_spec=parent_spec, weights=store.weights
    )
    points = method_of(spec.method).operating_points(spec, data, context)
    space = PRESETS.get(spec.model).build(classes=len(data.classes), channels=data.channels).space
    return Trained(spec, data, points, space)


def _check_trained(store: Store, run_id: str) -> None:
    """A method would train what it does not find, so all that the run left must be there."""
    if not store.has(run_id, "train"):
        raise UserError(f"{run_id} has not been trained yet in {store.root}; run its recipe first")
    for name, digest in store.read(run_id, "train")["results"].get("checkpoints", {}).items():
        file = store.path(run_id) / "checkpoints" / f"{name}.safetensors"
        if not file.exists():
            raise UserError(f"the checkpoint {file} is not here, so there is nothing to export")
        if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            raise UserError(f"the checkpoint {file} is not the one that {run_id} left")


def find(run: Trained, text: str) -> Plain | RoutedPoint:
    """What `--choice` names: a point, `dynamic` where there is one such point, `largest`, an index of the ladder, or a
    choice spelled out (`0.0.1-2`).

    Raises:
        UserError: nothing in this run goes by that name, or it is of a kind that cannot be exported.
    """
    points = {point.name: point for point in run.points}
    if text in points:
        return _of_point(run, points[text])
    if text == "dynamic":
        dynamic = [point for point in run.points if point.kind == "dynamic"]
        if len(dynamic) == 1:
            return _of_point(run, dynamic[0])
    try:
        choice = run.space.parse(text)
    except ValueError as error:
        raise unknown(f"choice of {run.spec.run_id}", text, [*run.names, "largest", "0", "1"]) from error
    return _of_choice(run, choice)


def _of_choice(run: Trained, choice: Choice) -> Plain:
    """A sub-network of the run: of its routed supernet, which is ready at every choice, else of a static point."""
    routed = next((point for point in run.points if isinstance(point, RoutedPoint)), None)
    if routed is not None:
        return _of_view(run.space.name_of(choice), View(routed.supernet, choice))
    for point in run.points:
        plain = _of_point(run, point)
        if isinstance(plain, Plain) and plain.base == choice and _is_choice(run, point):
            return plain
    name = run.space.name_of(choice)
    raise UserError(f"{run.spec.run_id} trained no sub-network {name}; it has {', '.join(run.names)}")


def _is_choice(run: Trained, point: OperatingPoint) -> bool:
    """Whether a point is a sub-network as the ladder has it, and not one that was cut out of it."""
    return "view" in point.executables() or _named(run.space, point.name) is not None


def _named(space: ChoiceSpace, name: str) -> Choice | None:
    return next((choice for choice in space.named if space.name_of(choice) == name), None)


def _of_point(run: Trained, point: OperatingPoint) -> Plain | RoutedPoint:
    if isinstance(point, RoutedPoint):
        if len(point.gates) != len(run.space.decisions):
            raise UserError(f"{point.name} of {run.spec.run_id} is not routed by a network, so it cannot be exported")
        return point
    if not isinstance(point, StaticPoint):
        raise UserError(f"{point.name} of {run.spec.run_id} is of a kind that has no exported form")
    view = point.executables().get("view")
    if isinstance(view, View):
        return _of_view(point.name, view)
    base = _named(run.space, point.name) or run.space.uniform_choices[-1]
    return Plain(point.name, point.network.eval(), point, base)


def _of_view(name: str, view: View) -> Plain:
    network = extract(view.supernet.eval(), view.choice).eval()

    def reference(x: Tensor) -> Prediction:
        return Prediction(view(x), torch.empty(len(x), 0, dtype=torch.int64))

    return Plain(name, network, reference, view.choice)
