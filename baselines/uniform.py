"""`uniform`: a network of each width trained alone. The reference that shared weights must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.data.dataset import Dataset
from bench.methods import Method, build_model, build_network
from bench.points import OperatingPoint, StaticPoint
from bench.slicing.supernet import Supernet
from bench.tasks.task import task_of
from bench.training.context import Context
from bench.training.loop import train_classifier


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
    Options = UniformOptions
    leaves = "networks"
    takes_networks = True

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        choices = self.options(spec).choices
        for index in choices:
            net.space.uniform(index)
        if len(set(choices)) < len(choices):
            raise UserError(f"choices must name each sub-network once, not {list(choices)}")

    def operating_points(self, spec: RunSpec, data: Dataset, context: Context) -> list[OperatingPoint]:
        options: UniformOptions = self.options(spec)
        net = build_model(spec, data, context)
        choices = [net.space.uniform(i) for i in options.choices] or list(net.space.uniform_choices)
        points: list[OperatingPoint] = []
        for choice in choices:
            name = net.space.name_of(choice)
            network = build_network(net, choice, context).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            train_classifier(name, network, data.train, spec.train, spec.seed, task_of(data), context)
            madds = net.cost(choice, data.image_size).madds
            points.append(StaticPoint(name, network, madds))
        return points
