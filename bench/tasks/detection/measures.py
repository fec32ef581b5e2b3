"""What is measured of a detector over all images of a split: see `Metric.function` (`bench/core/metrics.py`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.core.metrics import Measured
from bench.tasks.detection.average_precision import (
    ClassFindings,
    Rule,
    bootstrap_interval,
    findings_of,
    mean_precision,
)
from bench.tasks.detection.detections import Detections

COCO_PACKAGES = ("torchmetrics", "pycocotools")


def map50_voc(scores: np.ndarray, images: Sequence[Detections], classes: Sequence[str]) -> Measured:
    """mAP at IoU 0.5 by the area under the envelope, with the AP of each class and the bootstrap interval over
    images."""
    findings = _findings(images, classes)
    measured = _mean_precision(findings, classes, "all_points")
    measured.details["interval"] = list(bootstrap_interval(findings, "all_points"))
    return measured


def map50_voc07(scores: np.ndarray, images: Sequence[Detections], classes: Sequence[str]) -> Measured:
    """mAP at IoU 0.5 at 11 recalls, with the AP of each class."""
    return _mean_precision(_findings(images, classes), classes, "11_points")


def f1_image(scores: np.ndarray, images: Sequence[Detections], classes: Sequence[str]) -> Measured:
    """The mean of the images' scores, which are F1 at IoU 0.5."""
    return Measured(float(scores.mean(dtype=np.float64)))


def map_coco(scores: np.ndarray, images: Sequence[Detections], classes: Sequence[str]) -> Measured | None:
    """COCO's mAP, the mean over IoU 0.50 to 0.95, by torchmetrics; difficult objects are its crowds, which match
    without counting. None where the packages are not installed (`pip install slicebench[detection]`)."""
    if any(importlib.util.find_spec(package) is None for package in COCO_PACKAGES):
        return None
    from importlib.metadata import version

    from torchmetrics.detection import MeanAveragePrecision  # pyright: ignore[reportMissingImports]

    metric = MeanAveragePrecision(backend="pycocotools")
    metric.warn_on_many_detections = False  # the 100 best of an image count, by COCO's rule
    for image in images:
        detections = {"boxes": image.boxes, "scores": image.scores, "labels": image.labels}
        truth = {"boxes": image.truth, "labels": image.true_labels, "iscrowd": image.difficult.astype(np.int64)}
        metric.update([_tensors(detections)], [_tensors(truth)])
    return Measured(float(metric.compute()["map"]), {package: version(package) for package in COCO_PACKAGES})


def _findings(images: Sequence[Detections], classes: Sequence[str]) -> list[ClassFindings]:
    return [findings_of(images, label) for label in range(len(classes))]


def _mean_precision(findings: Sequence[ClassFindings], classes: Sequence[str], rule: Rule) -> Measured:
    by_class = {name: each.precision(rule) for name, each in zip(classes, findings, strict=True)}
    details: dict[str, Any] = {
        "classes": {name: None if np.isnan(value) else value for name, value in by_class.items()},
        "objects": {name: int(each.objects.sum()) for name, each in zip(classes, findings, strict=True)},
    }
    return Measured(mean_precision(findings, rule), details)


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
