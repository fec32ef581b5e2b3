"""The processes that train and evaluate one run together: which of them this one is, and what they tell each other.

They are started by Ray Train or torchrun and meet in torch's default process group. All run the same program over the
same data, so every method here must be called by all of them, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


class Lost(Exception):
    """Another process of the group has ended."""


@dataclass(frozen=True)
class Group:
    """One process of a group: its rank, from 0, and how many there are."""

    rank: int = 0
    size: int = 1

    def same(self, compute: Callable[[], T]) -> T:
        """What rank 0 computes, in all processes; what it raises is raised in all."""
        if self.size == 1:
            return compute()
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = compute()
            except Exception as error:
                outcome[1] = error
        _met(lambda: distributed.broadcast_object_list(outcome, 0))
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        _met(lambda: distributed.all_gather_object(values, value))
        return values

    def add(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place, equal in all to the last bit."""
        if self.size > 1:
            _met(lambda: distributed.all_reduce(tensor))
        return tensor

    def leave(self) -> None:
        """Let those who wait for this process know that it is not coming back."""
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


ALONE = Group()


def current() -> Group:
    """This process in torch's default process group; `ALONE` where there is none."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ALONE
    return Group(distributed.get_rank(), distributed.get_world_size())


def backend(device: str) -> str:
    """How processes talk whose networks are on a device: gloo for all that is on the CPU, NCCL between GPUs."""
    return "cpu:gloo,cuda:nccl" if torch.device(device).type == "cuda" else "gloo"


def _met(call: Callable[[], object]) -> None:
    try:
        call()
    except RuntimeError as error:
        raise Lost(f"another process of the group has ended ({str(error).splitlines()[0]})") from error
