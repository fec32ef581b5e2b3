"""What is measured over all images of a split, by task: top-1, or the average precisions of a detector."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.evaluation.accuracy import Evaluation
from bench.models.detector.head import PlainDetectorHead
from bench.points import OperatingPoint
from bench.profilers.madds import executed_madds
from bench.tasks.detection.average_precision import Rule, bootstrap_interval, findings_of, mean_precision
from bench.tasks.detection.found import Found
from bench.tasks.task import Task

RULES: dict[str, Rule] = {"map50_voc": "all_points", "map50_voc07": "11_points"}


@dataclass(frozen=True)
class Measure:
    """The value of one metric and what belongs to it (JSON values)."""

    metric: str
    value: float
    details: dict[str, Any] = field(default_factory=dict)


def measures_of(task: Task, scores: Evaluation, classes: Sequence[str]) -> list[Measure]:
    """What is measured of all images together, the task's headline first."""
    if task.headline == "top1":
        return [Measure("top1", scores.solved / len(scores.score), {"correct": scores.solved})]
    f1 = Measure("f1_image", float(scores.score.mean(dtype=np.float64)))
    return [*detection_measures(scores.found, classes), f1]


def detection_measures(images: Sequence[Found], classes: Sequence[str]) -> list[Measure]:
    """Average precisions over all images. mAP at IoU 0.5 by both rules of VOC, with the AP of each class and, for all
    points, the bootstrap interval over images; COCO's mAP where its packages are installed."""
    findings = [findings_of(images, label) for label in range(len(classes))]
    measures = []
    for metric, rule in RULES.items():
        by_class = {name: each.precision(rule) for name, each in zip(classes, findings, strict=True)}
        details: dict[str, Any] = {
            "classes": {name: None if np.isnan(value) else value for name, value in by_class.items()},
            "objects": {name: int(each.objects.sum()) for name, each in zip(classes, findings, strict=True)},
        }
        if metric == "map50_voc":
            details["interval"] = list(bootstrap_interval(findings, rule))
        measures.append(Measure(metric, mean_precision(findings, rule), details))
    return measures + coco_measures(images)


COCO_PACKAGES = ("torchmetrics", "pycocotools")


def coco_measures(images: Sequence[Found]) -> list[Measure]:
    """COCO's mAP, the mean over IoU 0.50 to 0.95, by torchmetrics; difficult objects are its crowds, which match
    without counting. Nothing where the packages are not installed (`pip install slicebench[detection]`)."""
    if any(importlib.util.find_spec(package) is None for package in COCO_PACKAGES):
        return []
    from importlib.metadata import version

    from torchmetrics.detection import MeanAveragePrecision  # pyright: ignore[reportMissingImports]

    metric = MeanAveragePrecision(backend="pycocotools")
    metric.warn_on_many_detections = False  # the 100 best of an image count, by COCO's rule
    for image in images:
        found = {"boxes": image.boxes, "scores": image.scores, "labels": image.labels}
        truth = {"boxes": image.truth, "labels": image.true_labels, "iscrowd": image.difficult.astype(np.int64)}
        metric.update([_tensors(found)], [_tensors(truth)])
    computed = metric.compute()
    versions = {package: version(package) for package in COCO_PACKAGES}
    return [Measure("map_coco", float(computed["map"]), versions)]


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def backbone_measures(point: OperatingPoint, route: np.ndarray, x: torch.Tensor) -> list[Measure]:
    """Multiply-adds of an image without the detector's head, executed and counted, mean over the routes (n, G) that
    images took; gates included. Nothing for a network without such a head.

    x: (1, C, H, W), one image.
    """
    routes, counts = np.unique(route, axis=0, return_counts=True)
    networks = point.subnetworks([tuple(row) for row in routes.tolist()])
    total = 0
    for row, count in zip(routes.tolist(), counts.tolist(), strict=True):
        layers = list(networks[tuple(row)].children())
        if not layers or not isinstance(layers[-1], PlainDetectorHead):
            return []
        backbone = nn.Sequential(*layers[:-1]).eval()
        total += count * (executed_madds(backbone, x) + point.overhead())
    return [Measure("madds_backbone", total / len(route))]
