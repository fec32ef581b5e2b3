"""`pretrained`: the sub-networks of weights that their authors trained and published, evaluated as they are.

The points are the steps of the network's ladder. `largest` of DS-MBNet is none of them: its release has no statistics
for the wide front (METHODS 14), and to estimate them here would make other weights of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.data.dataset import Dataset
from bench.methods import SUPERNET, Method, Run, build_model, trained_supernet
from bench.models.official import imagenet_rows
from bench.models.preset import SUPERNETS
from bench.models.weights import is_official
from bench.points import OperatingPoint, subnetwork_point
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.supernet import Supernet


@dataclass(frozen=True)
class PretrainedOptions:
    """
    Attributes:
        steps: which steps of the network's ladder to evaluate; empty for all.
    """

    steps: tuple[int, ...] = ()


class Pretrained(Method):
    """A static point for each sub-network; nothing is trained and no statistics are estimated."""

    name = "pretrained"
    kind = "slimmable"
    paper = "the authors' of the weights"
    leaves = "supernet"
    as_given = True
    trains = SUPERNETS
    Options = PretrainedOptions

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        if not is_official(spec.weights):
            raise UserError("it evaluates its authors' weights, so it needs --weights official:FORMAT=FILE")
        if spec.train.epochs:
            raise UserError(f"it trains nothing, so train.epochs must be 0, not {spec.train.epochs}")
        choices_of(net.space, self.options(spec))

    def check_data(self, spec: RunSpec, data: Dataset) -> None:
        require_authors_classes(spec, data)

    def train(self, run: Run) -> None:
        run.once(SUPERNET, lambda: ({"supernet": build_model(run)}, {}))

    def points(self, run: Run) -> list[OperatingPoint]:
        net = trained_supernet(run)
        keys = [key for one in run.preset.family.official if run.spec.model in one.presets for key in one.reported]
        points = []
        for step, choice in choices_of(net.space, run.options).items():
            point = subnetwork_point(net, choice, run.data.image_size)
            point.reported = keys[step] if keys else None
            points.append(point)
        return points


def choices_of(space: ChoiceSpace, options: PretrainedOptions) -> dict[int, Choice]:
    """The sub-networks of a run by step, cheapest first. Raises `UserError` for a step that there is none of."""
    steps = sorted(set(options.steps)) or range(len(space.uniform_choices))
    return {step: space.uniform(step) for step in steps}


def require_authors_classes(spec: RunSpec, data: Dataset) -> None:
    """Raise `UserError` for official weights on classes that their classifier does not know, where none is trained."""
    if is_official(spec.weights) and not spec.train.epochs and imagenet_rows(data.classes) is None:
        raise UserError(
            f"the authors' classifier is for the classes of ImageNet, in folders named by their WordNet ids, and not "
            f"all {len(data.classes):,} of {data.id} are among them"
        )
