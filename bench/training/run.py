"""A run as one value: what a method trains with, and how it keeps and reads back its checkpoints.

`bench/runs/run.py` opens one from a results directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.spec import RunSpec
from bench.data.dataset import Batch, Dataset
from bench.data.group import ALONE, Group
from bench.models import PRESETS
from bench.models.preset import Preset
from bench.tasks.task import Task, task_of
from bench.training import checkpoint

Progress = Callable[[str, int, int], None]
"""(what is done, steps done, steps in all)."""


def silent(label: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


@dataclass(frozen=True)
class Run:
    """One run: its description, its data and its folder.

    Attributes:
        options: the spec's options as the method's frozen dataclass, defaults filled in.
        folder: the run's own folder; checkpoints go to `folder / "checkpoints"`.
        open_data: gives the dataset; `data` asks it once, when it is first needed.
        parent: the run named by `init_from`, where this one needs it: to start from, or to read its checkpoints.
        weights: folder of the pretrained weights that specs name.
        checkpoint_s: seconds between checkpoints that a killed run resumes from.
        group: the processes that work on the run, each with a value like this. Rank 0 alone writes.
        rehearsal: end every training after so many steps, to time them; progress tells the steps of the whole.
    """

    spec: RunSpec
    options: Any
    folder: Path
    open_data: Callable[[], Dataset]
    device: torch.device
    parent: Run | None = None
    progress: Progress = silent
    checkpoint_s: float = 30.0
    weights: Path | None = None
    group: Group = ALONE
    rehearsal: int | None = None

    @cached_property
    def data(self) -> Dataset:
        """The dataset. Raises `UserError` where its files are not there."""
        return self.open_data()

    @cached_property
    def task(self) -> Task:
        """The task of the data."""
        return task_of(self.data)

    @property
    def example(self) -> Tensor:
        """(1, C, H, W): an image of the data's size, all zeros, to count with."""
        return torch.zeros(1, self.data.channels, *[self.data.image_size] * 2, device=self.device)

    @cached_property
    def preset(self) -> Preset:
        """What its model is. Raises `UserError` for a name that there is none of."""
        return PRESETS.get(self.spec.model)

    @cached_property
    def run_id(self) -> str:
        """Written into every checkpoint, so that one of another run is never taken for this run's."""
        return self.spec.run_id

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """The task's loss of an output against a batch's targets, with the label smoothing of the spec."""
        return self.task.loss(output, batch.targets, self.spec.train.label_smoothing)

    def checkpoint(self, name: str) -> Path:
        """Where the finished weights called `name` are kept."""
        return self.folder / "checkpoints" / f"{name}.safetensors"

    def once(
        self, name: str, compute: Callable[[], tuple[Mapping[str, Tensor | nn.Module], Mapping[str, Any]]]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON notes of the checkpoint `name`, computed and written atomically where it is missing.

        Args:
            compute: gives tensors or modules by name, and the notes; a module's tensors are kept as `name/parameter`.

        Raises:
            UserError: the checkpoint is damaged, or another run's.
        """
        if not self.group.same(self.checkpoint(name).exists):
            parts, notes = compute()
            if self.group.rank == 0:
                checkpoint.save(self.checkpoint(name), checkpoint.gather(parts), self.run_id, notes)
        return self.read(name)

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and notes of a checkpoint, as rank 0 reads them. Raises `UserError` where it is missing, damaged or
        another run's."""
        return self.group.same(lambda: checkpoint.load(self.checkpoint(name), self.run_id))

    def restore(self, name: str, modules: Mapping[str, nn.Module]) -> None:
        """Load the state of modules from a checkpoint. Raises `UserError` as `read` does, and where they do not fit."""
        checkpoint.scatter(self.read(name)[0], modules)

    def state(self, name: str, role: str) -> dict[str, Tensor]:
        """The state that a checkpoint holds of the module `role` ("supernet", "network"). Raises as `read` does."""
        tensors, _ = self.read(name)
        return {key.removeprefix(f"{role}/"): t for key, t in tensors.items() if key.startswith(f"{role}/")}
