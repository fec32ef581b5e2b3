"""A method by its name, and what must hold of a run before it is one: its names, options and parent."""

from __future__ import annotations

import dataclasses

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.methods.contract import Method
from bench.methods.table import METHODS
from bench.models import PRESETS


def method_of(name: str) -> Method:
    """The method called `name`. Raises `UserError`, naming the nearest, when there is none."""
    return METHODS.get(name)()


def completed(spec: RunSpec) -> RunSpec:
    """A spec as it is run: names and options checked, options that equal their default dropped, version filled in.

    Raises:
        UserError: unknown method, model or option; a method on a family that it does not serve.
    """
    method = method_of(spec.method)
    if not method.serves(PRESETS.get(spec.model)):
        served = ", ".join(name for name in PRESETS.names() if method.serves(PRESETS.get(name)))
        raise UserError(f"{method.name} serves {served}, not {spec.model}")
    if method.needs_parent and spec.init_from is None:
        raise UserError(f"{method.name} works on another run's checkpoint; name it with init_from")
    options = method.options(spec)
    defaults = {field.name: getattr(method.Options(), field.name) for field in dataclasses.fields(method.Options)}
    kept = {key: getattr(options, key) for key in spec.options if getattr(options, key) != defaults[key]}
    return dataclasses.replace(spec, options=kept, method_version=method.version)


def check_parent(spec: RunSpec, parent: RunSpec) -> None:
    """Raise `UserError` for a run that can do nothing with what `parent` leaves. Their networks are not compared."""
    method, left = method_of(spec.method), method_of(parent.method)
    if method.needs_parent:
        if (parent.model, parent.data) != (spec.model, spec.data):
            raise UserError(f"{spec.run_id} starts from {parent.run_id}, which has another model or other data")
        method.check_start(parent)
    elif left.needs_parent or left.leaves == "nothing":
        raise UserError(
            f"{spec.run_id} starts from {parent.run_id}, but a run of {left.name} leaves no network to train on"
        )
    elif left.leaves == "networks" and not method.takes_networks:
        raise UserError(
            f"{spec.run_id} starts from {parent.run_id}, but {left.name} trains each network alone, and {method.name} "
            "needs a supernet"
        )
