"""Per-image scores beside a run's evaluation, checked against it."""

import hashlib
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from bench.core.files import damaged
from bench.reports.runs import Run
from bench.statistics.per_image import PointScores, unpack


def read_scores(run: Run) -> dict[str, PointScores]:
    """The per-image file of an evaluated run, by point.

    Raises UserError, naming the file, when it is missing or damaged, or says something else than the
    evaluation.
    """
    named = run.bodies["eval"]["results"].get("per_image", {})
    file = run.folder / str(named.get("file", "per_image.safetensors"))
    tensors = _read(file, named.get("sha256"))
    scores = {}
    for name, point in run.points.items():
        try:
            scores[name] = unpack(name, tensors)
        except KeyError as error:
            raise damaged(file, f"it lacks {error.args[0]!r}") from error
        score, said = scores[name].score, point.paired
        if len(score) != said.n or not math.isclose(score.mean(dtype=np.float64), said.value, abs_tol=1e-12):
            raise damaged(file, f"its scores of {name!r} are not the mean of {said.value} over {said.n} images")
    return scores


def _read(file: Path, sha256: str | None) -> dict[str, NDArray]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise damaged(file, f"it cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise damaged(file, "it does not match the hash in the evaluation")
    try:
        return load(content)
    except SafetensorError as error:
        raise damaged(file, f"not safetensors ({error})") from error
