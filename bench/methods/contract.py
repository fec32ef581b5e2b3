"""The method contract: what a class must say and do so that its operating points are measured like all others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from bench.core.settings import parse_options
from bench.core.spec import RunSpec
from bench.data.dataset import Dataset
from bench.models.preset import Preset, Trains
from bench.points import OperatingPoint
from bench.slicing.choice import Choice
from bench.slicing.supernet import Supernet
from bench.training.run import Run

Kind = Literal["dynamic", "slimmable", "static", "control"]


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """For methods without settings of their own."""


class Method:
    """One way to get operating points. A new one is a subclass with `train` and `points`, registered by name.

    Attributes:
        kind: "dynamic" (cost depends on the image), "slimmable" (several points share weights), "static", "control".
        role: of a control, how the run that it works on (`init_from`) is held against it. "random": its points are
            those of equal names, routed without looking at the image. "fixed": its points are the sub-networks that
            gates may choose (`OperatingPoint.route`). None: it is shown as a control, and nothing is held against it.
        paper: where it comes from.
        trains, families: the presets that it can train, by what they train as and by their family's name; empty for
            all.
        version: raised when its results change for an equal spec.
        Options: frozen dataclass of its settings; a run's `options` must be among its fields.
        needs_parent: True where it works on the checkpoint of another run (`init_from`) and leaves none of its own.
            Other methods may start from one, on any data, and train on.
        leaves: what a finished run holds for others to start from: the checkpoint `final` with a supernet, a checkpoint
            for each network that was trained alone (by the name of its choice), or, where it does not say, nothing.
        beside: what it takes of the weights that it starts from beside the supernet's own: their names to its own.
        as_given: True where with train.epochs=0 its points run the weights that it was given, and nothing is changed.
        takes_networks: True where it may start from networks trained alone (`build_network`), not from supernets only.

    >>> import torch
    >>> from torch import nn
    >>> from bench.methods import METHODS
    >>> from bench.points import StaticPoint
    >>> class Linear(Method):
    ...     name, kind = "linear", "static"
    ...
    ...     def points(self, run):
    ...         torch.manual_seed(run.spec.seed)
    ...         return [StaticPoint("linear", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), madds=640)]
    >>> METHODS.add("linear", Linear)  # in a file: slicebench run specs.json --plugin FILE
    >>> METHODS.get("linear") is Linear
    True
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    role: ClassVar[Literal["random", "fixed"] | None] = None
    paper: ClassVar[str] = ""
    trains: ClassVar[tuple[Trains, ...]] = ()
    families: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    Options: ClassVar[type] = NoOptions
    needs_parent: ClassVar[bool] = False
    leaves: ClassVar[Literal["supernet", "networks", "nothing"]] = "nothing"
    beside: ClassVar[Mapping[str, str]] = {}
    as_given: ClassVar[bool] = False
    takes_networks: ClassVar[bool] = False

    def train(self, run: Run) -> None:
        """Write the checkpoints that `points` reads (`train_network`, `fit`, `run.once`), and nothing else.

        Killed and called again, it goes on where it was, to the same bytes; what is finished is not done again. Equal
        specs give equal checkpoints. A method that trains nothing leaves this as it is.
        """

    def points(self, run: Run) -> list[OperatingPoint]:
        """The operating points of a trained run, the same ones every time. Nothing is trained or written.

        The test split is out of reach: `run.data` is passed without it being opened.

        Raises:
            UserError: a checkpoint is missing, damaged or another run's.
        """
        raise TypeError(f"method {self.name} yields no operating points")

    def serves(self, preset: Preset) -> bool:
        """Whether it can train a model preset."""
        return preset.trains_as in (self.trains or (preset.trains_as,)) and (
            not self.families or preset.family.name in self.families
        )

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> str | None:
        """Raise `UserError` for settings that this model cannot meet (a width, choice or budget that no sub-network
        has). Called before any work is done; `net` is the spec's model with any weights. A sentence that it returns is
        shown before anything runs."""

    def check_data(self, spec: RunSpec, data: Dataset) -> None:
        """Raise `UserError` for settings that these data cannot meet. Called before any work is done."""

    def check_start(self, parent: RunSpec) -> None:
        """Raise `UserError` for a run on whose checkpoint this method cannot work, where it needs one."""

    def check_on(self, spec: RunSpec, parent: RunSpec, net: Supernet, image_size: int) -> None:
        """Raise `UserError` for settings that the parent's sub-networks cannot meet, where it works on a run's
        checkpoint. Called before any work is done; `net` is the model with any weights."""

    def subnetworks(self, spec: RunSpec, net: Supernet) -> list[Choice]:
        """The sub-networks that the supernet of a finished run is ready to run as, cheapest first; none where it leaves
        no supernet."""
        return []

    def options(self, spec: RunSpec) -> Any:
        """The spec's options as this method's frozen dataclass, defaults filled in. Raises `UserError` for impossible
        ones."""
        return parse_options(self.name, self.Options, spec.options)
