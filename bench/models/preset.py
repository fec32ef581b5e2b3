"""A preset is a value: a network of a family, what it is for, what trains it, and how it is built. No torch here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from bench.core.errors import UserError
from bench.core.image_input import ImageInput

if TYPE_CHECKING:  # presets are listed without torch
    from bench.slicing.supernet import Supernet

Trains = Literal[
    "dynamic slimmable", "dynamic weight slicing", "universally slimmable", "switchable", "nested", "alone"
]
DYNAMIC: Trains = "dynamic slimmable"
SLICED: Trains = "dynamic weight slicing"
UNIVERSAL: Trains = "universally slimmable"
SWITCHABLE: Trains = "switchable"
NESTED: Trains = "nested"
ALONE: Trains = "alone"
"""What a network is made for: to be routed by filters (DS-Net) or by further dimensions too (DS-Net++); to run at any
of many widths (US-Net, AutoSlim); to have batch norms of each of a few widths (S-Net); to be nested in its residual
stream too (HydraViT, MatFormer, Scala); or to be trained as the one network that it is."""
SUPERNETS: tuple[Trains, ...] = (DYNAMIC, SLICED, UNIVERSAL, SWITCHABLE, NESTED)

Lazy = str
""" "module:attribute", imported when it is used."""


def load(path: Lazy) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Official:
    """A format in which authors published trained weights; a user names it, for shapes alone do not tell formats apart.

    Attributes:
        presets: the networks whose weights it holds.
        adapt: (the authors' state dict, the network with all of its classes) to `Adapted`; None where no network here
            computes what the authors' code does, and `refused` says why.
        reported: keys of what is reported of the steps of the network's ladder (`results/reported`), cheapest first.
    """

    name: str
    presets: tuple[str, ...]
    adapt: Lazy | None = None
    refused: str = ""
    reported: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """Networks of the same units, whose channels are ordered and whose foreign weights are named alike.

    Attributes:
        build: (configuration, classes, channels) to a supernet.
        order: (supernet, generator) permutes its channels in place (`order.py`); None where no method orders them.
        timm: the module with `key_map` and `from_timm`, None where timm has no counterpart; `timm_head`: how timm's
            names of the classifier begin.
        tokens: activations are tokens (transformers) and not maps of channels.
        official: the formats of trained weights that authors published of such networks.
    """

    name: str
    build: Lazy
    order: Lazy | None
    timm: str | None = None
    timm_head: str = ""
    tokens: bool = False
    official: tuple[Official, ...] = ()


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
        input: how it wants its images; None where it takes them as the data are.
        weights: those that it comes with: "timm:NAME", or a file of the user's; None where there are none.
        reported: key of what is reported of it with those weights (`results/reported`).

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
    input: ImageInput | None = None
    weights: str | None = None
    reported: str | None = None

    def build(
        self,
        classes: int | None = None,
        channels: int | None = None,
        drop_path: float = 0.0,
        image_size: int | None = None,
    ) -> Supernet:
        """The supernet for a number of classes and of image channels, with weights from torch's global generator.

        Args:
            drop_path: chance that training leaves out what the last residual block adds.
            image_size: of the images, for a network whose tensors depend on it; None: `self.image_size`.

        Raises:
            UserError: a chance for a network that is not made of residual blocks.
        """
        config = self.config
        if drop_path:
            if not hasattr(config, "drop_path"):
                raise UserError(f"train.drop_path leaves out residual blocks, and {self.name} has none that it reaches")
            config = replace(config, drop_path=drop_path)
        if image_size is not None and self.trains_as == ALONE:
            config = replace(config, image_size=image_size)
        return load(self.builder or self.family.build)(config, classes or self.classes, channels or self.channels)
