"""A preset is a value: a network of a family, what it is for, what trains it, and how it is built. No torch here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # presets are listed without torch
    from bench.slicing.supernet import Supernet

Trains = Literal["dynamic slimmable", "dynamic weight slicing", "universally slimmable", "switchable", "nested"]
DYNAMIC: Trains = "dynamic slimmable"
SLICED: Trains = "dynamic weight slicing"
UNIVERSAL: Trains = "universally slimmable"
SWITCHABLE: Trains = "switchable"
NESTED: Trains = "nested"
"""What a network is made for: to be routed by filters (DS-Net) or by further dimensions too (DS-Net++); to run at any
of many widths (US-Net, AutoSlim); to have batch norms of each of a few widths (S-Net); to be nested in its residual
stream too (HydraViT, MatFormer, Scala)."""

Lazy = str
""" "module:attribute", imported when it is used."""


def load(path: Lazy) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Family:
    """Networks of the same units, whose channels are ordered and whose foreign weights are named alike.

    Attributes:
        build: (configuration, classes, channels) to a supernet.
        order: (supernet, generator) permutes its channels in place (`order.py`).
        timm: the module with `key_map` and `from_timm`, None where timm has no counterpart; `timm_head`: how timm's
            names of the classifier begin.
        tokens: activations are tokens (transformers) and not maps of channels.
    """

    name: str
    build: Lazy
    order: Lazy
    timm: str | None = None
    timm_head: str = ""
    tokens: bool = False


@dataclass(frozen=True)
class Preset:
    """One network that can be asked for by name.

    Attributes:
        config: what it is made of, as its family's `build` takes it.
        image_size: height and width of the images that it is made for.
        classes, channels: of the network, where nothing else is asked for.
        what: one sentence about it.
        builder: instead of the family's, where the network is made in another way.
        task: what its output is for, as datasets name it.

    >>> preset = Preset("mine", Family("resnet", "a:build", "a:order"), "switchable", None, 32, 10, 3, "A test.")
    >>> preset.family.name, preset.task
    ('resnet', 'classification')
    """

    name: str
    family: Family
    trains_as: Trains
    config: Any
    image_size: int
    classes: int
    channels: int
    what: str
    builder: Lazy | None = None
    task: str = "classification"

    def build(self, classes: int | None = None, channels: int | None = None) -> Supernet:
        """The supernet for a number of classes and of image channels, with weights from torch's global generator."""
        make = load(self.builder or self.family.build)
        return make(self.config, classes or self.classes, channels or self.channels)
