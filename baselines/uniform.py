"""`uniform`: a network of each width trained alone. The reference that shared weights must beat."""

from __future__ import annotations

from dataclasses import dataclass

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.methods import Method, Run, build_model, build_network, fresh_model, plain_network, train_network
from bench.models.preset import SUPERNETS
from bench.points import OperatingPoint, StaticPoint
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.supernet import Supernet


@dataclass(frozen=True)
class UniformOptions:
    """
    Attributes:
        choices: indices of the model's uniform ladder to train; empty for all of them.
    """

    choices: tuple[int, ...] = ()


class Uniform(Method):
    """Each sub-network of the ladder, extracted at initialisation and trained on the labels alone.

    From pretrained weights or another run's supernet, each starts as that network's slice; from a run of `uniform`, as
    the network of its own width there.
    """

    name = "uniform"
    kind = "static"
    paper = "the networks that every slimming paper compares with"
    trains = SUPERNETS
    Options = UniformOptions
    leaves = "networks"
    takes_networks = True

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        choices = self.options(spec).choices
        choices_of(net.space, self.options(spec))
        if len(set(choices)) < len(choices):
            raise UserError(f"choices must name each sub-network once, not {list(choices)}")

    def train(self, run: Run) -> None:
        net = build_model(run)
        for choice in choices_of(net.space, run.options):
            train_network(net.space.name_of(choice), build_network(net, choice, run), run)

    def points(self, run: Run) -> list[OperatingPoint]:
        net, points = fresh_model(run), []
        for choice in choices_of(net.space, run.options):
            name, network = net.space.name_of(choice), plain_network(net, choice)
            run.restore(name, {"network": network})
            points.append(StaticPoint(name, network, net.cost(choice, run.data.image_size).madds))
        return points


def choices_of(space: ChoiceSpace, options: UniformOptions) -> list[Choice]:
    """The sub-networks of a run. Raises `UserError` for an index that the ladder does not have."""
    return [space.uniform(index) for index in options.choices] or list(space.uniform_choices)
