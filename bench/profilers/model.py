"""What a model's sub-networks cost: multiply-adds in two conventions, parameters, and latency where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from bench.core.errors import UserError
from bench.models import MODELS
from bench.profilers.latency import measure_networks
from bench.profilers.madds import executed_madds
from bench.slicing.choice import Choice
from bench.slicing.extract import extract, parameters_of
from bench.slicing.supernet import Supernet, View

FORMS = ("view", "extracted")


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
    for part in text.split(","):
        if part.strip() == "largest":
            choices.append(net.space.largest)
        elif part.strip().isdigit():
            choices.append(net.space.uniform(int(part)))
        else:
            raise UserError(f"--choices takes 'all', indices and 'largest' separated by commas, not {part!r}")
    return choices


def profile_supernet(
    name: str, image_size: int, choices: str, batches: Sequence[int], forms: Sequence[str], gate_options: int
) -> dict[str, Any]:
    """The profile of a family preset as JSON values.

    Args:
        gate_options: outputs of each gate that is counted as stored (the released DS-MBNet has four).
    """
    net: Supernet = MODELS.get(name)()
    net.eval()
    rows = [_subnetwork(net, choice, image_size) for choice in chosen(net, choices)]
    for size in batches:
        _time(net, chosen(net, choices), rows, image_size, size, forms)
    supernet = parameters_of(net)
    gate = _gate_parameters(net, image_size, gate_options) if net.space.decisions else 0
    stored = {"supernet": supernet, "gate_options": gate_options if gate else 0, "gate": gate, "total": supernet + gate}
    return {
        "model": name,
        "image_size": image_size,
        "params_stored": stored,
        "buffers_excluded": sum(buffer.numel() for buffer in net.buffers()),
        "subnetworks": [asdict(row) for row in rows],
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
        count += features.trunk.shape[1] * options
    return count


def _time(
    net: Supernet,
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
    images = torch.randn(batch, net.input_channels, image_size, image_size)
    images = images.contiguous(memory_format=torch.channels_last)
    timed = measure_networks(networks, images, rounds=11, warmup=2)
    for row in rows:
        row.latency += [
            {"form": form, "batch": batch, **timed[f"{row.name}/{form}"].details()}
            for form in FORMS
            if f"{row.name}/{form}" in timed
        ]


def profile_timm(name: str, image_size: int, batches: Sequence[int]) -> dict[str, Any]:
    """The profile of a timm model (random weights) as JSON values. Raises `UserError` for an unknown name."""
    import timm

    try:
        network = timm.create_model(name).eval()
    except RuntimeError as error:
        near = timm.list_models(f"*{name.split('_')[0]}*")[:3]
        raise UserError(f"timm has no model {name!r}; near: {', '.join(near) or 'none'}") from error
    channels = int(getattr(network, "pretrained_cfg", {}).get("input_size", (3,))[0])
    x = torch.randn(1, channels, image_size, image_size)
    row: dict[str, Any] = {
        "name": name,
        "madds": executed_madds(network, x),
        "params_active": parameters_of(network),
        "latency": [],
    }
    for batch in batches:
        images = torch.randn(batch, channels, image_size, image_size)
        timed = measure_networks({name: network}, images, rounds=11, warmup=2)
        row["latency"].append({"form": "extracted", "batch": batch, **timed[name].details()})
    return {"model": f"timm:{name}", "image_size": image_size, "subnetworks": [row]}
