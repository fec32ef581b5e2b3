"""Pretrained weights by name, so that a spec needs no path: `timm:NAME`, or `sha256:DIGEST` of a file that was given,
or `official:FORMAT=sha256:DIGEST` of one in its authors' names.

What a run starts from is kept in the results, in `weights/`, as safetensors in the names of its source. So a run can
be done again without the file or the network that it came from.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from bench.core.errors import UserError
from bench.core.files import sha256, write_atomic
from bench.models.official import format_of, from_official
from bench.models.preset import Preset
from bench.models.transfer import Transferred, from_timm
from bench.slicing.supernet import Supernet

State = Mapping[str, Tensor]
TIMM, SHA256, OFFICIAL = "timm:", "sha256:", "official:"
WRAPPERS = ("state_dict", "model")  # where training scripts put the weights among other things
AVERAGED = ("state_dict_ema", "model_ema")  # where they put the average of them over training, which is evaluated
ORIGIN = "slicebench"  # the key of what is kept beside the tensors: one, for safetensors writes several in any order


class Weights(NamedTuple):
    """Weights and the name under which a spec asks for them; `origin`: what is kept of where they come from."""

    name: str
    state: State
    origin: Mapping[str, str] = {}

    def content(self) -> bytes:
        """The file in which they are kept."""
        return save(dict(self.state), {ORIGIN: json.dumps(self.origin, sort_keys=True)} if self.origin else None)


def given(text: str) -> Weights:
    """What `--weights` names: `timm:NAME`, fetched, or a file, alone or as `official:FORMAT=FILE`, named by its digest.

    Raises:
        UserError: timm has no such weights or cannot be reached; a format that is unknown or that no network here can
            hold; the file is missing or holds no state dict.
    """
    if text.startswith(TIMM):
        return Weights(text, fetch(text.removeprefix(TIMM)))
    if not text.startswith(OFFICIAL):
        weights = Weights(SHA256, read_file(Path(text)))
    else:
        label, _, file = text.removeprefix(OFFICIAL).partition("=")
        if not file:
            raise UserError(f"name the file of the weights too: {OFFICIAL}{label}=FILE")
        format_of(label)
        state, keys = read_state(Path(file), (*AVERAGED, *WRAPPERS))
        origin = {"file": sha256(Path(file)), "taken": ".".join(keys) or "the whole file"}
        weights = Weights(f"{OFFICIAL}{label}={SHA256}", state, origin)
    return weights._replace(name=weights.name + hashlib.sha256(weights.content()).hexdigest())


def keep(weights: Weights, folder: Path) -> None:
    """Put weights into the folder where `find` looks, unless they are there."""
    file = _file(weights.name, folder)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(file, weights.content())


def find(name: str, folder: Path) -> State:
    """The weights that a spec names, from the folder, or the first time from timm.

    Raises:
        UserError: they are not in the folder and cannot be fetched, or the file is damaged.
    """
    file = _file(name, folder)
    source, _, digest = name.rpartition(SHA256)
    if not file.exists():
        if digest != name:
            raise UserError(f"the weights {name} are not in {folder}; give their file with --weights {source}FILE")
        keep(Weights(name, fetch(name.removeprefix(TIMM))), folder)
    content = file.read_bytes()
    if digest != name and hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"the weights in {file} are not those of their name; delete the file and give it again")
    try:
        return load(content)
    except SafetensorError as error:
        raise UserError(f"the weights in {file} are damaged ({error}); delete the file and give it again") from error


def origin_of(name: str, folder: Path) -> dict[str, str]:
    """Where kept weights in their authors' names come from: `file`, the SHA-256 of the user's file, and `taken`, under
    which key it holds them (averaged ones are preferred). Empty for other weights."""
    with safe_open(_file(name, folder), framework="pt") as file:
        return json.loads((file.metadata() or {}).get(ORIGIN, "{}"))


def start_from(name: str, state: State, net: Supernet, preset: Preset, classes: Sequence[str]) -> Transferred:
    """The state of `net`, built from a preset for some classes, with the values of the weights that a spec names.

    Raises:
        UserError: they are of another network, or have a tensor too few, too many or misshapen.
    """
    if name.startswith(OFFICIAL):
        return from_official(name.removeprefix(OFFICIAL).partition("=")[0], state, net, preset, classes)
    return from_timm(state, net, preset.family)


def is_official(name: str | None) -> bool:
    """Whether the weights that a spec names are in their authors' names."""
    return name is not None and name.startswith(OFFICIAL)


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
    return read_state(path, WRAPPERS)[0]


def read_state(path: Path, wrappers: Sequence[str]) -> tuple[State, list[str]]:
    """As `read_file`, with the keys under which the state dict was found; of the `wrappers` the first is preferred."""
    if not path.is_file():
        raise UserError(f"there is no file of weights {path}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's checkpoints hold their arguments
            content = load(path.read_bytes()) if path.suffix == ".safetensors" else torch.load(
                path, map_location="cpu", weights_only=True
            )  # fmt: skip
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} cannot be read as weights, safetensors or a state dict of tensors alone ({reason:.120})"
        ) from error
    state, keys = _unwrapped(content, path, wrappers)
    return plain(state), keys


def _unwrapped(content: Any, path: Path, wrappers: Sequence[str]) -> tuple[State, list[str]]:
    keys = []
    for key in wrappers:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            keys.append(key)
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path} holds no state dict, alone or under {' or '.join(map(repr, wrappers))}")
    return content, keys


def plain(state: State) -> State:
    """Tensors of their own, in the order of their names, without the prefix that DistributedDataParallel adds."""
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    return {key.removeprefix(prefix): state[key].detach().cpu().clone().contiguous() for key in sorted(state)}
