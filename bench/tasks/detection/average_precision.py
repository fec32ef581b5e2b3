"""Average precision by the rules of PASCAL VOC, and its bootstrap interval over images.

Both rules of Everingham et al.: the mean of the precision envelope at recalls 0, 0.1, ..., 1 (VOC 2007), and the area
under it (since 2010, "all points"). Which detections are hits is said by `training/found.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.statistics.intervals import CONFIDENCE
from bench.tasks.detection.detections import HIT, IGNORED, Detections

Rule = Literal["all_points", "11_points"]
RESAMPLES = 1000
SEED = 20100609


def average_precision(hits: np.ndarray, objects: float, rule: Rule, weights: np.ndarray | None = None) -> float:
    """AP of the detections of one class over all images.

    Args:
        hits: (n,) bool, in descending order of score; ignored ones left out.
        objects: how many objects of the class there are to find. nan is returned where there is none.
        weights: (n,) how often each detection counts; once where None.
    """
    if not objects:
        return float("nan")
    counts = np.ones(len(hits)) if weights is None else weights
    hit, seen = np.cumsum(hits * counts), np.cumsum(counts)
    recall, precision = hit / objects, hit / np.maximum(seen, 1e-12)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if rule == "all_points":
        return float((np.diff(recall, prepend=0.0) * envelope).sum())
    reached = [envelope[recall >= step / 10 - 1e-12] for step in range(11)]
    return float(np.mean([part[0] if len(part) else 0.0 for part in reached]))


@dataclass(frozen=True)
class ClassFindings:
    """All detections of one class, best first.

    hits: (n,) bool; images: (n,) where each was found; objects: (images,) how many each image has.
    """

    hits: np.ndarray
    images: np.ndarray
    objects: np.ndarray

    def precision(self, rule: Rule, drawn: np.ndarray | None = None) -> float:
        """AP; with `drawn` (images,), how often each image counts."""
        if drawn is None:
            return average_precision(self.hits, float(self.objects.sum()), rule)
        return average_precision(self.hits, float(self.objects @ drawn), rule, drawn[self.images].astype(np.float64))


def findings_of(images: Sequence[Detections], label: int) -> ClassFindings:
    """The findings of one class over all images; equal scores keep the order of the images."""
    hits, scores, where = [], [], []
    for number, image in enumerate(images):
        verdict = image.verdicts
        counted = (image.labels == label) & (verdict != IGNORED)
        hits.append(verdict[counted] == HIT)
        scores.append(image.scores[counted])
        where.append(np.full(int(counted.sum()), number))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    objects = np.array([int((image.objects() == label).sum()) for image in images])
    return ClassFindings(np.concatenate(hits)[order], np.concatenate(where)[order], objects)


def mean_precision(classes: Sequence[ClassFindings], rule: Rule, drawn: np.ndarray | None = None) -> float:
    """Mean AP over the classes that have objects; 0 where none has."""
    values = [each.precision(rule, drawn) for each in classes]
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else 0.0


def bootstrap_interval(
    classes: Sequence[ClassFindings], rule: Rule, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float]:
    """The 95 % percentile interval of mean AP over resampled images. Fixed seed: equal findings, equal interval."""
    images = len(classes[0].objects)
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = np.bincount(generator.integers(images, size=images), minlength=images)
        values.append(mean_precision(classes, rule, drawn))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
