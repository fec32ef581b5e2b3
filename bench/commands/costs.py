"""`slicebench profile`: what is asked for, the forms that can be timed, and what a killed profile leaves to go on from.

Each batch size is one interleaved run. What it found is put beside the file that is to be written, under a name that
tells the command and the machine: the same command finds it and goes on, another command has a name of its own. The
last step removes it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.commands.shared import check_writable
from bench.core.errors import UserError, unknown
from bench.core.files import damaged, read_json, write_json
from bench.core.provenance import environment
from bench.export.engines import ENGINES, network_in_engine
from bench.export.job import failing_as
from bench.profilers.model import profile_supernet, profile_timm
from bench.profilers.timing import FORMS, Entry, Form, Progress, Timing
from bench.slicing.choice import Choice
from bench.slicing.extract import extract
from bench.slicing.supernet import Supernet


def _in_engine(engine: str) -> Form:
    """A sub-network as an ONNX file in an engine."""

    def build(net: Supernet, choice: Choice, example: Tensor) -> nn.Module:
        with failing_as(f"{net.space.name_of(choice)} cannot be exported as onnx"):
            return network_in_engine(extract(net, choice), example, engine, torch.get_num_threads())

    return Form(build, torch.contiguous_format, ENGINES[engine].check)


ALL_FORMS = FORMS | {name: _in_engine(name) for name in ENGINES}


@dataclass(frozen=True)
class Request:
    """What the command line asks for, as it was typed.

    Attributes:
        image_size: None for what the model was made for.
        time: sub-networks to time; "" for those that are counted.
        batch, form: separated by commas.
        time_limit: seconds of rounds for a batch size.
    """

    model: str
    image_size: int | None = None
    choices: str = "all"
    time: str = ""
    batch: str = ""
    form: str = "view,extracted"
    gate_options: int = 4
    time_limit: float = 240.0

    def timing(self) -> Timing:
        """Raises `UserError` for a batch size, time or form that cannot be, and where an extra is missing."""
        if math.isnan(self.time_limit):
            raise UserError("--time-limit takes seconds, not nan")
        batches = list(dict.fromkeys(positive(part, "--batch") for part in self.batch.split(",") if part))
        names = [part.strip() for part in self.form.split(",")]
        for name in names:
            if name not in ALL_FORMS:
                raise unknown("form", name, ALL_FORMS)
        if self.time and not batches:
            raise UserError("--time says which sub-networks are timed; say with --batch at which batch sizes")
        forms = {name: form for name, form in ALL_FORMS.items() if name in names}
        if batches:
            for form in forms.values():
                form.check()
        return Timing(batches, self.time or None, forms, self.time_limit)

    def name(self) -> str:
        """Eight digits that tell this request, the versions and the processor from others."""
        made_with = environment(torch.get_num_threads())
        about = [vars(self), *(made_with[key] for key in ("versions", "commit", "cpu", "cores", "threads"))]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]


def measured(request: Request, file: Path | None, tell: Progress) -> dict[str, Any]:
    """Count and time a model's sub-networks; the JSON values are also written to `file`.

    Raises:
        UserError: a request that cannot be met, or a file that cannot be written.
    """
    timing = request.timing()
    if file is not None:
        check_writable(file)
    unfinished = Unfinished(file and file.with_name(f"{file.name}.{request.name()}.partial"))
    if request.model.startswith("timm:"):
        if request.choices != "all" or request.time:
            raise UserError(f"{request.model} has no sub-networks; leave --choices and --time out")
        if list(timing.forms) not in ([*FORMS], ["extracted"]):
            raise UserError(f"{request.model} is timed as it is, which is called extracted; leave --form out")
        costs = profile_timm(request.model.removeprefix("timm:"), request.image_size, timing, unfinished, tell)
    else:
        size, options = request.image_size, request.gate_options
        costs = profile_supernet(request.model, size, request.choices, timing, options, unfinished, tell)
    if file is not None:
        write_json(file, costs)
    unfinished.remove()
    return costs


class Unfinished:
    """The entries of the batch sizes that are measured already, in a file that is whole at any time; without a file,
    nothing is kept."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.entries: dict[str, list[Entry]] = {}
        if file is not None and file.exists():
            self.entries = read_json(file)
            if not all(map(_are_entries, self.entries.values())):
                raise damaged(file, "it holds something else than timings")

    def __call__(self, batch: int, measured: Callable[[int], list[Entry]]) -> list[Entry]:
        """The entries of a batch size: as they are kept, else measured and kept."""
        if str(batch) not in self.entries:
            self.entries[str(batch)] = measured(batch)
            if self.file is not None:
                write_json(self.file, self.entries)
        return self.entries[str(batch)]

    def remove(self) -> None:
        if self.file is not None:
            self.file.unlink(missing_ok=True)


def _are_entries(value: Any) -> bool:
    """Whether a value has the shape of a batch size's entries, so that a profile can go on from it."""
    return isinstance(value, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("latency"), dict)
        for entry in value
    )


def positive(text: str, option: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise UserError(f"{option} takes whole numbers from 1 separated by commas, not {text!r}")
    return int(text)
