"""Per-image scores beside a run's evaluation, checked against it."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from bench.core.files import damaged
from bench.reports.headline import judged
from bench.reports.runs import Run


class PointScores(NamedTuple):
    """What one point did with each image, in the split's order."""

    score: NDArray[np.float32]  # (n,) in [0, 1]
    madds: NDArray[np.int64]  # (n,)
    route: NDArray[np.int64]  # (n, G)


def read_scores(run: Run) -> dict[str, PointScores]:
    """The per-image file of an evaluated run, by point.

    Raises UserError, naming the file, when it is missing or damaged, or says something else than the
    evaluation.
    """
    results = run.bodies["eval"]["results"]
    named = results.get("per_image", {})
    file = run.folder / str(named.get("file", "per_image.safetensors"))
    tensors = _read(file, named.get("sha256"))
    found = {}
    for point, said in results.get("points", {}).items():
        try:
            scores = PointScores(*(tensors[f"{point}/{part}"] for part in PointScores._fields))
        except KeyError as error:
            raise damaged(file, f"it lacks {error.args[0]!r}") from error
        headline = judged(said)
        total, n = headline.score, headline.images
        if len(scores.score) != n or float(scores.score.sum(dtype=np.float64)) != total:
            raise damaged(file, f"its scores of {point!r} are not the {total} of {n} of the evaluation")
        found[point] = scores
    return found


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
