"""What a network takes of the weights of another: all that fits, and the head only where it is of the same size.

Pure functions over state dicts. A head is what depends on the classes: another number of them needs another head, and
everything in front of it stays what it was trained to be (Li et al. 2021 transfer to CIFAR-10 and to detection so).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from bench.core.errors import UserError
from bench.models.preset import Family
from bench.slicing.supernet import Supernet

State = Mapping[str, Tensor]


class Transferred(NamedTuple):
    """A network's whole state, the names of its tensors that stayed as they were, and those of the source's tensors
    that found no place in it; `beside`: tensors of the source, by its names, that are no supernet's but a method may
    use (a gate)."""

    state: dict[str, Tensor]
    stayed: tuple[str, ...]
    unused: tuple[str, ...]
    beside: Mapping[str, Tensor] = {}


def check_tensors(state: State, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises `UserError` unless a state dict holds exactly the expected names, each in its shape."""
    missing = [name for name in expected if name not in state]
    foreign = [name for name in state if name not in expected]
    for names, verb in ((missing, "lacks"), (foreign, "also holds")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"the checkpoint {verb} {names[0]}{more}: it is another architecture")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise UserError(
                f"the checkpoint's {name} has shape {tuple(state[name].shape)}, this network needs {shape}; "
                "use the preset of the checkpoint's size and number of classes"
            )


def transfer(state: State, net: nn.Module, head_prefixes: Sequence[str]) -> Transferred:
    """The state of `net` with every tensor of `state` that has its name and shape; neither is changed.

    Args:
        head_prefixes: how the names of tensors begin that may stay as they are. They are taken together or not at all.

    Raises:
        UserError: something outside the head is missing from `state` or has another shape.
    """
    own, prefixes = net.state_dict(), tuple(head_prefixes)
    fitting = {key for key, value in own.items() if key in state and state[key].shape == value.shape}
    head = {key for key in own if key.startswith(prefixes)}
    for key, value in own.items():
        if key not in fitting | head:
            present = f"the shape {tuple(state[key].shape)}" if key in state else "nothing of that name"
            raise UserError(f"{key} needs the shape {tuple(value.shape)}, and the weights to start from have {present}")
    copied = fitting if head <= fitting else fitting - head
    stayed = tuple(key for key in own if key not in copied)
    return Transferred(
        {**own, **{key: state[key] for key in copied}}, stayed, tuple(k for k in state if k not in copied)
    )


def head_of(net: nn.Module) -> tuple[str, ...]:
    """How the names of what depends on the classes begin: in a supernet its classifier, in a plain network (one that
    was extracted) its last linear layer; of a detector all of its head."""
    parts = [(f"{name}.", getattr(module, "of_classes", ())) for name, module in net.named_modules()]
    linears = [f"{name}." for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    return tuple(place + part for place, inner in parts for part in inner) or tuple(linears[-1:])


def from_timm(state: State, net: Supernet, family: Family) -> Transferred:
    """The state of `net`, of a family, with the values of a timm (or torchvision) checkpoint, its classifier where it
    has as many classes.

    Raises:
        UserError: timm has no counterpart of this family, or the checkpoint is of another architecture, shape or
            normalisation; the message says what differs.
    """
    if family.timm is None:
        raise UserError(
            f"timm has no counterpart of the family {family.name}; families that start from its checkpoints are "
            "ResNets with batch norm (ds_resnet50_bn, us_resnet50) and Vision Transformers (ds_vit_s, ds_vit_ti)"
        )
    theirs, classifier = importlib.import_module(family.timm), family.timm_head
    own, names = net.state_dict(), theirs.key_map(net)
    head = [key for key, name in names.items() if name.startswith(classifier)]
    fits = all(names[key] in state and state[names[key]].shape[0] == own[key].shape[0] for key in head)
    unused = () if fits else tuple(name for name in state if name.startswith(classifier))
    return Transferred(theirs.from_timm(state, net, head=fits), () if fits else tuple(head), unused)
