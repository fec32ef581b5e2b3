"""From the specs that a recipe gives to the specs that run: settings applied, placed on a device, options checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import torch

from bench.core.errors import UserError
from bench.core.settings import overridden
from bench.core.spec import RunSpec, changed
from bench.methods import completed, method_of
from bench.training.precision import check_precision


def with_overrides(specs: Sequence[RunSpec], settings: Mapping[str, str]) -> list[RunSpec]:
    """The specs with `--set key=value` applied, as `core.settings.overridden` says, by the options of their methods.

    Raises:
        UserError: a key that none of the specs has (naming the nearest), or a value that it cannot take.
    """
    options = {spec.method: {field.name for field in fields(method_of(spec.method).Options)} for spec in specs}
    return overridden(specs, settings, options)


def placed(specs: Sequence[RunSpec], device: str | None, local: bool = True) -> list[RunSpec]:
    """The specs as they will run: each on its device, its options checked and those at their default dropped.

    Args:
        device: "cpu" or "cuda" for all; "auto": where a spec says cpu, CUDA if there is one; None: as the specs say.
        local: runs stay on this machine, so a CUDA device must be here.

    Raises:
        UserError: there is no such device, or a spec that its method refuses.
    """
    available = torch.cuda.is_available()

    def place(spec: RunSpec) -> RunSpec:
        wanted = {None: spec.device, "auto": "cuda" if available else spec.device}.get(device, device)
        if wanted == "cuda" and local and not available:
            raise UserError("a CUDA device was asked for, but torch sees none here; use --device cpu")
        if local:
            check_precision(spec.train.precision, str(wanted))
        return completed(replace(spec, device=str(wanted)))

    return changed(specs, place)
