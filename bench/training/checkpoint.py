"""Checkpoints: safetensors with the run_id inside, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.core.errors import UserError


def save(path: Path, tensors: Mapping[str, Tensor], run_id: str, notes: Mapping[str, Any]) -> None:
    """Write tensors and JSON notes atomically: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # swept away when the run is claimed again
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    # One key: safetensors writes several in no fixed order, and equal runs are to leave equal bytes.
    save_file(plain, temporary, {"slicebench": json.dumps({"run_id": run_id, "notes": dict(notes)}, sort_keys=True)})
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def notes_of(path: Path) -> dict[str, Any]:
    """The JSON notes of a checkpoint that was just written, without its tensors."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["slicebench"])["notes"]


def load(path: Path, run_id: str | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and notes of a checkpoint.

    Args:
        run_id: the run that must have written it; None to accept any.

    Raises:
        UserError: the file is missing, damaged, or was written by another run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("slicebench", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint {path.name} in {path.parent}; has its run been trained?") from error
    except (SafetensorError, OSError, ValueError) as error:  # ValueError: notes that are no JSON
        raise UserError(f"checkpoint {path} is damaged ({error}); delete it to train again") from error
    if run_id is not None and about.get("run_id") != run_id:
        raise UserError(f"checkpoint {path} belongs to run {about.get('run_id')}, not to {run_id}")
    return tensors, about.get("notes", {})


def gather(parts: Mapping[str, Tensor | nn.Module]) -> dict[str, Tensor]:
    """Tensors by their names, and the state of modules under one namespace: `<module>/<parameter>`."""
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        state = {name: part} if isinstance(part, Tensor) else part.state_dict(prefix=f"{name}/")
        tensors |= state
    return tensors


def scatter(tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module]) -> None:
    """The inverse of `gather`: strict, every tensor must be there. Raises `UserError` for another architecture."""
    for name, module in modules.items():
        state = {key.removeprefix(f"{name}/"): v for key, v in tensors.items() if key.startswith(f"{name}/")}
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"the checkpoint does not fit {name}: {str(error).splitlines()[-1].strip()}") from error


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What an optimizer remembers: tensors (momentum and the like), and numbers (the count of its steps, which some
    keep for each parameter and some for each group). Learning rates are recomputed from the step."""
    whole = optimizer.state_dict()
    parts = {"optimizer": whole["state"].items(), "optimizer_groups": enumerate(whole["param_groups"])}
    slots = {
        f"{part}/{index}/{key}": value
        for part, entries in parts.items()
        for index, entry in entries
        for key, value in entry.items()
    }
    tensors = {key: value for key, value in slots.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in slots.items() if isinstance(value, int | float)}


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]
) -> None:
    """Put back what `optimizer_state` gave, each tensor in the memory format of its parameter: a norm over another
    order of the same values would differ in the last bit."""
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **numbers}.items():
        if key.startswith("optimizer/"):
            _, index, entry = key.split("/", 2)
            state.setdefault(int(index), {})[entry] = value
        elif key.startswith("optimizer_groups/"):
            _, index, entry = key.split("/", 2)
            whole["param_groups"][int(index)][entry] = value
    optimizer.load_state_dict({**whole, "state": state})
    for parameter, slots in optimizer.state.items():
        for key, value in slots.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                slots[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
