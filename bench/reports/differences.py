"""The scores of rows, image by image, and the difference between two rows: what the tables of comparisons share."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from bench.core.errors import UserError
from bench.core.files import damaged
from bench.reports.inspection import PER_IMAGE
from bench.reports.layout import PERCENT_CSV, Column, interval, name_column, signed
from bench.reports.runs import Run
from bench.statistics import crossed
from bench.statistics.intervals import MINIMUM_SEEDS, holm
from bench.statistics.per_image import PointScores, unpack

Row = tuple[str, str, str]
"""(split, config_id, point)"""


class Scored(NamedTuple):
    """What one seed of a row did: its score of each image, in few bytes, and its mean MAdds."""

    score: NDArray  # (images,) in [0, 1]
    madds: float


BySeed = Mapping[int, Scored]


def read_scores(run: Run) -> dict[str, PointScores]:
    """The per-image file of an evaluated run, by point, checked against the evaluation.

    Raises UserError, naming the file, when it is missing or damaged, or says something else than the evaluation.
    """
    file = run.folder / PER_IMAGE
    tensors = _read(file, run.bodies["eval"]["results"].get("per_image", {}).get("sha256"))
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


def scores_by_row(runs: Iterable[Run]) -> dict[Row, dict[int, Scored]]:
    """The scores of every row of the evaluated runs, by seed. Raises UserError as `read_scores`."""
    rows: dict[Row, dict[int, Scored]] = {}
    for run in runs:
        for name, of_point in (read_scores(run) if run.points else {}).items():
            row = rows.setdefault((run.points[name].score.split, run.config_id, name), {})
            whole = of_point.score.astype(np.uint8)
            score = of_point.score if (whole != of_point.score).any() else whole
            row[run.spec.seed] = Scored(score, float(of_point.madds.mean(dtype=np.float64)))
    return rows


def only_scores(row: BySeed) -> dict[int, NDArray]:
    """Seed -> (images,), as the statistics take a row."""
    return {seed: scored.score for seed, scored in row.items()}


def compared(first: BySeed, second: BySeed) -> dict[str, Any] | None:
    """First less second on the seeds that both have, as columns of a table; None where they have none in common.

    seeds, score_mean, madds_mean (of the first), other_score, other_madds, difference, low, high, p_value. Raises
    UserError for rows on different numbers of images.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    try:
        pair = crossed.compare(only_scores(first), only_scores(second))
    except ValueError as error:
        raise UserError(f"results on different data cannot be compared: {error}") from error
    assert pair is not None
    ours, theirs = (
        {"score": float(np.mean([row[seed].score.mean(dtype=np.float64) for seed in seeds]))}
        | {"madds": float(np.mean([row[seed].madds for seed in seeds]))}
        for row in (first, second)
    )
    return {
        "seeds": pair.seeds,
        "score_mean": ours["score"],
        "madds_mean": ours["madds"],
        "other_score": theirs["score"],
        "other_madds": theirs["madds"],
        "difference": pair.difference,
        "low": pair.low,
        "high": pair.high,
        "p_value": pair.p_value,
    }


def verdicts(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of one table with Holm's correction over all that have enough seeds, and what follows.

    Each line has what `compared` says and gets p_holm, p_printed, interval and verdict. "collapsed" is the verdict of a
    line that says so of itself and shows no difference.
    """
    tested = [line for line in lines if line["seeds"] >= MINIMUM_SEEDS]
    for line in lines:
        line |= {"p_holm": math.nan, "p_printed": "", "verdict": f"fewer than {MINIMUM_SEEDS} seeds"}
        line["interval"] = interval(line["low"], line["high"])
    for line, p in zip(tested, holm([line["p_value"] for line in tested]), strict=True):
        significant = "better" if line["difference"] > 0 else "worse"
        line |= {"p_holm": float(p), "verdict": significant if p <= crossed.ALPHA else "no difference shown"}
        line["p_printed"] = f"{'<=' if line['p_value'] <= crossed.P_FLOOR else ''}{p:.6g}"
    for line in lines:
        if line.get("collapsed") and line["verdict"] not in ("better", "worse"):
            line["verdict"] = "collapsed"
    return list(lines)


def p_text(p: float) -> str:
    """Four decimals, or the least number of that many which it does not exceed."""
    return f"{p:.4f}" if p >= 1e-4 else "<= 0.0001"


DIFFERENCE = [
    Column("difference", "difference", signed(2, 100), PERCENT_CSV, "difference_percent"),
    Column("interval", "95 % interval", plain=None),
    Column("low", None, plain=PERCENT_CSV, header="difference_percent_low"),
    Column("high", None, plain=PERCENT_CSV, header="difference_percent_high"),
    Column("p_holm", "p (Holm)", p_text, None),
    Column("p_printed", None, header="p_holm"),
    name_column("verdict"),
]
DIFFERENCE_NOTE = """
Differences in percentage points, on the seeds that both have. The 95 % interval is of what other seeds and other images
would give, in closed form; with one seed it is of other images alone. p with Holm's correction over the table of a
split; fewer than three seeds get no verdict, and "no difference shown" is not "no difference".
"""
