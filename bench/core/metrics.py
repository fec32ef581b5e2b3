"""What is measured: one value for each metric. A task's functions compute it, records name it, reports title it.

A metric is added by a line in `METRICS` and, where it judges a task, by the function that the line names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal


@dataclass(frozen=True)
class Measured:
    """The value of a metric over a split, and what belongs to it (JSON values)."""

    value: float
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """One thing that is measured.

    Attributes:
        name: in records, and in tables for programs.
        unit: of its values.
        text: what it is, in a sentence.
        title: in tables and figures, without the unit; `axis` says it at length.
        better: which values are better.
        task: the task whose results it judges; None for costs.
        function: of a task's metric, as "module:name": from the images' scores (n,), what else the task says of each
            image (`Task.details`) and the names of the classes to a `Measured`, or to None where it cannot be computed
            here. It is imported when it is called, so that a table of metrics needs no torch.
        paired: the metric that is the mean of the images' scores, which paired tests compare; empty for itself.
        note: what a table of such results must say.
    """

    name: str
    unit: str
    text: str
    title: str = ""
    axis: str = ""
    better: Literal["higher", "lower"] = "higher"
    task: str | None = None
    function: str = ""
    paired: str = ""
    note: str = ""

    def measure(self, scores: Any, details: Sequence[Any], classes: Sequence[str]) -> Measured | None:
        """The metric over all images of a split; see `function`."""
        module, _, name = self.function.partition(":")
        return getattr(import_module(module), name)(scores, details, classes)


DETECTION = "bench.tasks.detection.measures:"
_METRICS = (
    Metric(
        "top1",
        "fraction",
        "images whose highest logit is the label, over all images of the split",
        title="top-1",
        axis="top-1 accuracy",
        task="classification",
        function="bench.tasks.classification:top1",
    ),
    Metric(
        "map50_voc",
        "fraction",
        "mean over the classes of average precision at IoU 0.5, the area under the precision envelope (VOC 2010, all "
        "points); difficult objects ignored, duplicates false",
        title="mAP@0.5",
        axis="mAP at IoU 0.5, all points",
        task="detection",
        function=DETECTION + "map50_voc",
        paired="f1_image",
        note="Detectors are ordered by mean average precision at IoU 0.5 (all points, difficult objects ignored), and "
        "ranked by the\npaired test on F1 of each image. AP of each class, by both rules of VOC, stands in "
        "detection.md.",
    ),
    Metric(
        "map50_voc07",
        "fraction",
        "as map50_voc, by the mean of the envelope at 11 recalls (VOC 2007)",
        title="mAP@0.5 (07)",
        task="detection",
        function=DETECTION + "map50_voc07",
    ),
    Metric(
        "map_coco",
        "fraction",
        "COCO's mAP, mean over IoU 0.50 to 0.95, by torchmetrics and pycocotools",
        title="COCO mAP",
        task="detection",
        function=DETECTION + "map_coco",
    ),
    Metric(
        "f1_image",
        "fraction",
        "mean over the images of F1 at IoU 0.5: what paired tests of detectors compare",
        title="F1",
        task="detection",
        function=DETECTION + "f1_image",
    ),
    Metric(
        "madds_backbone",
        "MAdds/image",
        "madds without those of the detector's head, mean over the images",
        title="backbone",
        better="lower",
    ),
    Metric(
        "madds",
        "MAdds/image",
        "multiply-adds of convolutions and matrix products, mean over the images, gates included",
        title="MAdds/image",
        better="lower",
    ),
    Metric(
        "madds_theoretical",
        "MAdds/image",
        "madds without products that a method makes zero but executes all the same, mean over the images",
        title="theoretical MAdds",
        better="lower",
    ),
    Metric(
        "params_stored",
        "parameters",
        "parameters kept in memory to run the point, buffers excluded",
        title="params stored",
        better="lower",
    ),
    Metric(
        "params_active",
        "parameters",
        "parameters used for an image, mean over the images, buffers excluded",
        title="params active",
        better="lower",
    ),
    Metric(
        "latency_ms",
        "ms/batch",
        "median wall time of one forward of one batch; batch, threads and form in details",
        title="median ms",
        better="lower",
    ),
    Metric("images_per_s", "images/s", "batch size over median latency", title="images/s"),
)
METRICS = {metric.name: metric for metric in _METRICS}
"""By name. `slicebench list metrics` prints this table."""


def paired_metric(name: str) -> str:
    """The name of the metric that paired tests compare, of results that are ordered by the metric `name`."""
    return METRICS[name].paired or name


def metrics_of(task: str) -> list[Metric]:
    """The metrics that judge a task, in the order of the table.

    >>> [metric.name for metric in metrics_of("classification")]
    ['top1']
    """
    return [metric for metric in _METRICS if metric.task == task]
