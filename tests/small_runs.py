"""Runs that take a second: real digits, micro presets, two training steps. Their test split cannot be opened."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from bench.core.spec import DataSpec, RunSpec, TrainSpec
from bench.data import load
from bench.data.dataset import Dataset
from bench.methods import METHODS, Run, completed, method_of
from bench.models import PRESETS
from bench.points import OperatingPoint, RoutedPoint
from bench.slicing.choice import Choice
from bench.slicing.gate import Gate, Routing, new_gates
from bench.slicing.supernet import Supernet
from bench.training.calibrate import calibrate
from bench.training.run import Progress, silent

CPU = torch.device("cpu")
DATA = DataSpec(train_images=128)
TRAIN = TrainSpec(epochs=1, batch_size=64)

# Options that save time. A method that is not named here is run with its defaults.
SHORT = {
    "ds_net": {"gate_epochs": 1, "routing": [[0, 1, 2, 3], [1, 3]]},
    "ds_net_pp": {"gate_epochs": 1, "budgets": [0.6]},
    "s_net": {"widths": [0.25, 1.0]},
    "us_net": {"widths": [0.25, 1.0]},
    "autoslim": {"budgets": [0.75, 0.25], "groups": 4},
    "nested_vit": {"rungs": [0, 2, 3]},
    "uniform": {"choices": [0, 3]},
    "pruning": {"finetune_epochs": 1, "budgets": [0.5]},
    "token_prune": {"budgets": [0.7]},
    "thinking_vit": {"budgets": [0.7], "thresholds": [2.0]},
    "layer_skip": {"gate_epochs": 1, "targets": [0.5]},
    "channel_gate": {"gate_epochs": 1, "densities": [0.5]},
}


def closed() -> NoReturn:
    raise AssertionError("training opened the test split")


@functools.cache
def digits(train_images: int = 128) -> Dataset:
    """Digits with a few training images; opening the test split fails the test."""
    return replace(load(replace(DATA, train_images=train_images)), test_opener=closed)


@dataclass(frozen=True)
class Trained:
    """A finished run and the folder that it left, and the run that it works on, if any."""

    spec: RunSpec
    directory: Path
    parent: "Trained | None" = None


def small_model(method: str) -> str:
    """A micro preset for 8x8 images that the method serves."""
    presets = map(PRESETS.get, PRESETS.names())
    return next(preset.name for preset in presets if preset.image_size == 8 and method_of(method).serves(preset))


def small_spec(method: str, parent: Trained | None = None, **changes) -> RunSpec:
    """Two steps of a method, as it would be run."""
    fields = {"data": DATA, "train": TRAIN, "options": SHORT.get(method, {}), **changes}
    linked = parent is not None and METHODS.get(method).needs_parent
    model = fields.pop("model", small_model(method))
    return completed(RunSpec(method, model, init_from=parent.spec.run_id if linked else None, **fields))


def run_of(
    spec: RunSpec,
    directory: Path,
    parent: Trained | None = None,
    progress: Progress = silent,
    checkpoint_s: float = 30.0,
    data: Dataset | None = None,
    **how,
) -> Run:
    """A run in a folder of its own, on the digits unless other data are given; its parent has the same data."""
    data = digits() if data is None else data
    before = None if parent is None else run_of(parent.spec, parent.directory, parent.parent, data=data)
    options = method_of(spec.method).options(spec)
    return Run(spec, options, directory, lambda: data, CPU, before, progress, checkpoint_s, **how)


def run_at(directory: Path, train: TrainSpec = TRAIN, seed: int = 0, **how) -> Run:
    """A run for tests that look at its training alone."""
    return run_of(RunSpec("uniform", "ds_mobilenet_micro8", data=DATA, train=train, seed=seed), directory, **how)


def trained_points(spec: RunSpec, directory: Path, parent: Trained | None = None, **how) -> list[OperatingPoint]:
    """The points of a run after its training."""
    run, method = run_of(spec, directory, parent, **how), method_of(spec.method)
    method.train(run)
    return method.points(run)


def small_net(model: str = "ds_mobilenet_micro8", seed: int = 0) -> Supernet:
    """A micro preset whose weights are away from their initial values, so that no two channels are alike."""
    torch.manual_seed(seed)
    net = PRESETS.get(model).build()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


@torch.no_grad()
def spread_gates(net: Supernet, routing: Routing, seed: int = 0, **design) -> list[Gate]:
    """Gates, as if trained, that send digits to every one of their options: random, with no favourite on average."""
    torch.manual_seed(seed)
    x, choice = next(digits().train.batches(64)).x, Choice(net.space.fixed)
    gates = new_gates(net.eval(), routing, x.shape[-1], **design)
    for index, gate in enumerate(gates):
        x, seen = net.segments[index](x, choice)
        gate.standardise(gate.read(seen))
        trunk = (gate.read(seen) - gate.shift) / gate.scale
        trunk = trunk if gate.hidden is None else gate.hidden(trunk).relu()
        mean = trunk.mean(0)
        weight = torch.randn_like(gate.head.weight) / trunk.std()
        gate.head.weight.copy_(weight - (weight @ mean)[:, None] * mean / mean.square().sum())
        choice = choice.then(net.space.decisions[index].options[routing[index][0]])
    return gates


def full_routing(net: Supernet) -> Routing:
    """Every option of every gate."""
    return tuple(tuple(range(len(decision.options))) for decision in net.space.decisions)


def routed_point(model: str = "ds_mobilenet_micro8", **design) -> RoutedPoint:
    """A dynamic point that routes digits to all sub-networks. `design`: of its gates, as `new_gates` takes it."""
    net = small_net(model)
    calibrate(net, net.space.named, digits().calibration, CPU)
    routing = full_routing(net)
    return RoutedPoint("dynamic", net, spread_gates(net, routing, **design), routing, 8)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    """Names of the tensors that are no longer what they were, bit for bit."""
    after = module.state_dict()
    assert before.keys() == after.keys()
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


class Interrupted(Exception):
    """Stands for a kill."""


def interrupt_after(calls: int) -> Progress:
    """Progress that breaks the run off at its n-th report."""
    left = iter(range(calls - 1))

    def progress(label: str, done: int, total: int) -> None:
        if next(left, None) is None:
            raise Interrupted(f"{label} at {done} of {total}")

    return progress


def checkpoint_bytes(directory: Path) -> dict[str, bytes]:
    """What a run left in its folder, by file name."""
    return {path.name: path.read_bytes() for path in sorted((directory / "checkpoints").iterdir())}
