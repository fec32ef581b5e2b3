"""`s_net`: a slimmable network with a fixed list of widths (Yu et al., ICLR 2019, arXiv 1812.08928).

Weights are shared by all widths; each width has batch norms of its own, scales and shifts included (the presets
`s_...`: switchable batch norm is part of the network). So it serves families with batch norm only: group and layer
norm have no statistics that widths could quarrel over, and no preset of theirs keeps affine parameters for each width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.methods import SUPERNET, Method, Run, build_model, trained_supernet
from bench.models.widths import SWITCHABLE_MULTIPLIERS
from bench.points import OperatingPoint, subnetwork_point
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.supernet import Supernet
from bench.training.front import check_front
from bench.training.joint import Lesson, train_jointly


@dataclass(frozen=True)
class SNetOptions:
    """
    Attributes:
        widths: width multipliers to train, and to evaluate.
        shared_front: forward the segments that all widths share once a step. The gradient is the same sum; their
            running batch-norm statistics move once a step.
    """

    widths: tuple[float, ...] = SWITCHABLE_MULTIPLIERS
    shared_front: bool = False


class SNet(Method):
    """A static point for each width of one slimmable network; every step trains all widths on the labels."""

    name = "s_net"
    kind = "slimmable"
    paper = "Yu et al., ICLR 2019, arXiv 1812.08928"
    trains = ("switchable",)
    version = 2
    leaves = "supernet"
    Options = SNetOptions

    def subnetworks(self, spec: RunSpec, net: Supernet) -> list[Choice]:
        return list(choices_of(net.space, self.options(spec).widths).values())

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        choices = choices_of(net.space, self.options(spec).widths)
        if self.options(spec).shared_front:
            check_front(net.space, list(choices.values()))

    def train(self, run: Run) -> None:
        net = build_model(run)
        choices = list(choices_of(net.space, run.options.widths).values())
        front = net.space.shared_segments(choices) if run.options.shared_front else 0
        lessons = [Lesson(choice) for choice in choices]
        train_jointly(SUPERNET, net, lambda done, generator: lessons, run, front)

    def points(self, run: Run) -> list[OperatingPoint]:
        net = trained_supernet(run)
        choices = choices_of(net.space, run.options.widths)
        return [subnetwork_point(net, c, run.data.image_size, f"width{w:g}") for w, c in choices.items()]


def choices_of(space: ChoiceSpace, widths: Sequence[float]) -> dict[float, Choice]:
    """The choice of each width, narrowest first. Raises `UserError` for widths that the network does not have."""
    unknown = [width for width in widths if width not in SWITCHABLE_MULTIPLIERS]
    if unknown or not widths:
        allowed = ", ".join(f"{width:g}" for width in SWITCHABLE_MULTIPLIERS)
        raise UserError(
            f"no sub-network has width {f'{unknown[0]:g}' if unknown else 'none'}: this slimmable network has {allowed}"
        )
    return {width: space.uniform(SWITCHABLE_MULTIPLIERS.index(width)) for width in sorted(set(widths))}
