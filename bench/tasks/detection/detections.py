"""What a detector found in an image, and which of it counts: the rule of PASCAL VOC (Everingham et al. 2010, sec. 4.2).

In order of their scores, detections of a class take the object of that class that they overlap most. One that overlaps
none by IOU or more is false, and so is a second one of the same object; one that takes a difficult object counts
neither way. Difficult objects need not be found.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

IOU = 0.5
HIT, FALSE, IGNORED = 1, 0, -1


@dataclass(frozen=True)
class Detections:
    """One image: n detections in descending order of score, and m objects.

    boxes: (n, 4). scores, labels: (n,). truth: (m, 4); true_labels, difficult: (m,). Boxes are left, top, right,
    bottom in pixels.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    true_labels: np.ndarray
    difficult: np.ndarray

    @cached_property
    def verdicts(self) -> np.ndarray:
        """(n,) int8: HIT, FALSE or IGNORED for each detection."""
        verdict = np.full(len(self.boxes), FALSE, np.int8)
        for label in np.unique(self.labels):
            mine, objects = self.labels == label, self.true_labels == label
            verdict[mine] = verdicts(self.boxes[mine], self.truth[objects], self.difficult[objects])
        return verdict

    def objects(self) -> np.ndarray:
        """The classes of the objects that are to be found."""
        return self.true_labels[~self.difficult]

    def f1(self, confidence: float) -> float:
        """F1 of the detections with at least this score; 1 where there is nothing to find and nothing was found."""
        verdict = self.verdicts[self.scores >= confidence]
        hits, false = int((verdict == HIT).sum()), int((verdict == FALSE).sum())
        total = hits + false + len(self.objects())
        return 2 * hits / total if total else 1.0


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of (n, 4) and (m, 4) boxes, (n, m)."""
    corner = np.maximum(boxes[:, None, :2], others[None, :, :2])
    opposite = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = (opposite - corner).clip(0).prod(2)
    return common / np.maximum(_area(boxes)[:, None] + _area(others)[None] - common, 1e-9)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def verdicts(boxes: np.ndarray, truth: np.ndarray, difficult: np.ndarray, iou: float = IOU) -> np.ndarray:
    """(n,) int8 for the detections of one class in one image, (n, 4) in descending order of score, against its objects
    (m, 4) with their flags (m,)."""
    verdict = np.full(len(boxes), FALSE, np.int8)
    if not len(truth) or not len(boxes):
        return verdict
    overlap, matched = overlaps(boxes, truth), set()
    for row, best in enumerate(overlap.argmax(1).tolist()):
        if overlap[row, best] < iou:
            continue
        if difficult[best]:
            verdict[row] = IGNORED
        elif best not in matched:
            verdict[row] = HIT
            matched.add(best)
    return verdict
