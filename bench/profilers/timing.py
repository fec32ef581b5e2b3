"""Latency of many networks in several forms: one interleaved run for each batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.profilers.choices import chosen
from bench.profilers.latency import LATENCY
from bench.profilers.meter import Conditions, Served, measure
from bench.slicing.choice import Choice
from bench.slicing.extract import extract
from bench.slicing.supernet import Supernet, View, to_channels_last

TIMED_AT_MOST = 64
"""Sub-networks of one run: all forms of all of them are in memory together."""

Progress = Callable[[str, int, int], object]
Entry = dict[str, Any]
"""A network in one form at one batch size, as JSON values: {"name": the network's, "latency": {...}}."""
Kept = Callable[[int, Callable[[int], list[Entry]]], list[Entry]]
"""From a batch size and how it is measured to its entries, measured now or earlier."""


def silent(what: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


def measured_now(batch: int, measured: Callable[[int], list[Entry]]) -> list[Entry]:
    """A `Kept` that keeps nothing."""
    return measured(batch)


@dataclass(frozen=True)
class Form:
    """A way to run a sub-network.

    Attributes:
        build: the module to time, of a supernet (channels_last) and a choice; `example` (2, C, H, W) is what it will
            be given.
        layout: memory layout of the images, as the form is served with them.
        check: raises `UserError` where something that the form needs is not installed.
    """

    build: Callable[[Supernet, Choice, Tensor], nn.Module]
    layout: torch.memory_format = torch.channels_last
    check: Callable[[], object] = lambda: None


FORMS = {
    "view": Form(lambda net, choice, example: View(net, choice)),
    "extracted": Form(lambda net, choice, example: to_channels_last(extract(net, choice, fold_bn=True))),
}


@dataclass(frozen=True)
class Timing:
    """What is to be timed.

    Attributes:
        choices: which sub-networks (`profilers/choices.py`); None for all that are counted.
        limit_s: seconds of rounds for a batch size, after which no new one begins.
    """

    batches: Sequence[int] = ()
    choices: str | None = None
    forms: Mapping[str, Form] = field(default_factory=lambda: FORMS)
    limit_s: float = 240.0

    def chosen(self, net: Supernet, counted: list[Choice], image_size: int) -> list[Choice]:
        """The sub-networks to time, of a supernet of which `counted` are counted. Raises `UserError`."""
        if not self.batches:
            return []
        choices = counted if self.choices is None else chosen(net, self.choices, image_size, "--time")
        if len(choices) > TIMED_AT_MOST:
            raise UserError(
                f"{len(choices)} sub-networks are more than the {TIMED_AT_MOST} that are timed together; "
                "name fewer, such as --time spread:8"
            )
        return choices


Slots = Mapping[tuple[str, str], tuple[nn.Module, torch.memory_format]]
"""By name and form: a network, and the memory layout of the images that it is served with."""


def built(
    net: Supernet, model: str, choices: Sequence[Choice], image_size: int, forms: Mapping[str, Form], tell: Progress
) -> Slots:
    """Sub-networks in every form. The supernet's weights are put into channels_last."""
    slots = [(choice, form) for choice in choices for form in forms]
    to_channels_last(net)
    example, networks = torch.randn(2, net.input_channels, image_size, image_size), {}
    for done, (choice, form) in enumerate(slots):
        name = net.space.name_of(choice)
        tell(f"preparing {model} {name}/{form}", done, len(slots))
        networks[name, form] = forms[form].build(net, choice, example), forms[form].layout
    return networks


def latencies(
    build: Callable[[], Slots], model: str, image: tuple[int, int, int], timing: Timing, kept: Kept, tell: Progress
) -> list[Entry]:
    """Latencies of networks on random images (C, H, W), in one run of all for each batch size.

    The networks are built when the first batch size is measured.

    Raises:
        UserError: a batch that does not fit into memory.
    """
    build = cache(build)

    def measured(batch: int) -> list[Entry]:
        networks = build()
        show = lambda done, total: tell(f"timing {model} at batch {batch}", done, total)
        run = lambda: _at_batch(networks, (batch, *image), timing.limit_s, show)
        return tried(run, f"{model} cannot be timed at batch {batch}")

    return [entry for batch in timing.batches for entry in kept(batch, measured)]


def _at_batch(
    networks: Slots, shape: tuple[int, ...], limit_s: float, tell: Callable[[int, int], object]
) -> list[Entry]:
    images = torch.randn(shape)
    layouts = {layout: [images.contiguous(memory_format=layout)] for _, layout in networks.values()}
    candidates = {slot: Served(network, layouts[layout]) for slot, (network, layout) in networks.items()}
    conditions = Conditions(batch=len(images), warmup=2, rounds=11, limit_s=limit_s)
    timed = measure(LATENCY, candidates, conditions, tell=tell).items()
    return [{"name": name, "latency": {"form": form} | latency.details()} for (name, form), latency in timed]


@torch.no_grad()
def tried(run: Callable[[], Any], what: str) -> Any:
    """The result of a call that fails where sizes do not fit; its failure as a `UserError` that begins with `what`."""
    try:
        return run()
    except (RuntimeError, AssertionError, UserError) as error:
        reason = "not enough memory" if "allocate" in str(error) else str(error).partition("\n")[0].rstrip(".")
        raise UserError(f"{what}: {reason}") from error
