"""`us_net`: one network that runs at any width (Yu & Huang, ICCV 2019, arXiv 1903.05134).

Sandwich rule, in-place distillation from the largest width of the same step, batch-norm statistics calibrated after
training for each width that is evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.data.dataset import Dataset
from bench.methods import Method, build_model
from bench.models.widths import WIDTH_MULTIPLIERS
from bench.points import OperatingPoint, subnetwork_point
from bench.slicing.supernet import Supernet
from bench.tasks.task import task_of
from bench.training import checkpoint
from bench.training.calibrate import calibrate
from bench.training.context import Context
from bench.training.supernet import StageOne, train_supernet


@dataclass(frozen=True)
class USNetOptions:
    """
    Attributes:
        widths: width multipliers to evaluate.
        random_widths: random widths of a training step, beside the smallest and the largest.
        inplace_distillation: teach the narrower widths by the largest one's output; False: by the labels.
    """

    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    random_widths: int = 2
    inplace_distillation: bool = True

    def stage_one(self) -> StageOne:
        return StageOne("inplace" if self.inplace_distillation else "none", self.random_widths)


class USNet(Method):
    """A static point for each width of one universally slimmable network."""

    name = "us_net"
    kind = "slimmable"
    paper = "Yu & Huang, ICCV 2019, arXiv 1903.05134"
    trains = ("universally slimmable",)
    leaves = "supernet"
    Options = USNetOptions

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        options: USNetOptions = self.options(spec)
        options.stage_one()
        steps = {step_of(width) for width in options.widths}
        if not steps or len(steps) < len(options.widths):
            raise UserError(f"widths must be at least one width, each named once, not {list(options.widths)}")

    def operating_points(self, spec: RunSpec, data: Dataset, context: Context) -> list[OperatingPoint]:
        options: USNetOptions = self.options(spec)
        net = build_model(spec, data, context)
        choices = {width: net.space.uniform(step_of(width)) for width in options.widths}
        net, history = train_supernet(
            net, data.train, spec.train, spec.seed, options.stage_one(), task_of(data), context
        )
        path = context.checkpoint("final")
        if not path.exists():
            calibrate(net, choices.values(), data.calibration, context.device)
            checkpoint.save_if_missing(path, {"supernet": net}, context.run_id, history)
        checkpoint.restore(path, {"supernet": net}, context.run_id)
        net.eval()
        return [subnetwork_point(net, c, data.image_size, f"width{w:g}") for w, c in choices.items()]


def step_of(width: float) -> int:
    """Where a width multiplier stands on the ladder. Raises `UserError` for one that no sub-network has."""
    for step, known in enumerate(WIDTH_MULTIPLIERS):
        if abs(known - width) < 1e-6:
            return step
    raise UserError(
        f"no sub-network has width {width:g}: widths go from {WIDTH_MULTIPLIERS[0]:g} to {WIDTH_MULTIPLIERS[-1]:g} "
        "in steps of 0.025"
    )
