"""A plain network as safetensors: its tensors, and in the header the spec that it is rebuilt from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from baselines.pruning_surgery import rebuild
from bench.core.errors import UserError
from bench.models import PRESETS
from bench.slicing.choice import Choice
from bench.slicing.extract import extract

HEADER = "slicebench"


def write(path: Path, network: nn.Module, example: Tensor, outputs: tuple[str, ...], about: Mapping[str, Any]) -> None:
    """The network's own tensors, batch norm not folded, so that it can be trained further."""
    tensors = {key: tensor.detach().contiguous() for key, tensor in network.state_dict().items()}
    path.write_bytes(save(tensors, {HEADER: json.dumps(about, sort_keys=True)}))  # `save_file` would shut others out


def load_plain(path: str | Path) -> nn.Module:
    """The network of a file that `slicebench export --format safetensors` wrote, in evaluation mode.

    The preset's sub-network is built anew and takes the tensors in whatever shapes they have, so pruned networks load
    as well. Nothing in the file is executed.

    Raises:
        UserError: the file is missing, damaged or of another kind, or its tensors are not those of its preset.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[HEADER])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        images, preset = about["input"], PRESETS.get(about["model"])
        net = preset.build(len(about["classes"]), images["channels"], image_size=images["height"])
        choice = Choice(tuple(map(tuple, about["base"])))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a network exported by slicebench ({error!r})") from error
    return rebuild(extract(net.eval(), choice), tensors).eval()


def load(path: Path):
    """The network as a function from an input to the tuple of its outputs."""
    network = load_plain(path)
    return lambda x: (network(x),)
