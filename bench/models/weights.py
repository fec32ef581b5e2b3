"""Pretrained weights by name, so that a spec needs no path: `timm:NAME`, or `sha256:DIGEST` of a file that was given.

What a run starts from is kept in the results, in `weights/`, as safetensors in the names of its source. So a run can
be done again without the file or the network that it came from.
"""

from __future__ import annotations

import difflib
import hashlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bench.core.errors import UserError
from bench.core.files import write_atomic

State = Mapping[str, Tensor]
TIMM, SHA256 = "timm:", "sha256:"
WRAPPERS = ("state_dict", "model")  # where training scripts put the weights among other things


class Weights(NamedTuple):
    """Weights and the name under which a spec asks for them."""

    name: str
    state: State


def given(text: str) -> Weights:
    """What `--weights` names: `timm:NAME`, fetched, or a file, named by the digest of its tensors.

    Raises:
        UserError: timm has no such weights or cannot be reached; the file is missing or holds no state dict.
    """
    if text.startswith(TIMM):
        return Weights(text, fetch(text.removeprefix(TIMM)))
    state = read_file(Path(text))
    return Weights(SHA256 + hashlib.sha256(save(dict(state))).hexdigest(), state)


def keep(weights: Weights, folder: Path) -> None:
    """Put weights into the folder where `find` looks, unless they are there."""
    file = _file(weights.name, folder)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(file, save(dict(weights.state)))


def find(name: str, folder: Path) -> State:
    """The weights that a spec names, from the folder, or the first time from timm.

    Raises:
        UserError: they are not in the folder and cannot be fetched, or the file is damaged.
    """
    file = _file(name, folder)
    if not file.exists():
        if name.startswith(SHA256):
            raise UserError(f"the weights {name} are not in {folder}; give their file with --weights FILE")
        keep(Weights(name, fetch(name.removeprefix(TIMM))), folder)
    content = file.read_bytes()
    if name.startswith(SHA256) and hashlib.sha256(content).hexdigest() != name.removeprefix(SHA256):
        raise UserError(f"the weights in {file} are not those of their name; delete the file and give it again")
    try:
        return load(content)
    except SafetensorError as error:
        raise UserError(f"the weights in {file} are damaged ({error}); delete the file and give it again") from error


def _file(name: str, folder: Path) -> Path:
    return folder / f"{name.replace(':', '-').removeprefix('sha256-')}.safetensors"


def fetch(name: str) -> State:
    """A timm model's pretrained weights, from timm's cache or by download. Raises `UserError` where there are none."""
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        raise UserError(f"timm has no model {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old names, which still work
            network = timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever the hub, the network or the cache raises
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"timm's weights {name!r} could not be fetched, which needs a connection or timm's cache ({why:.200})"
        ) from error
    return plain(network.state_dict())


def read_file(path: Path) -> State:
    """The state dict in a safetensors file or a torch file, alone or under "state_dict" or "model".

    No code in the file is run. Raises `UserError` where there is none.
    """
    if not path.is_file():
        raise UserError(f"there is no file of weights {path}")
    try:
        content = load(path.read_bytes()) if path.suffix == ".safetensors" else torch.load(
            path, map_location="cpu", weights_only=True
        )  # fmt: skip
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} cannot be read as weights, safetensors or a state dict of tensors alone ({reason:.120})"
        ) from error
    return plain(_unwrapped(content, path))


def _unwrapped(content: Any, path: Path) -> State:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path} holds no state dict, alone or under {' or '.join(map(repr, WRAPPERS))}")
    return content


def plain(state: State) -> State:
    """Tensors of their own, in the order of their names, without the prefix that DistributedDataParallel adds."""
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    return {key.removeprefix(prefix): state[key].detach().cpu().clone().contiguous() for key in sorted(state)}
