"""How a run's network is built, and what it starts from: its seed, pretrained weights, or another run's network.

The parent (`init_from`) may have been trained on other data: what is in front of the head is taken as it was left, the
head where it has as many classes (`models/transfer.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.data.dataset import Dataset
from bench.methods.registry import check_parent, method_of
from bench.models.preset import Preset
from bench.models.transfer import Transferred, head_of, transfer
from bench.models.weights import find, origin_of, start_from
from bench.slicing.choice import Choice
from bench.slicing.extract import extract
from bench.slicing.supernet import Supernet, to_channels_last
from bench.training.loop import stable_seed
from bench.training.run import Run

SUPERNET = "final"
"""Name of the checkpoint that holds a run's supernet as it is evaluated."""


def fresh_model(run: Run) -> Supernet:
    """The run's model preset for its data's classes and channels, with weights that depend on the seed alone.

    Raises:
        UserError: the model is for another task than the data.
    """
    spec, data = run.spec, run.data
    check_task(run.preset, data)
    reseed(spec, spec.model, "init")
    net = run.preset.build(len(data.classes), data.channels, spec.train.drop_path, data.image_size)
    return to_channels_last(net.to(run.device))


def check_task(preset: Preset, data: Dataset) -> None:
    """Raise `UserError` for a model whose output is not what the data's task is about."""
    if preset.task != data.task:
        raise UserError(f"{preset.name} is a model for {preset.task}, and {data.id} is data for {data.task}")


def build_model(run: Run) -> Supernet:
    """The run's model with the weights that training starts from: its seed's, or what the spec names to start from.

    Raises:
        UserError: the weights, or the parent's network, are missing or do not fit.
    """
    net = fresh_model(run)
    start = _start(net, run)
    if start is not None:
        net.load_state_dict(start.state)
    return net


def trained_supernet(run: Run) -> Supernet:
    """The supernet that a run has trained, as it is evaluated. Raises `UserError` where there is none."""
    net = fresh_model(run)
    run.restore(SUPERNET, {"supernet": net})
    return net.eval()


def build_network(net: Supernet, choice: Choice, run: Run) -> nn.Module:
    """A sub-network of `build_model` as a plain one to be trained alone. Where the parent trained networks alone, it
    starts from the parent's of that name. Raises `UserError` where it has none."""
    network = plain_network(net, choice)
    if run.parent is not None and method_of(run.parent.spec.method).leaves == "networks":
        network.load_state_dict(_from_parent(network, run.parent, net.space.name_of(choice), "network").state)
    return network


def plain_network(net: Supernet, choice: Choice) -> nn.Module:
    """A sub-network as ordinary layers, channels last, its parameters open to training."""
    return to_channels_last(trainable_copy(extract(net, choice)))


def start_of(run: Run) -> dict[str, Any]:
    """What a run took to start from, for `train.json`; empty where it started from its seed or works on its parent.

    `stayed` names the tensors that kept the values drawn by the seed (the new head), `unused` those of the source that
    found no place, `beside` those that the method has put beside the supernet, `origin` which part of a file was
    taken, and of an official checkpoint its digest.
    """
    spec = run.spec
    start = _start(fresh_model(run), run)
    if start is not None:
        used = [key for key in start.beside if key in method_of(spec.method).beside]
        unused = sorted((*start.unused, *(start.beside.keys() - used)))
        body = {"from": spec.weights or spec.init_from, "stayed": sorted(start.stayed), "unused": unused}
        origin = origin_of(spec.weights, run.weights) if spec.weights and run.weights else {}
        return body | ({"beside": used} if used else {}) | ({"origin": origin} if origin else {})
    alone = run.parent is not None and not method_of(spec.method).needs_parent
    return {"from": spec.init_from, "networks": "each from the parent's of its name"} if alone else {}


def beside_of(run: Run) -> Mapping[str, Tensor]:
    """What the weights that a run starts from hold for its method to put beside the supernet, by its names there."""
    start = _start(fresh_model(run), run)
    names = method_of(run.spec.method).beside
    return {} if start is None else {names[key]: value for key, value in start.beside.items() if key in names}


def _start(net: Supernet, run: Run) -> Transferred | None:
    """The state that a fresh supernet starts from, if it is not to start as it is."""
    spec, parent = run.spec, run.parent
    if spec.weights is not None:
        return _from_pretrained(net, run, spec.weights)
    if parent is None or method_of(spec.method).needs_parent:
        return None
    check_parent(spec, parent.spec)
    if method_of(parent.spec.method).leaves == "networks":
        return None
    return _from_parent(net, parent, SUPERNET, "supernet")


def _from_pretrained(net: Supernet, run: Run, weights: str) -> Transferred:
    if run.weights is None:
        raise UserError(f"weights {weights} are kept in a results directory, and there is none")
    try:
        return start_from(weights, find(weights, run.weights), net, run.preset, run.data.classes)
    except UserError as error:
        raise UserError(f"cannot start from {weights}: {error}") from error


def _from_parent(module: nn.Module, parent: Run, name: str, role: str) -> Transferred:
    state = left_by(parent, name, role)
    try:
        return transfer(state, module, head_of(module))
    except UserError as error:
        raise UserError(f"cannot start from {parent.run_id}: {error}") from error


def left_by(parent: Run, name: str, role: str) -> dict[str, Tensor]:
    """What a run's checkpoint `name` holds as `role` ("supernet", "network"). Raises `UserError` where it left none."""
    if not parent.checkpoint(name).exists():
        raise UserError(f"{parent.run_id} left no {role} {name} to start from")
    return parent.state(name, role)


def reseed(spec: RunSpec, *parts: object) -> None:
    """Seed torch for building one thing of a run, so that what is built does not depend on what came before."""
    torch.manual_seed(stable_seed(spec.seed, *parts))


def trainable_copy(network: nn.Module) -> nn.Module:
    """The network with its parameters open to training again."""
    return network.requires_grad_(True).train()
