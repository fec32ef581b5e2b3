"""Plain networks as presets: anyone's function that builds an `nn.Module`. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.errors import UserError
from bench.core.image_input import ImageInput
from bench.models.preset import ALONE, Family, Preset

if TYPE_CHECKING:  # presets are listed without torch
    from torch import nn

PLAIN = Family("plain", "bench.models.plain.network:build", order=None)


@dataclass(frozen=True)
class OwnModule:
    """A user's network: what builds it, its head and its stages."""

    build: Callable[[int, int], nn.Module]
    head: tuple[str, ...]
    stages: tuple[str, ...]
    image_size: int

    def make(self, classes: int, channels: int) -> tuple[nn.Module, Sequence[str], Sequence[str]]:
        """A network of it. Raises `UserError` for whatever its function raises."""
        try:
            return self.build(classes, channels), self.head, self.stages
        except Exception as error:  # somebody else's code
            name = getattr(self.build, "__name__", "its function")
            raise UserError(f"{name}({classes}, {channels}) failed: {type(error).__name__}: {error}") from error


def own_network(
    name: str,
    build: Callable[[int, int], nn.Module],
    images: ImageInput,
    *,
    head: Sequence[str],
    stages: Sequence[str] = (),
    weights: str | Path | None = None,
    classes: int = 10,
    channels: int = 3,
    reported: str | None = None,
    what: str = "",
) -> Preset:
    """A network of one's own as a preset: `PRESETS.add("mine", own_network("mine", build, ...))`.

    Args:
        build: from (classes, channels) to a module that takes images (B, C, H, W) to outputs (B, classes).
        images: how it wants its images.
        head: names of the submodules that depend on the number of classes, as its tensors are called: ("fc",).
        stages: names of submodules, in running order, behind which `early_exit` may put a classifier; each must be all
            that what follows it reads.
        weights: a file of them, under the names of the module that `build` makes.
        classes, channels: of the network as it is profiled. reported: key of a row in `results/reported`.

    >>> own_network("mine", lambda classes, channels: None, ImageInput(32, (0.5,), (0.5,)), head=("fc",)).trains_as
    'alone'
    """
    config = OwnModule(build, tuple(head), tuple(stages), images.size)
    file = None if weights is None else str(weights)
    return Preset(
        name, PLAIN, ALONE, config, images.size, classes, channels, what, input=images, weights=file, reported=reported
    )
