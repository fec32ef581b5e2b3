"""`slicebench draw`: look at what a detector sees, as boxes on validation images.

Detected boxes have the colour of their class and say how sure the detector is; the objects that are there are white.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.shared import DataDirectory, Results
from bench.core.errors import UserError, unknown

if TYPE_CHECKING:  # they take time to import, and the command line imports this file
    import numpy as np
    from PIL import Image

    from bench.tasks.detection.detections import Detections

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")  # Okabe and Ito's palette
ENLARGED = 3
COLUMNS = 4


def draw(
    run_id: Annotated[str, typer.Argument(help="a trained run of detection: the name of its folder in the results")],
    point: Annotated[str | None, typer.Option(help="a point's name (default: the last one of the run)")] = None,
    images: Annotated[int, typer.Option(min=1, help="how many validation images")] = 8,
    out: Annotated[Path, typer.Option(help="the image file to write")] = Path("detections.png"),
    results: Results = Path("results"),
    data: DataDirectory = None,
) -> None:
    """Draw what a detector finds on validation images, beside the objects that are there."""
    check_writable(out)
    drawn = draw_run(run_id, results, data, point, images)
    try:
        drawn.save(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error})") from error
    typer.echo(out)


def draw_run(run_id: str, results: Path, data_root: Path | None, point: str | None, count: int) -> Image.Image:
    """The first `count` validation images of a run as one of its points (the last one where None) sees them.

    Raises:
        UserError: the run is not there, not trained, detects nothing, or has no such point.
    """
    import torch

    from bench.core.store import Store
    from bench.data.boxes import BoxSplit
    from bench.runs.run import open_run, points_of
    from bench.tasks.detection.task import CONFIDENCE

    run = open_run(Store(results, writable=False), run_id, data_root)
    split, points = run.data.validation, {each.name: each for each in points_of(run)}
    if not isinstance(split, BoxSplit):
        raise UserError(f"{run_id} is a run on {run.data.id}, where nothing is detected")
    name = list(points)[-1] if point is None else point
    if name not in points:
        raise unknown(f"point of {run_id}", name, points)
    batch = next(split.batches(count))
    with torch.no_grad():
        detections = run.task.details(points[name](batch.x).output, batch.targets)
    pairs = zip(split.images, detections, strict=False)
    return sheet([with_boxes(*pair, run.data.classes, CONFIDENCE) for pair in pairs])


def with_boxes(pixels: np.ndarray, detections: Detections, classes: Sequence[str], confidence: float) -> Image.Image:
    """One image, (S, S, 3) uint8, enlarged, with the objects that are there and those found at least so surely."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels).resize((ENLARGED * pixels.shape[1], ENLARGED * pixels.shape[0]))
    pen = ImageDraw.Draw(image)
    for box in detections.truth:
        pen.rectangle([ENLARGED * float(side) for side in box], outline="white", width=1)
    for box, score, label in zip(detections.boxes, detections.scores, detections.labels, strict=True):
        if score < confidence:
            continue
        colour = COLOURS[int(label) % len(COLOURS)]
        corners = [ENLARGED * float(side) for side in box]
        pen.rectangle(corners, outline=colour, width=2)
        pen.text((corners[0] + 3, corners[1] + 1), f"{classes[int(label)]} {score:.2f}", fill=colour)
    return image


def sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Images of one size side by side, in rows of `COLUMNS`."""
    from PIL import Image

    width, height = images[0].size
    columns = min(COLUMNS, len(images))
    whole = Image.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for number, image in enumerate(images):
        whole.paste(image, (number % columns * width, number // columns * height))
    return whole


def check_writable(out: Path) -> None:
    """Raise `UserError` for a file that no image can be written to: its ending, or no folder for it."""
    from PIL import Image

    Image.init()
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise UserError(f"{out} has no ending of an image, such as .png")
    if not out.parent.is_dir():
        raise UserError(f"{out} cannot be written: there is no folder {out.parent}")
