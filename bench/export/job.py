"""One export: find what is asked for, write it under another name, run it beside the view, then give it its name."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.core.errors import UserError, unknown
from bench.core.store import Store
from bench.data.dataset import Dataset
from bench.export import onnx_file, pt2_file, safetensors_file
from bench.export.agreement import Agreement, Predictor, compare
from bench.export.branches import load_branches, write_branches
from bench.export.routed import load_routed, write_routed
from bench.export.source import Plain, find, origin
from bench.points import OperatingPoint, Prediction
from bench.runs.run import open_run
from bench.slicing.extract import folded
from bench.training.run import Run, silent

Writer = Callable[[Path, nn.Module, Tensor, tuple[str, ...], Mapping[str, Any]], None]
Tell = Callable[[str, int, int], None]
IMAGES = 200  # of the validation split, then of the calibration split: real ones, and none that final numbers are of


class Format(NamedTuple):
    """How a network is written to a file, and read back as a function from an input to its outputs."""

    write: Writer
    load: Callable[[Path], Callable[[Tensor], tuple[Tensor, ...]]]
    folds: bool  # whether batch norm is folded into the convolutions


FORMATS = {
    "onnx": Format(onnx_file.write, onnx_file.load, True),
    "pt2": Format(pt2_file.write, pt2_file.load, True),
    "safetensors": Format(safetensors_file.write, safetensors_file.load, False),
}


class Exported(NamedTuple):
    """What was written, and how it compares with the view."""

    name: str
    path: Path
    bytes: int
    agreement: Agreement

    @property
    def summary(self) -> str:
        """Two lines for people."""
        same = self.agreement
        return (
            f"{self.name} compared with its view: same top-1 on {same.same_top1} of {same.images} images, "
            f"greatest difference of an output {same.difference:.1e}\n"
            f"written: {self.path} ({self.bytes:,} bytes)"
        )


def export_run(
    run_id: str,
    choice: str | None,
    form: str,
    out: Path,
    results: Path = Path("results"),
    data_root: Path | None = None,
    tell: Tell = silent,
    point: str | None = None,
) -> Exported:
    """Export a sub-network or a point of a trained run to one file.

    Args:
        choice: an index of the ladder, `largest`, a point's name, `dynamic`, or a choice spelled out. None where
            `point` says it.
        form: "onnx", "pt2" or "safetensors". A dynamic point is one ONNX file that routes a batch inside itself, or
            one pt2 archive that routes one image.
        out: the file.
        point: a point's name.

    Raises:
        UserError: an unknown run, choice, point or format; a run that is not trained; a package of the extra `onnx`
            that is missing; a place that cannot be written; a result that does not agree with the view. Nothing is
            left then.
    """
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    if form == "onnx":
        onnx_file.check_extra()
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out} cannot be written: there is no directory {out.parent}")
    run = open_run(Store(results, writable=False), run_id, data_root)
    source = find(run, choice, point)
    if out.is_dir():
        raise UserError(f"{out} is a directory; {source.name} is exported to one file")
    images = _images(run.data)
    export = _export_plain if isinstance(source, Plain) else _export_routed
    try:
        with _temporary(out, f".{form}") as path:
            tell(f"exporting {source.name}", 0, 2)
            with failing_as(f"{source.name} cannot be exported as {form}"):
                exported = export(run, source, form, path, images)  # type: ignore[arg-type]
            tell("comparing with the view", 1, 2)
            reference = source.reference if isinstance(source, Plain) else source
            what = f"the {form} file of {source.name}"
            agreement = compare(exported, reference, images, what, getattr(source, "margins", None))
            os.replace(path, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    return Exported(source.name, out, out.stat().st_size, agreement)


def _images(data: Dataset) -> Tensor:
    """(N, C, H, W), in plain layout, as an exported network meets them."""
    splits = (data.validation, data.calibration)
    first = [next(iter(split.batches(IMAGES))).x for split in splits]
    return torch.cat(first)[:IMAGES].contiguous()


def _export_plain(run: Run, source: Plain, form: str, path: Path, images: Tensor) -> Predictor:
    how = FORMATS[form]
    network = folded(source.network) if how.folds else source.network
    network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    about = origin(run) | {"choice": source.name, "base": source.base.indices}
    how.write(path, network, images[:2], ("output",), about)
    loaded = how.load(path)
    return lambda x: Prediction(loaded(x)[0], torch.empty(len(x), 0, dtype=torch.int64))


def _export_routed(run: Run, point: OperatingPoint, form: str, path: Path, images: Tensor) -> Predictor:
    about = origin(run) | {"point": point.name}
    if form == "onnx":
        write_routed(path, point, images[:2], about)
        return load_routed(path)
    if form == "pt2":
        write_branches(path, point, images[:1], about)
        return load_branches(path)
    raise UserError(f"a {form} file holds one network without branches; export {point.name} as onnx or pt2")


@contextmanager
def _temporary(out: Path, suffix: str) -> Iterator[Path]:
    """A name beside `out`, where nothing remains unless it was moved away."""
    path = out.with_name(f".{out.name}.{secrets.token_hex(6)}.tmp{suffix}")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def failing_as(what: str) -> Iterator[None]:
    """What an exporter refuses, as a `UserError`: networks of plugins may hold anything."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise UserError(f"{what}: {reason}") from error
