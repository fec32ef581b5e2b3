"""Where a method trains: its folder, its device, and whom to tell about progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.core.spec import RunSpec

Progress = Callable[[str, int, int], None]


def silent(label: str, done: int, total: int) -> None:
    """Progress that is not shown."""


@dataclass(frozen=True)
class Context:
    """What a method may use besides its spec and its data.

    Attributes:
        directory: the run's own folder; checkpoints go to `directory / "checkpoints"`.
        run_id: written into every checkpoint, so that one of another run is never taken for this run's.
        parent: folder of the run named by `init_from`, and `parent_spec` its description, if any.
        weights: folder of the pretrained weights that specs name.
        checkpoint_s: seconds between checkpoints that a killed run resumes from.
    """

    directory: Path
    run_id: str
    device: torch.device
    progress: Progress = silent
    parent: Path | None = None
    parent_spec: RunSpec | None = None
    checkpoint_s: float = 30.0
    weights: Path | None = None

    def checkpoint(self, name: str) -> Path:
        """Where the finished weights called `name` are kept."""
        return self.directory / "checkpoints" / f"{name}.safetensors"
