"""Latency of many sub-networks in several forms: one interleaved run for each batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.profilers.choices import chosen
from bench.profilers.latency import Latency, measure_networks
from bench.slicing.choice import Choice
from bench.slicing.extract import extract
from bench.slicing.supernet import Supernet, View, to_channels_last

ROUNDS, WARMUP = 11, 2
TIMED_AT_MOST = 64
"""Sub-networks of one run: all forms of all of them are in memory together."""

Progress = Callable[[str, int, int], object]
Found = list[dict[str, Any]]
"""What one batch size found, as JSON values: {"name": a sub-network's, "latency": {...}} for each form."""
Kept = Callable[[int, Callable[[int], Found]], Found]
"""(batch size, how it is measured) to what it found, now or earlier."""


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody wants to know."""


def measured_now(batch: int, measured: Callable[[int], Found]) -> Found:
    """Nothing is kept."""
    return measured(batch)


class Served(NamedTuple):
    """A module and the memory layout of the images that it is served with."""

    network: nn.Module
    layout: torch.memory_format = torch.channels_last


@dataclass(frozen=True)
class Form:
    """A way to run a sub-network.

    Attributes:
        build: the module to time, of a supernet (channels_last) and a choice; `example` (2, C, H, W) is what it will
            be given.
        layout: memory layout of the images, as the form is served with them.
    """

    build: Callable[[Supernet, Choice, Tensor], nn.Module]
    layout: torch.memory_format = torch.channels_last


def _extracted(net: Supernet, choice: Choice, example: Tensor) -> nn.Module:
    return to_channels_last(extract(net, choice, fold_bn=True))


FORMS = {"view": Form(lambda net, choice, example: View(net, choice)), "extracted": Form(_extracted)}


@dataclass(frozen=True)
class Timing:
    """What is to be timed.

    Attributes:
        choices: which sub-networks (`profilers/choices.py`); None for all that are counted.
        limit_s: seconds of rounds for a batch size, after which no new one begins (`measure`).
    """

    batches: Sequence[int] = ()
    choices: str | None = None
    forms: Mapping[str, Form] = field(default_factory=lambda: FORMS)
    limit_s: float = 240.0

    def chosen(self, net: Supernet, counted: list[Choice], image_size: int) -> list[Choice]:
        """The sub-networks to time, of a supernet of which `counted` are counted. Raises `UserError`."""
        if not self.batches:
            return []
        found = counted if self.choices is None else chosen(net, self.choices, image_size, "--time")
        if len(found) > TIMED_AT_MOST:
            raise UserError(
                f"{len(found)} sub-networks are more than the {TIMED_AT_MOST} that are timed together; "
                "name fewer, such as --time spread:8"
            )
        return found


class Timed:
    """Sub-networks of a supernet in every form, made when the first batch size is measured.

    `measure(batch)`: all of them on random images in one interleaved run.
    """

    def __init__(
        self, net: Supernet, model: str, choices: Sequence[Choice], image_size: int, timing: Timing, tell: Progress
    ) -> None:
        self.net, self.model, self.choices = net, model, choices
        self.shape = (net.input_channels, image_size, image_size)
        self.timing, self.tell = timing, tell

    @cached_property
    def networks(self) -> dict[str, Served]:
        """By "name of the sub-network/form"."""
        forms = self.timing.forms
        slots = [(choice, form) for choice in self.choices for form in forms]
        to_channels_last(self.net)
        example, networks = torch.randn(2, *self.shape), {}
        for done, (choice, form) in enumerate(slots):
            name = f"{self.net.space.name_of(choice)}/{form}"
            self.tell(f"preparing {self.model} {name}", done, len(slots))
            networks[name] = Served(forms[form].build(self.net, choice, example), forms[form].layout)
        return networks

    def measure(self, batch: int) -> Found:
        """Raises `UserError` for a batch that does not fit into memory."""
        timed = time_networks(self.networks, self.model, (batch, *self.shape), self.timing.limit_s, self.tell)
        return [found_at(batch, slot, latency) for slot, latency in timed.items()]


def found_at(batch: int, slot: str, latency: Latency) -> dict[str, Any]:
    """One entry of `Found`, of a slot "name of the sub-network/form"."""
    name, _, form = slot.rpartition("/")
    return {"name": name, "latency": {"form": form, "batch": batch, **latency.details()}}


def time_networks(
    networks: Mapping[str, Served], model: str, shape: tuple[int, ...], limit_s: float, tell: Progress
) -> dict[str, Latency]:
    """Latencies on random images of a shape (B, C, H, W). Raises `UserError` for images that do not fit into memory."""

    def measured() -> dict[str, Latency]:
        images = torch.randn(shape)
        layouts = {layout: images.contiguous(memory_format=layout) for _, layout in networks.values()}
        return measure_networks(
            {name: served.network for name, served in networks.items()},
            {name: layouts[served.layout] for name, served in networks.items()},
            ROUNDS,
            WARMUP,
            limit_s=limit_s,
            tell=lambda done, total: tell(f"timing {model} at batch {shape[0]}", done, total),
        )

    return tried(measured, f"{model} cannot be timed at batch {shape[0]}")


@torch.no_grad()
def tried(run: Callable[[], Any], what: str) -> Any:
    """The result of a call that fails where sizes do not fit; its failure as a `UserError` that begins with `what`."""
    try:
        return run()
    except (RuntimeError, AssertionError, UserError) as error:
        reason = "not enough memory" if "allocate" in str(error) else str(error).partition("\n")[0].rstrip(".")
        raise UserError(f"{what}: {reason}") from error
