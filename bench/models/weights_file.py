"""Files of weights as training scripts leave them: what of a checkpoint is the network, and whether it can be used.

Of several state dicts in a file the averaged one (EMA) is taken, as its authors evaluate it. Names are those in the
network itself, without what wrappers put in front of all of them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor

from bench.core.errors import UserError

State = Mapping[str, Tensor]
ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model")  # where training scripts put weights, best first
LIGHTNING = "pytorch-lightning_version"
PREFIXES = ("module.", "model.")  # of DistributedDataParallel and torch's averaged models; of Lightning
COMPILED = "_orig_mod."  # in front of every module that torch.compile has wrapped


class Checkpoint(NamedTuple):
    """What a file holds of a network.

    entry: the part of the file that was taken, such as "state_dict_ema"; empty for a whole file. beside: the other
    state dicts in the file, and its tensors that are no part of the network.
    """

    state: State
    entry: str
    beside: tuple[str, ...]


def read_file(path: Path) -> Checkpoint:
    """The state dict in a safetensors file or a torch file, alone or in one of `ENTRIES`.

    Prefixes that wrappers put in front of all names are taken off. No code in the file is run.

    Raises:
        UserError: the file is missing, cannot be read without running code, holds no state dict, or holds integers, NaN
            or infinity where weights should be.
    """
    if not path.is_file():
        raise UserError(f"there is no file of weights {path}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's scripts keep their arguments in it
            content = load(path.read_bytes()) if path.suffix == ".safetensors" else torch.load(
                path, map_location="cpu", weights_only=True
            )  # fmt: skip
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(f"{path} cannot be read as weights, {_reason(error)}") from error
    state, entry, beside = _unwrapped(content, path)
    state, outside = _stripped(state, LIGHTNING in content)
    return Checkpoint(usable(plain(state), str(path)), entry, (*beside, *outside))


def _reason(error: Exception) -> str:
    """Why a file cannot be read, in one line without torch's advice to run its code."""
    foreign = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
    if foreign:
        return (
            f"for it holds a {foreign[1]}, which runs code when it is loaded; save its state dict alone, as torch or "
            "safetensors do, where you trust its source"
        )
    reason = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return f"safetensors or a state dict of tensors alone ({reason:.120})"


def _unwrapped(content: Any, path: Path) -> tuple[State, str, tuple[str, ...]]:
    """The first of `ENTRIES` in a checkpoint, its name, and the names of the others; or the checkpoint itself."""
    entry, beside = "", ()
    while isinstance(content, Mapping):
        entries = [key for key in ENTRIES if isinstance(content.get(key), Mapping)]
        if not entries:
            break
        entry, beside, content = entries[0], (*beside, *entries[1:]), content[entries[0]]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    ):
        raise UserError(f"{path} holds no state dict, alone or under {' or '.join(map(repr, ENTRIES))}")
    return content, entry, beside


def _stripped(state: State, lightning: bool) -> tuple[State, tuple[str, ...]]:
    """A state dict by the names in the network itself, and the names of its tensors that are no part of the network.

    Those are the counter of torch's averaged models, and in a `lightning` checkpoint whatever is not the model.
    """
    state = {key.replace(COMPILED, ""): value for key, value in state.items()}
    outside: list[str] = []
    for prefix in PREFIXES * 2:  # "module.model." as well as "model.module."
        inside = {key: value for key, value in state.items() if key.startswith(prefix)}
        others = [key for key in state if key not in inside]
        if inside and (set(others) <= {"n_averaged"} or (lightning and prefix == "model.")):
            outside += others
            state = {key.removeprefix(prefix): value for key, value in inside.items()}
    return state, tuple(outside)


def plain(state: State) -> State:
    """Tensors of their own, in the order of their names."""
    return {key: state[key].detach().cpu().clone().contiguous() for key in sorted(state)}


def usable(state: State, source: str) -> State:
    """The state, if it is made of finite floating-point numbers. Raises `UserError` otherwise, naming the tensor."""
    integers = [key for key in sorted(state) if not state[key].is_floating_point()]
    wrong = [key for key in integers if len(integers) == len(state) or key.endswith(("weight", "bias"))]
    if wrong:
        dtype = str(state[wrong[0]].dtype).removeprefix("torch.")
        raise UserError(
            f"{source} holds {dtype} and no floating-point numbers in {wrong[0]}; a quantised checkpoint must be "
            "converted back first"
        )
    for key in sorted(state):
        if not state[key].isfinite().all():
            raise UserError(
                f"the tensor {key} of {source} holds NaN or infinity: not the run, but the file is to blame"
            )
    return state
