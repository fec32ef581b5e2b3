"""Pretrained weights by name, so that a spec needs no path: `timm:NAME`, or `sha256:DIGEST` of a file that was given.

What a run starts from is kept in the results, in `weights/`, as safetensors in the names of its source. So a run can
be done again without the file or the network that it came from. Where a file held more than was taken, they say so.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from bench.core.errors import UserError
from bench.core.files import write_atomic
from bench.models.weights_file import plain, read_file, usable

State = Mapping[str, Tensor]
TIMM, SHA256 = "timm:", "sha256:"
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
    """What `--weights` names: `timm:NAME`, fetched, or a file, named by the digest of its tensors.

    Raises:
        UserError: timm has no such weights or cannot be reached; `read_file` refuses the file.
    """
    if text.startswith(TIMM):
        return Weights(text, fetch(text.removeprefix(TIMM)))
    state, entry, beside = read_file(Path(text))
    weights = Weights(SHA256, state, {"taken": entry, "beside": ", ".join(beside)} if beside else {})
    return weights._replace(name=SHA256 + hashlib.sha256(weights.content()).hexdigest())


def keep(weights: Weights, folder: Path) -> None:
    """Put weights into the folder where `find` looks, unless they are there."""
    file = _file(weights.name, folder)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(file, weights.content())


def find(name: str, folder: Path) -> State:
    """The weights that a spec names, from the folder, or the first time from timm.

    Raises:
        UserError: they are not in the folder and cannot be fetched, the file is damaged, or they are no finite numbers.
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
        return usable(load(content), str(file))
    except SafetensorError as error:
        raise UserError(f"the weights in {file} are damaged ({error}); delete the file and give it again") from error


def origin_of(name: str, folder: Path) -> dict[str, str]:
    """Which entry of their file kept weights are (`taken`), and what of it is not (`beside`). Empty where the file held
    nothing else."""
    with safe_open(_file(name, folder), framework="pt") as file:
        return json.loads((file.metadata() or {}).get(ORIGIN, "{}"))


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
    return usable(plain(network.state_dict()), f"timm's {name}")
