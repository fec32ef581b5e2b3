"""What a model's sub-networks cost: multiply-adds in two conventions, parameters, and latency where it is asked for."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from bench.core.errors import UserError
from bench.models import MODELS
from bench.profilers.latency import Latency, measure_networks
from bench.profilers.madds import executed_madds
from bench.slicing.choice import Choice
from bench.slicing.extract import extract, parameters_of
from bench.slicing.gate import Gate
from bench.slicing.supernet import Supernet, View

FORMS = ("view", "extracted")
ROUNDS, WARMUP = 11, 2


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


def chosen(net: Supernet, text: str) -> list[Choice]:
    """The choices that `--choices` names: "all", or ladder indices and "largest" separated by commas.

    Raises:
        UserError: one that the space does not have.
    """
    if text == "all":
        return list(net.space.named)
    choices = []
    for part in map(str.strip, text.split(",")):
        if part == "largest":
            choices.append(net.space.largest)
        elif part.isdecimal():
            choices.append(net.space.uniform(int(part)))
        else:
            raise UserError(f"--choices takes 'all', indices and 'largest' separated by commas, not {part!r}")
    return list(dict.fromkeys(choices))


def own_size(name: str) -> int:
    """Height and width of the images that a preset is made for: N where its name ends in microN, else 224."""
    micro = re.search(r"micro(\d+)$", name)
    return int(micro[1]) if micro else 224


def check_size(net: Supernet, name: str, image_size: int) -> None:
    """Raise `UserError` for images that a network cannot take. The network is put into evaluation mode."""
    x = torch.zeros(1, net.input_channels, image_size, image_size)
    _tried(lambda: net.eval()(x, net.space.smallest), _too_small_or_large(name, image_size))


def _too_small_or_large(name: str, image_size: int) -> str:
    return f"{name} cannot take images of {image_size} x {image_size}"


@torch.no_grad()
def _tried(run: Callable[[], Any], what: str) -> Any:
    """The result of a call that fails where sizes do not fit; its failure as a `UserError` that begins with `what`."""
    try:
        return run()
    except (RuntimeError, AssertionError, UserError) as error:
        reason = "not enough memory" if "allocate" in str(error) else str(error).partition("\n")[0].rstrip(".")
        raise UserError(f"{what}: {reason}") from error


def profile_supernet(
    name: str, image_size: int | None, choices: str, batches: Sequence[int], forms: Sequence[str], gate_options: int
) -> dict[str, Any]:
    """The profile of a family preset as JSON values.

    Args:
        image_size: height and width; None for what the preset is made for.
        gate_options: outputs of each gate that is counted as stored (the released DS-MBNet has four).

    Raises:
        UserError: an unknown preset or choice, images that it cannot take, or batches that do not fit into memory.
    """
    net: Supernet = MODELS.get(name)()
    size = image_size or own_size(name)
    wanted = chosen(net, choices)
    check_size(net, name, size)
    rows = [_subnetwork(net, choice, size) for choice in wanted]
    for batch in batches:
        _time(net, name, wanted, rows, size, batch, forms)
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
    gate = _gate_parameters(net, image_size, options)
    return {
        "supernet": supernet,
        "gates": gates,
        "gate_options": options if gates else 0,
        "gate": gate,
        "total": supernet + gate,
    }


def _subnetwork(net: Supernet, choice: Choice, image_size: int) -> SubnetworkProfile:
    cost = net.cost(choice, image_size)
    widths = {
        stage.name: {dimension: net.space.width(choice, index, dimension) for dimension, _ in stage.dimensions}
        for index, stage in enumerate(net.space.stages)
    }
    active = parameters_of(extract(net, choice))
    return SubnetworkProfile(
        net.space.name_of(choice), str(choice), widths, cost.madds, cost.madds + cost.pooled, active
    )


@torch.no_grad()
def _gate_parameters(net: Supernet, image_size: int, options: int) -> int:
    x = torch.zeros(1, net.input_channels, image_size, image_size)
    count = 0
    for index, segment in enumerate(list(net.segments)[:-1]):
        x, features = segment(x, net.space.smallest.prefix(net.space.depth_after(index)))
        count += parameters_of(Gate(features.trunk.shape[1], options, net.gate_hidden))
    return count


def _time(
    net: Supernet,
    name: str,
    choices: Sequence[Choice],
    rows: Sequence[SubnetworkProfile],
    image_size: int,
    batch: int,
    forms: Sequence[str],
) -> None:
    networks: dict[str, nn.Module] = {}
    for choice, row in zip(choices, rows, strict=True):
        if "view" in forms:
            networks[f"{row.name}/view"] = View(net, choice)
        if "extracted" in forms:
            plain = extract(net, choice, fold_bn=True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            networks[f"{row.name}/extracted"] = plain
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    timed = _timed(networks, name, (batch, net.input_channels, image_size, image_size))
    for row in rows:
        row.latency += [
            {"form": form, "batch": batch, **timed[f"{row.name}/{form}"].details()}
            for form in FORMS
            if f"{row.name}/{form}" in timed
        ]


def _timed(networks: Mapping[str, nn.Module], name: str, shape: tuple[int, ...]) -> dict[str, Latency]:
    """Latencies on random images of a shape (B, C, H, W)."""

    def measured() -> dict[str, Latency]:
        images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        return measure_networks(networks, images, ROUNDS, WARMUP)

    return _tried(measured, f"{name} cannot be timed at batch {shape[0]}")


def profile_timm(name: str, image_size: int | None, batches: Sequence[int]) -> dict[str, Any]:
    """The profile of a timm model (random weights) as JSON values; `image_size` None: what it was made for.

    Raises:
        UserError: an unknown name, images that it cannot take, or batches that do not fit into memory.
    """
    network, (channels, size, _) = _timm_network(name)
    size = image_size or size
    x = torch.zeros(1, channels, size, size)
    _tried(lambda: network(x), _too_small_or_large(name, size))
    row: dict[str, Any] = {
        "name": name,
        "madds": executed_madds(network, x),
        "params_active": parameters_of(network),
        "latency": [],
    }
    for batch in batches:
        timed = _timed({name: network}, name, (batch, channels, size, size))
        row["latency"].append({"form": "extracted", "batch": batch, **timed[name].details()})
    return {"model": f"timm:{name}", "image_size": size, "subnetworks": [row]}


def _timm_network(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A timm model in evaluation mode and the (C, H, W) that it was made for. Nothing is downloaded."""
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        raise UserError(f"timm has no model {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old names, which still work
        network = _tried(lambda: timm.create_model(name), f"timm cannot make {name!r}").eval()
    return network, tuple(getattr(network, "pretrained_cfg", {}).get("input_size", (3, 224, 224)))
