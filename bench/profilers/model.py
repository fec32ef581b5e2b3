"""What a model's sub-networks cost: multiply-adds in two conventions, parameters, and latency where it is asked for."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from bench.core.errors import UserError
from bench.models import PRESETS, Preset
from bench.profilers.choices import chosen
from bench.profilers.madds import executed_madds
from bench.profilers.timing import Kept, Progress, Timing, built, latencies, measured_now, silent, tried
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.dynamic import segment_slot
from bench.slicing.extract import extract_segment, parameters_of
from bench.slicing.gate import new_gates
from bench.slicing.supernet import Supernet, View


@dataclass
class SubnetworkProfile:
    """One sub-network: its choice, cost of one image, and the parameters that it uses.

    Attributes:
        widths: the value of each elastic dimension, by stage.
        madds: convolutions and matrix products. madds_pool: the same plus the inputs of average pools, the convention
            of the DS-Net README.
        latency: one entry for each form and batch size that was timed.
    """

    name: str
    choice: str
    widths: dict[str, dict[str, int]]
    madds: int
    madds_pool: int
    params_active: int
    latency: list[dict[str, Any]] = field(default_factory=list)


def check_size(net: Supernet, name: str, image_size: int) -> None:
    """Raise `UserError` for images that a network cannot take, and for an operator of which no rule says what it costs.
    The network is put into evaluation mode."""
    x = torch.zeros(1, net.input_channels, image_size, image_size)
    tried(lambda: net.eval()(x, net.space.smallest), _too_small_or_large(name, image_size))
    executed_madds(View(net, net.space.smallest), x)


def _too_small_or_large(name: str, image_size: int) -> str:
    return f"{name} cannot take images of {image_size} x {image_size}"


def profile_supernet(
    name: str,
    image_size: int | None,
    choices: str,
    timing: Timing,
    gate_options: int = 4,
    kept: Kept = measured_now,
    tell: Progress = silent,
) -> dict[str, Any]:
    """The profile of a family preset as JSON values.

    Args:
        image_size: height and width; None for what the preset is made for.
        choices: the sub-networks to count; those to be timed are added.
        gate_options: outputs of each gate that is counted as stored (the released DS-MBNet has four).
        kept: where finished batch sizes are looked up and put.

    Raises:
        UserError: an unknown preset or choice, images that it cannot take, too many sub-networks to time, or batches
            that do not fit into memory.
    """
    preset: Preset = PRESETS.get(name)
    net, size = preset.build(), image_size or preset.image_size
    wanted = chosen(net, choices, size)
    timed = timing.chosen(net, wanted, size)
    check_size(net, name, size)
    rows = _subnetworks(net, list(dict.fromkeys([*wanted, *timed])), size)
    build = lambda: built(net, name, timed, size, timing.forms, tell)
    entries = latencies(build, name, (net.input_channels, size, size), timing, kept, tell)
    for row in rows:
        row.latency = [entry["latency"] for entry in entries if entry["name"] == row.name]
    return {
        "model": name,
        "image_size": size,
        "params_stored": _stored(net, size, gate_options),
        "buffers_excluded": sum(buffer.numel() for buffer in net.buffers()),
        "subnetworks": [asdict(row) for row in rows],
    }


def _stored(net: Supernet, image_size: int, options: int) -> dict[str, int]:
    """Parameters of the supernet and of the gates of a routed network."""
    supernet, gates = parameters_of(net), len(net.space.decisions)
    gate = sum(map(parameters_of, new_gates(net, (tuple(range(options)),) * gates, image_size)))
    return {
        "supernet": supernet,
        "gates": gates,
        "gate_options": options if gates else 0,
        "gate": gate,
        "total": supernet + gate,
    }


def _subnetworks(net: Supernet, choices: Sequence[Choice], image_size: int) -> list[SubnetworkProfile]:
    space, costs = net.space, net.costs(choices, image_size)
    active = active_parameters(net, choices, image_size)
    return [
        SubnetworkProfile(
            space.name_of(choice), str(choice), _widths(space, choice), cost.madds, cost.madds + cost.pooled, parameters
        )
        for choice, cost, parameters in zip(choices, costs, active, strict=True)
    ]


def _widths(space: ChoiceSpace, choice: Choice) -> dict[str, dict[str, int]]:
    return {
        stage.name: {dimension: space.width(choice, index, dimension) for dimension, _ in stage.dimensions}
        for index, stage in enumerate(space.stages)
    }


def active_parameters(net: Supernet, choices: Iterable[Choice], image_size: int) -> list[int]:
    """Parameters of each extracted sub-network. A segment that several of them share is extracted once."""
    counted: dict[tuple[int, str], int] = {}
    counts = []
    for choice in choices:
        count, channels = 0, net.input_channels
        for index, cost in enumerate(net.segment_costs(choice, image_size)):
            slot = index, segment_slot(net.space, index, choice, channels)
            if slot not in counted:
                counted[slot] = parameters_of(extract_segment(net.segments[index], choice, False))  # type: ignore[arg-type]
            count, channels = count + counted[slot], cost.shape[0]
        counts.append(count)
    return counts


def profile_timm(
    name: str, image_size: int | None, timing: Timing, kept: Kept = measured_now, tell: Progress = silent
) -> dict[str, Any]:
    """The profile of a timm model (random weights) as JSON values; `image_size` None: what it was made for.

    Raises:
        UserError: an unknown name, images that it cannot take, or batches that do not fit into memory.
    """
    network, (channels, size, _) = _timm_network(name)
    size = image_size or size
    x = torch.zeros(1, channels, size, size)
    tried(lambda: network(x), _too_small_or_large(name, size))
    madds = executed_madds(network, x)
    slots = {(name, "extracted"): (network, torch.channels_last)}
    entries = latencies(lambda: slots, name, (channels, size, size), timing, kept, tell)
    row: dict[str, Any] = {
        "name": name,
        "madds": madds,
        "params_active": parameters_of(network),
        "latency": [entry["latency"] for entry in entries],
    }
    return {"model": f"timm:{name}", "image_size": size, "subnetworks": [row]}


def _timm_network(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A timm model in evaluation mode and the (C, H, W) that it was made for. Nothing is downloaded."""
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        raise UserError(f"timm has no model {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old names, which still work
        network = tried(lambda: timm.create_model(name), f"timm cannot make {name!r}").eval()
    return network, tuple(getattr(network, "pretrained_cfg", {}).get("input_size", (3, 224, 224)))
