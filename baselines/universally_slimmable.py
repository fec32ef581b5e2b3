"""`us_net`: one network that runs at any width (Yu & Huang, ICCV 2019, arXiv 1903.05134).

Sandwich rule, in-place distillation from the largest width of the same step, batch-norm statistics calibrated after
training for each width that is evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.core.errors import UserError
from bench.core.ranges import FromZero
from bench.core.spec import RunSpec
from bench.methods import SUPERNET, Method, Run, build_model, trained_supernet
from bench.models.widths import WIDTH_MULTIPLIERS
from bench.points import OperatingPoint, subnetwork_point
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.supernet import Supernet
from bench.training.calibrate import calibrate
from bench.training.front import check_front
from bench.training.supernet import StageOne, train_supernet


@dataclass(frozen=True)
class USNetOptions:
    """
    Attributes:
        widths: width multipliers to evaluate.
        random_widths: random widths of a training step, beside the smallest and the largest.
        inplace_distillation: teach the narrower widths by the largest one's output; False: by the labels.
        shared_front: forward the segments that all sub-networks share once a step (`StageOne`).
    """

    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    random_widths: FromZero = 2
    inplace_distillation: bool = True
    shared_front: bool = False

    def stage_one(self) -> StageOne:
        distillation = "inplace" if self.inplace_distillation else "none"
        return StageOne(distillation, self.random_widths, shared_front=self.shared_front)


class USNet(Method):
    """A static point for each width of one universally slimmable network."""

    name = "us_net"
    kind = "slimmable"
    paper = "Yu & Huang, ICCV 2019, arXiv 1903.05134"
    trains = ("universally slimmable",)
    version = 2
    leaves = "supernet"
    Options = USNetOptions

    def subnetworks(self, spec: RunSpec, net: Supernet) -> list[Choice]:
        return [net.space.uniform(step) for step in sorted(map(step_of, self.options(spec).widths))]

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        options: USNetOptions = self.options(spec)
        if options.shared_front:
            check_front(net.space, [net.space.largest, net.space.smallest])
        steps = {step_of(width) for width in options.widths}
        if not steps or len(steps) < len(options.widths):
            raise UserError(f"widths must be at least one width, each named once, not {list(options.widths)}")

    def train(self, run: Run) -> None:
        net = build_model(run)
        choices = choices_of(net.space, run.options.widths)
        net, history = train_supernet(net, run.options.stage_one(), run)

        def calibrated() -> tuple[dict[str, Supernet], dict[str, Any]]:
            calibrate(net, choices.values(), run.data.calibration, run.device)
            return {"supernet": net}, history

        run.once(SUPERNET, calibrated)

    def points(self, run: Run) -> list[OperatingPoint]:
        net = trained_supernet(run)
        choices = choices_of(net.space, run.options.widths)
        return [subnetwork_point(net, c, run.data.image_size, f"width{w:g}") for w, c in choices.items()]


def choices_of(space: ChoiceSpace, widths: Sequence[float]) -> dict[float, Choice]:
    """The choice of each width. Raises `UserError` for one that no sub-network has."""
    return {width: space.uniform(step_of(width)) for width in widths}


def step_of(width: float) -> int:
    """Where a width multiplier stands on the ladder. Raises `UserError` for one that no sub-network has."""
    for step, multiplier in enumerate(WIDTH_MULTIPLIERS):
        if abs(multiplier - width) < 1e-6:
            return step
    raise UserError(
        f"no sub-network has width {width:g}: widths go from {WIDTH_MULTIPLIERS[0]:g} to {WIDTH_MULTIPLIERS[-1]:g} "
        "in steps of 0.025"
    )
