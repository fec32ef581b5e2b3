"""The methods by name, and what must hold of a run before it is one: its names, options and parent."""

from __future__ import annotations

import dataclasses

from bench.core.errors import UserError, unknown
from bench.core.registry import Registry
from bench.core.spec import RunSpec
from bench.methods.contract import Method
from bench.models import MODELS

METHODS = Registry(
    "method",
    {
        "ds_net": "bench.methods.ds_net:DSNet",
        "ds_net_pp": "bench.methods.ds_net:DSNetPP",
        "uniform": "baselines.uniform:Uniform",
        "s_net": "baselines.switchable:SNet",
        "us_net": "baselines.universally_slimmable:USNet",
        "autoslim": "baselines.autoslim:AutoSlim",
        "nested_vit": "baselines.nested_transformer:NestedViT",
        "pruning": "baselines.pruning:Pruning",
        "token_prune": "baselines.token_prune:TokenPrune",
        "thinking_vit": "baselines.thinking_vit:ThinkingViT",
        "early_exit": "baselines.early_exit:EarlyExit",
        "layer_skip": "baselines.layer_skip:LayerSkip",
        "channel_gate": "baselines.channel_gate:ChannelGate",
        "random_gate": "baselines.controls:RandomGate",
        "fixed_choice": "baselines.controls:FixedChoice",
        "sliced_order": "baselines.sliced_order:SlicedOrder",
        "class_prior": "baselines.class_prior:ClassPrior",
    },
    group="slicebench.methods",
)


def method_of(name: str) -> Method:
    """The method called `name`. Raises `UserError`, naming the nearest, when there is none."""
    return METHODS.get(name)()


def completed(spec: RunSpec) -> RunSpec:
    """A spec as it is run: names and options checked, options that equal their default dropped, version filled in.

    Raises:
        UserError: unknown method, model or option; a method on a family that it does not serve.
    """
    method = method_of(spec.method)
    if spec.model not in MODELS:
        raise unknown("model", spec.model, MODELS.names())
    if not method.serves(spec.model):
        known = ", ".join(name for name in MODELS.names() if method.serves(name))
        raise UserError(f"{method.name} serves {known}, not {spec.model}")
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
