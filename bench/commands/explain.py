"""`slicebench profile MODEL --explain`: where the time of a network goes, as a table, a sentence and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.core.errors import UserError
from bench.core.files import write_json
from bench.core.provenance import environment
from bench.models import PRESETS
from bench.profilers import explain
from bench.profilers.choices import chosen
from bench.profilers.meter import Conditions
from bench.profilers.model import check_size
from bench.profilers.timing import Progress
from bench.slicing.extract import extract
from bench.slicing.supernet import to_channels_last

ROUNDS = 15


def explained(
    model: str, image_size: int | None, choices: str, batches: Sequence[int], file: Path | None, tell: Progress
) -> dict[str, Any]:
    """What `bench.profilers.explain` measures of a preset, as JSON values, also written to `file`: for each batch size
    the stages of its widest network and the line through the sub-networks `choices` ("all": its uniform ladder).

    Raises:
        UserError: an unknown preset or choice, images that it cannot take, or fewer than three sub-networks.
    """
    preset = PRESETS.get(model)
    net, size = preset.build().eval(), image_size or preset.image_size
    check_size(net, model, size)
    ladder = list(net.space.uniform_choices) if choices == "all" else chosen(net, choices, size)
    if len(ladder) < 3:
        raise UserError(f"a line of latency against multiply-adds needs three sub-networks, not {len(ladder)}")
    conditions = Conditions(rounds=ROUNDS, threads=torch.get_num_threads())
    tell("measuring what the machine can do", 0, 1 + 2 * len(batches))
    machine = explain.peaks(conditions)
    widest = ladder[-1]
    network = to_channels_last(extract(to_channels_last(net), widest, fold_bn=True))
    parts = []
    for done, batch in enumerate(batches):
        x = torch.randn(batch, net.input_channels, size, size).contiguous(memory_format=torch.channels_last)
        tell(f"timing the stages of {model} at batch {batch}", 1 + 2 * done, 1 + 2 * len(batches))
        stages = explain.stages(network, x, machine, conditions)  # type: ignore[arg-type]
        tell(f"timing the ladder of {model} at batch {batch}", 2 + 2 * done, 1 + 2 * len(batches))
        points = explain.ladder(net, ladder, x, conditions)
        line = explain.fitted_line(points)
        parts.append({"batch": batch, "stages": [asdict(stage) for stage in stages], "ladder": points} | asdict(line))
    about = {"model": model, "image_size": size, "choice": net.space.name_of(widest), "peaks": machine._asdict()}
    values = about | {"environment": environment(conditions.threads), "batches": parts}
    if file is not None:
        write_json(file, values)
    return values


def explained_table(values: dict[str, Any]) -> str:
    """For people: a table of stages for each batch size, and what the line says."""
    from tabulate import tabulate

    peak = values["peaks"]
    lines = [
        f"{values['model']}, {values['choice']}, at {values['image_size']} x {values['image_size']}; this machine: "
        f"{peak['gflops']:.0f} GFLOP/s in a matrix product, {peak['gbytes']:.1f} GB/s copying"
    ]
    for part in values["batches"]:
        rows = [_stage_row(stage) for stage in part["stages"]]
        aligned = ["left", *["right"] * 7, "left"]
        lines += [f"batch {part['batch']}", tabulate(rows, headers="keys", colalign=aligned, disable_numparse=True)]
        lines.append(
            f"latency = {part['intercept']:.3f} ms + {part['slope']:.4f} ms a million MAdds over {len(part['ladder'])} "
            f"sub-networks, off by {100 * part['error']:.1f} % on average (R2 {part['r2']:.3f})"
        )
    return "\n".join(lines)


def _stage_row(stage: dict[str, Any]) -> dict[str, str]:
    return {
        "stage (output)": stage["name"],
        "layers": str(stage["layers"]),
        "M MAdds": f"{stage['madds'] / 1e6:.2f}",
        "MB": f"{stage['bytes'] / 1e6:.2f}",
        "ms": f"{stage['ms']:.3f}",
        "share of time": f"{100 * stage['share']:.1f} %",
        "GFLOP/s": f"{stage['gflops']:.1f}",
        "times its bound": f"{stage['times_bound']:.1f}",
        "bound by": stage["bound"],
    }


def explained_figure(values: dict[str, Any], path: Path) -> None:
    """Two panels a batch size: each stage's share of multiply-adds beside its share of time, and the ladder's line.

    Raises:
        UserError: the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from bench.reports.style import RC

    with mpl.rc_context(RC):
        parts = values["batches"]
        figure = Figure(figsize=(9.2, 3.4 * len(parts)), layout="constrained")
        panels = figure.subplots(len(parts), 2, squeeze=False)
        for (shares, line), part in zip(panels, parts, strict=True):
            _draw_shares(shares, part)
            _draw_line(line, part)
        figure.suptitle(
            f"{values['model']}, {values['choice']}, {values['image_size']} x {values['image_size']}", x=0.01, ha="left"
        )
        try:
            figure.savefig(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be written: {error}") from error


def _draw_shares(axes: Any, part: dict[str, Any]) -> None:
    stages = part["stages"]
    total = sum(stage["madds"] for stage in stages)
    places = range(len(stages))
    axes.barh([place - 0.2 for place in places], [100 * stage["madds"] / total for stage in stages], 0.4,
              color="#56B4E9", label="multiply-adds")  # fmt: skip
    axes.barh([place + 0.2 for place in places], [100 * stage["share"] for stage in stages], 0.4,
              color="#D55E00", label="time")  # fmt: skip
    axes.set_yticks(list(places), [stage["name"] for stage in stages])
    axes.invert_yaxis()
    axes.set_xlabel("share of the whole network (%)")
    axes.set_title(f"stages by their output, batch {part['batch']}", loc="left")
    axes.legend(loc="lower right")


def _draw_line(axes: Any, part: dict[str, Any]) -> None:
    madds, ms = zip(*part["ladder"], strict=True)
    millions = [count / 1e6 for count in madds]
    axes.plot(millions, ms, "o", color="#0072B2")
    ends = [0, max(millions)]
    axes.plot(ends, [part["intercept"] + part["slope"] * end for end in ends], color="#8C8C8C", linewidth=1)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("million multiply-adds per image")
    axes.set_ylabel("ms per batch")
    axes.set_title(
        f"{part['intercept']:.2f} ms + {part['slope']:.4f} ms per million, off by {100 * part['error']:.1f} %",
        loc="left",
    )
