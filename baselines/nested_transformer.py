"""`nested_vit`: narrower Vision Transformers within a wide one, by the scheme of MatFormer, HydraViT or Scala.

All three train the same network (`bench/models/vit/nested.py`) under the same optimizer, so what is compared is their
sub-networks, sampling and distillation, not their papers' recipes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from baselines.nested_rules import SCHEMES
from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.data.dataset import Dataset
from bench.methods import Method, build_model
from bench.points import OperatingPoint, subnetwork_point
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.supernet import Supernet
from bench.tasks.task import task_of
from bench.training.context import Context
from bench.training.joint import train_jointly
from bench.training.start import SUPERNET


@dataclass(frozen=True)
class NestedViTOptions:
    """
    Attributes:
        scheme: whose sub-networks, sampling and distillation (`nested_rules`).
        rungs: which steps of the network's ladder to train and evaluate; empty for all. The first and the last are
            Scala's bounds, the others its granularity.
        alone: share of the training at whose start the full network trains alone (Scala only; its runs of 100 epochs
            give it the first 10).
    """

    scheme: Literal["matformer", "hydravit", "scala"] = "hydravit"
    rungs: tuple[int, ...] = ()
    alone: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.alone < 1:
            raise UserError(f"alone is a share of the training from 0 to below 1, not {self.alone}")


class NestedViT(Method):
    """A static point for each sub-network of a nested transformer."""

    name = "nested_vit"
    kind = "slimmable"
    paper = "; ".join(f"{name}: {scheme.paper}" for name, scheme in SCHEMES.items())
    trains = ("nested",)
    leaves = "supernet"
    Options = NestedViTOptions

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        choices_of(net.space, self.options(spec))

    def operating_points(self, spec: RunSpec, data: Dataset, context: Context) -> list[OperatingPoint]:
        options: NestedViTOptions = self.options(spec)
        net, scheme = build_model(spec, data, context), SCHEMES[options.scheme]
        choices = choices_of(net.space, options)
        train_jointly(
            SUPERNET,
            net,
            lambda done, generator: scheme.lessons(choices, done, options.alone, generator),
            data.train,
            spec.train,
            spec.seed,
            task_of(data),
            context,
        )
        return [subnetwork_point(net, c, data.image_size, scheme.name(net.space, c)) for c in choices]


def choices_of(space: ChoiceSpace, options: NestedViTOptions) -> list[Choice]:
    """The sub-networks of a run, cheapest first. Raises `UserError` for a rung that the network does not have."""
    rungs = [space.uniform(index) for index in sorted(set(options.rungs))] or space.uniform_choices
    return SCHEMES[options.scheme].choices(space, rungs)
