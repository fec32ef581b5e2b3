"""One measured number, with everything a reader needs to judge it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from bench.core.errors import UserError, unknown

# name -> (unit, what it is). A metric is defined once, here; `slicebench list metrics` prints this table.
METRICS: dict[str, tuple[str, str]] = {
    "top1": ("fraction", "images whose highest logit is the label, over all images of the split"),
    "map50_voc": (
        "fraction",
        "mean over the classes of average precision at IoU 0.5, the area under the precision envelope (VOC 2010, all "
        "points); difficult objects ignored, duplicates false",
    ),
    "map50_voc07": ("fraction", "as map50_voc, by the mean of the envelope at 11 recalls (VOC 2007)"),
    "map_coco": ("fraction", "COCO's mAP, mean over IoU 0.50 to 0.95, by torchmetrics and pycocotools"),
    "f1_image": ("fraction", "mean over the images of F1 at IoU 0.5: what paired tests of detectors compare"),
    "madds_backbone": ("MAdds/image", "madds without those of the detector's head, mean over the images"),
    "madds": (
        "MAdds/image",
        "multiply-adds of convolutions and matrix products, mean over the images, gates included",
    ),
    "madds_theoretical": (
        "MAdds/image",
        "madds without products that a method makes zero but executes all the same, mean over the images",
    ),
    "params_stored": ("parameters", "parameters kept in memory to run the point, buffers excluded"),
    "params_active": ("parameters", "parameters used for an image, mean over the images, buffers excluded"),
    "latency_ms": (
        "ms/batch",
        "median wall time of one forward of one batch; batch, threads and form in details",
    ),
    "images_per_s": ("images/s", "batch size over median latency"),
}


@dataclass(frozen=True)
class Record:
    """One number. `split` is a split's id ("digits/official@1:test"), `n` how many things were measured.

    `form` says how the network ran ("view", "extracted", ...) where that matters; `details` are JSON values
    (counter and its version, batch size, threads, ...). A metric that is not in `METRICS` is that of the meter that
    `details["meter"]` names, a plugin's perhaps, and has the unit that stands here. Raises UserError for any other
    unknown metric or one with another unit, ValueError for a value that is not finite.
    """

    run_id: str
    method: str
    model: str
    dataset: str
    split: str
    point: str
    seed: int
    metric: str
    value: float | int
    unit: str
    n: int
    form: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metric not in METRICS and "meter" not in self.details:
            raise unknown("metric", self.metric, METRICS)
        unit, _ = METRICS.get(self.metric, (self.unit, ""))
        if self.unit != unit:
            raise UserError(f"metric {self.metric!r} is measured in {unit}, not in {self.unit!r}")
        if not math.isfinite(self.value):
            raise ValueError(f"{self.metric} of {self.run_id}/{self.point} is {self.value}, not a finite number")

    def to_json(self) -> dict[str, Any]:
        """A plain dict of JSON values. `parse_record` is its inverse."""
        return asdict(self)


def parse_record(raw: Any) -> Record:
    """A Record from its JSON form. Raises UserError when a key is missing, unknown or of the wrong type."""
    if not isinstance(raw, Mapping):
        raise UserError(f"a record is an object, not {type(raw).__name__}")
    known = {f.name: f.type for f in fields(Record)}
    for key in raw:
        if key not in known:
            raise unknown("key in a record", key, known)
    for key, kind in known.items():
        if key not in raw:
            raise UserError(f"a record lacks its {key!r}")
        kind = dict if key == "details" else kind
        if not isinstance(raw[key], kind) or isinstance(raw[key], bool):  # type: ignore[arg-type]
            raise UserError(f"a record's {key!r} cannot be {raw[key]!r}")
    return Record(**raw)
