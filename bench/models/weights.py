"""Pretrained weights by name, so that a spec needs no path: `timm:NAME`, or `sha256:DIGEST` of a file that was given,
or `official:FORMAT=sha256:DIGEST` of one in its authors' names.

What a run starts from is kept in the results, in `weights/`, as safetensors in the names of its source. So a run can
be done again without the file or the network that it came from. Where a file held more than was taken, they say so.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from bench.core.errors import UserError
from bench.core.files import sha256, write_atomic
from bench.models.official import format_of, from_official, imagenet_rows
from bench.models.plain.network import whole_of
from bench.models.plain.weights import from_own
from bench.models.preset import Preset
from bench.models.transfer import Transferred, from_timm
from bench.models.weights_file import plain, read_file, usable
from bench.slicing.supernet import Supernet

State = Mapping[str, Tensor]
TIMM, SHA256, OFFICIAL = "timm:", "sha256:", "official:"
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
            hold; `read_file` refuses the file.
    """
    if text.startswith(TIMM):
        return Weights(text, fetch(text.removeprefix(TIMM)))
    source, file = "", text
    if text.startswith(OFFICIAL):
        label, _, file = text.removeprefix(OFFICIAL).partition("=")
        if not file:
            raise UserError(f"name the file of the weights too: {OFFICIAL}{label}=FILE")
        format_of(label)
        source = f"{OFFICIAL}{label}="
    state, entry, beside = read_file(Path(file))
    origin = {"taken": entry, "beside": ", ".join(beside)} if beside else {}
    if source:
        origin |= {"file": sha256(Path(file)), "taken": entry or "the whole file"}
    weights = Weights(source + SHA256, state, origin)
    return weights._replace(name=weights.name + hashlib.sha256(weights.content()).hexdigest())


def weights_of(preset: Preset) -> str:
    """What a spec calls the weights that a model comes with. Raises `UserError` where it comes with none."""
    if preset.weights is None:
        raise UserError(f"{preset.name} comes with no weights; name a file of them with --weights")
    return preset.weights if preset.weights.startswith(TIMM) else given(preset.weights).name


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
    source, _, digest = name.rpartition(SHA256)
    if not file.exists():
        if digest != name:
            raise UserError(f"the weights {name} are not in {folder}; give their file with --weights {source}FILE")
        keep(Weights(name, fetch(name.removeprefix(TIMM))), folder)
    content = file.read_bytes()
    if digest != name and hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"the weights in {file} are not those of their name; delete the file and give it again")
    try:
        return usable(load(content), str(file))
    except SafetensorError as error:
        raise UserError(f"the weights in {file} are damaged ({error}); delete the file and give it again") from error


def origin_of(name: str, folder: Path) -> dict[str, str]:
    """Which entry of their file kept weights are (`taken`), and what of it is not (`beside`); of weights in their
    authors' names also the SHA-256 of the user's file (`file`). Empty where there is nothing to tell."""
    with safe_open(_file(name, folder), framework="pt") as file:
        return json.loads((file.metadata() or {}).get(ORIGIN, "{}"))


def start_from(name: str, state: State, net: Supernet, preset: Preset, classes: Sequence[str]) -> Transferred:
    """The state of `net`, built from a preset for some classes, with the values of the weights that a spec names.

    Raises:
        UserError: they are of another network, or have a tensor too few, too many or misshapen.
    """
    if name.startswith(OFFICIAL):
        return from_official(name.removeprefix(OFFICIAL).partition("=")[0], state, net, preset, classes)
    if whole_of(net) is not None:
        return from_own(state, net, imagenet_rows(classes))
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
    return usable(plain(network.state_dict()), f"timm's {name}")
