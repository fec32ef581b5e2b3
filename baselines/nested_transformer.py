"""`nested_vit`: narrower Vision Transformers within a wide one, by the scheme of MatFormer, HydraViT or Scala.

All three train the same network (`bench/models/vit/nested.py`) under the same optimizer, so what is compared is their
sub-networks, sampling and distillation, not their papers' recipes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from baselines.nested_rules import SCHEMES
from bench.core.ranges import Rate
from bench.core.spec import RunSpec
from bench.methods import SUPERNET, Method, Run, build_model, trained_supernet
from bench.points import OperatingPoint, subnetwork_point
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.supernet import Supernet
from bench.training.joint import train_jointly


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
    alone: Rate = 0.1


class NestedViT(Method):
    """A static point for each sub-network of a nested transformer."""

    name = "nested_vit"
    kind = "slimmable"
    paper = "; ".join(f"{name}: {scheme.paper}" for name, scheme in SCHEMES.items())
    trains = ("nested",)
    leaves = "supernet"
    Options = NestedViTOptions

    def subnetworks(self, spec: RunSpec, net: Supernet) -> list[Choice]:
        return choices_of(net.space, self.options(spec))

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        choices_of(net.space, self.options(spec))

    def train(self, run: Run) -> None:
        options: NestedViTOptions = run.options
        net, scheme = build_model(run), SCHEMES[options.scheme]
        choices = choices_of(net.space, options)
        rule = lambda done, generator: scheme.lessons(choices, done, options.alone, generator)
        train_jointly(SUPERNET, net, rule, run)

    def points(self, run: Run) -> list[OperatingPoint]:
        net, scheme = trained_supernet(run), SCHEMES[run.options.scheme]
        choices = choices_of(net.space, run.options)
        return [subnetwork_point(net, c, run.data.image_size, scheme.name(net.space, c)) for c in choices]


def choices_of(space: ChoiceSpace, options: NestedViTOptions) -> list[Choice]:
    """The sub-networks of a run, cheapest first. Raises `UserError` for a rung that the network does not have."""
    rungs = [space.uniform(index) for index in sorted(set(options.rungs))] or space.uniform_choices
    return SCHEMES[options.scheme].choices(space, rungs)
