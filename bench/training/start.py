"""What a run starts from: the weights that its seed draws, pretrained ones, or those of another run's network.

The parent (`init_from`) may have been trained on other data: what is in front of the head is taken as it was left, the
head where it has as many classes (`models/transfer.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.models.preset import Family
from bench.models.transfer import Transferred, from_timm, head_of, transfer
from bench.models.weights import find
from bench.slicing.supernet import Supernet
from bench.training import checkpoint
from bench.training.context import Context

SUPERNET = "final"
"""Name of the checkpoint that holds a run's supernet as it is evaluated."""


def from_pretrained(net: Supernet, family: Family, weights: str, folder: Path | None) -> Transferred:
    """A supernet's state with the pretrained weights that a spec names; `folder` holds those of the results.

    Raises:
        UserError: they are not to be had, or are those of another network.
    """
    if folder is None:
        raise UserError(f"weights {weights} are kept in a results directory, and there is none")
    try:
        return from_timm(find(weights, folder), net, family)
    except UserError as error:
        raise UserError(f"cannot start from {weights}: {error}") from error


def from_parent(module: nn.Module, context: Context, name: str, role: str) -> Transferred:
    """The state of `module` with what the parent's checkpoint `name` holds as `role` ("supernet", "network").

    Raises:
        UserError: the parent left no such network, or one of another shape.
    """
    assert context.parent is not None
    assert context.parent_spec is not None
    run_id = context.parent_spec.run_id
    state = left_by(context.parent, run_id, name, role)
    try:
        return transfer(state, module, head_of(module))
    except UserError as error:
        raise UserError(f"cannot start from {run_id}: {error}") from error


def left_by(folder: Path, run_id: str, name: str, role: str) -> dict[str, Tensor]:
    """What a run's checkpoint `name` in its folder holds as `role`. Raises `UserError` where there is none."""
    path = folder / "checkpoints" / f"{name}.safetensors"
    if not path.exists():
        raise UserError(f"{run_id} left no {role} {name} to start from")
    tensors, _ = checkpoint.load(path, run_id)
    return {key.removeprefix(f"{role}/"): t for key, t in tensors.items() if key.startswith(f"{role}/")}


def report(spec: RunSpec, found: Transferred) -> dict[str, Any]:
    """What `train.json` says of a start: where from, which tensors kept the values drawn by the seed (the new head),
    and which of the source's found no place."""
    return {"from": spec.weights or spec.init_from, "stayed": sorted(found.stayed), "unused": sorted(found.unused)}
