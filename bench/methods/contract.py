"""The method contract: from a spec and data to operating points. Everything after that is common to all methods."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from bench.core.errors import UserError, unknown
from bench.core.spec import RunSpec
from bench.data.dataset import Dataset
from bench.methods.table import METHODS, Kind
from bench.models import PRESETS, Preset
from bench.models.preset import Trains
from bench.models.transfer import Transferred
from bench.points import OperatingPoint
from bench.slicing.choice import Choice
from bench.slicing.extract import extract
from bench.slicing.supernet import Supernet
from bench.training.context import Context
from bench.training.loop import stable_seed
from bench.training.start import SUPERNET, from_parent, from_pretrained, report


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """For methods without settings of their own."""


class Method:
    """One way to get operating points. A new one is a subclass with `operating_points`, registered by name.

    Attributes:
        kind: "dynamic" (cost depends on the image), "slimmable" (several points share weights), "static", "control".
        paper: where it comes from.
        trains, families: the presets that it can train, by what they train as and by their family's name; empty for
            all.
        version: raised when its results change for an equal spec.
        Options: frozen dataclass of its settings; a run's `options` must be among its fields.
        needs_parent: True where it works on the checkpoint of another run (`init_from`) and leaves none of its own.
            Other methods may start from one, on any data, and train on.
        leaves: what a finished run holds for others to start from: the checkpoint `final` with a supernet, a checkpoint
            for each network that was trained alone (by the name of its choice), or, where it does not say, nothing.
        takes_networks: True where it may start from networks trained alone (`build_network`), not from supernets only.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    paper: ClassVar[str] = ""
    trains: ClassVar[tuple[Trains, ...]] = ()
    families: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    Options: ClassVar[type] = NoOptions
    needs_parent: ClassVar[bool] = False
    leaves: ClassVar[Literal["supernet", "networks", "nothing"]] = "nothing"
    takes_networks: ClassVar[bool] = False

    def operating_points(self, spec: RunSpec, data: Dataset, context: Context) -> list[OperatingPoint]:
        """Train what is not trained yet (checkpoints below `context.directory`), else load it; return the points.

        Equal specs give equal points. The test split is out of reach: `data` is passed without it being opened.
        """
        raise TypeError(f"method {self.name} yields no operating points")

    def serves(self, preset: Preset) -> bool:
        """Whether it can train a model preset."""
        return preset.trains_as in (self.trains or (preset.trains_as,)) and (
            not self.families or preset.family.name in self.families
        )

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        """Raise `UserError` for settings that this model cannot meet (a width, choice or budget that no sub-network
        has). Called before any work is done; `net` is the spec's model with any weights."""

    def check_data(self, spec: RunSpec, data: Dataset) -> None:
        """Raise `UserError` for settings that these data cannot meet. Called before any work is done."""

    def check_start(self, parent: RunSpec) -> None:
        """Raise `UserError` for a run on whose checkpoint this method cannot work, where it needs one."""

    def options(self, spec: RunSpec) -> Any:
        """The spec's options as this method's frozen dataclass, defaults filled in."""
        return self.Options(**_checked_options(self.name, self.Options, dict(spec.options)))


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


def fresh_model(spec: RunSpec, data: Dataset, context: Context) -> Supernet:
    """The spec's model preset for the data's classes and channels, with weights that depend on the seed alone.

    Raises:
        UserError: the model is for another task than the data.
    """
    torch.manual_seed(stable_seed(spec.seed, spec.model, "init"))
    preset: Preset = PRESETS.get(spec.model)
    check_task(preset, data)
    net = preset.build(len(data.classes), data.channels)
    return net.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def check_task(preset: Preset, data: Dataset) -> None:
    """Raise `UserError` for a model whose output is not what the data's task is about."""
    if preset.task != data.task:
        raise UserError(f"{preset.name} is a model for {preset.task}, and {data.id} is data for {data.task}")


def build_model(spec: RunSpec, data: Dataset, context: Context) -> Supernet:
    """The spec's model with the weights that training starts from: its seed's, or what it names to start from.

    Raises:
        UserError: the weights, or the parent's network, are missing or do not fit.
    """
    net = fresh_model(spec, data, context)
    found = _start(net, spec, context)
    if found is not None:
        net.load_state_dict(found.state)
    return net


def build_network(net: Supernet, choice: Choice, context: Context) -> nn.Module:
    """A sub-network of `build_model` as a plain one to be trained alone. Where the parent trained networks alone, it
    starts from the parent's of that name. Raises `UserError` where it has none."""
    network = extract(net, choice)
    if _parent_leaves(context) == "networks":
        network.load_state_dict(from_parent(network, context, net.space.name_of(choice), "network").state)
    return trainable_copy(network)


def start_of(spec: RunSpec, data: Dataset, context: Context) -> dict[str, Any]:
    """What a run took to start from, for `train.json`; empty where it started from its seed or works on its parent."""
    found = _start(fresh_model(spec, data, context), spec, context)
    if found is not None:
        return report(spec, found)
    alone = context.parent is not None and not method_of(spec.method).needs_parent
    return {"from": spec.init_from, "networks": "each from the parent's of its name"} if alone else {}


def _start(net: Supernet, spec: RunSpec, context: Context) -> Transferred | None:
    """The state that a fresh supernet starts from, if it is not to start as it is."""
    if spec.weights is not None:
        return from_pretrained(net, PRESETS.get(spec.model).family, spec.weights, context.weights)
    if spec.init_from is None or context.parent_spec is None or method_of(spec.method).needs_parent:
        return None
    check_parent(spec, context.parent_spec)
    if _parent_leaves(context) == "networks":
        return None
    return from_parent(net, context, SUPERNET, "supernet")


def _parent_leaves(context: Context) -> str | None:
    return None if context.parent_spec is None else method_of(context.parent_spec.method).leaves


def reseed(spec: RunSpec, *parts: object) -> None:
    """Seed torch for building one thing of a run, so that what is built does not depend on what came before."""
    torch.manual_seed(stable_seed(spec.seed, *parts))


def trainable_copy(network: nn.Module) -> nn.Module:
    """The network with its parameters open to training again."""
    return network.requires_grad_(True).train()


def _checked_options(method: str, kind: type, options: dict[str, Any]) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key, value in options.items():
        if key not in fields:
            raise unknown(f"option of {method}", key, fields)
        if not _fits(value, hints[key]):
            raise UserError(f"options.{key} of {method} must be {_spelled(hints[key])}, not {value!r}")
    return options


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a type that an options dataclass names."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in args
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, args[0]) for item in value)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _spelled(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_spelled(arg) for arg in args)
    if origin is tuple:
        return f"a list of {_spelled(args[0])}"
    if hint is type(None):
        return "null"
    return {int: "an integer", float: "a number", str: "a string", bool: "true or false"}.get(hint, str(hint))
