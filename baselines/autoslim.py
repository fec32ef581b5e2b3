"""`autoslim`: one trained slimmable network tells how wide each layer should be (Yu & Huang 2019, arXiv 1903.11728).

A supernet is trained by the sandwich rule with random widths for each stage independently; it is slimmed greedily
(`autoslim_search`) on one batch of held-out training images, here of the validation split; each network found is
trained from scratch. Stages are those of the model's space: in the presets `us_mobilenet_layers_...` every block is
one; in the others the blocks of a stage keep one width, as its residual sums demand in a ResNet.

Batch norm uses the batch's own statistics, in training and in the search: a network without a name has no others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from baselines.autoslim_search import Error, choice_at, madds_of, slim, stage_rungs
from bench.core.errors import UserError
from bench.core.ranges import Count, Fractions, FromZero
from bench.core.spec import RunSpec
from bench.data.dataset import Batch
from bench.methods import Method, Run, build_model, fresh_model, train_network, trainable_copy
from bench.points import OperatingPoint, StaticPoint
from bench.slicing.bound import BatchChoice, CollectingChoice
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.extract import extract_collected
from bench.slicing.supernet import Supernet, to_channels_last
from bench.tasks.task import Task
from bench.training.joint import Lesson, train_jointly


@dataclass(frozen=True)
class AutoSlimOptions:
    """
    Attributes:
        budgets: fractions of the full network's multiply-adds, one operating point each.
        groups: removals that take a stage from its widest to its narrowest. The official code leaves the size of a
            group undefined (METHODS 9), so it is ours.
        search_images: images of the validation split on which removals are judged, in one batch (all if it has fewer).
        retrain_epochs: of each network found; null: as the supernet.
        random_widths, inplace_distillation: of the supernet's training, as in `us_net`.
    """

    budgets: Fractions = (0.75, 0.5, 0.25)
    groups: Count = 10
    search_images: Count = 256
    retrain_epochs: FromZero | None = None
    random_widths: FromZero = 2
    inplace_distillation: bool = True


class AutoSlim(Method):
    """A static point for each budget: widths found by greedy slimming, weights trained from scratch."""

    name = "autoslim"
    kind = "static"
    paper = "Yu & Huang, 2019, arXiv 1903.11728"
    trains = ("universally slimmable",)
    version = 2
    Options = AutoSlimOptions

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        options: AutoSlimOptions = self.options(spec)
        full = madds_of(net, net.space.largest, image_size)
        rungs = stage_rungs(net.space, options.groups)
        least = madds_of(net, choice_at(rungs, [0] * len(rungs)), image_size) / full
        if min(options.budgets) < least:
            raise UserError(
                f"budget {min(options.budgets):g} is out of reach: the narrowest network of {spec.model} has "
                f"{least:.3f} of the full multiply-adds"
            )

    def train(self, run: Run) -> None:
        options: AutoSlimOptions = run.options
        net = build_model(run)
        self.check(run.spec, net, run.data.image_size)

        def searched() -> tuple[dict[str, Tensor], dict[str, Any]]:
            train_jointly("supernet", net, lambda done, generator: sandwich(net.space, options, generator), run)
            indices, path = search(net, run)
            return indices, {"path": path}

        run.once("found", searched)
        spec, epochs = run.spec.train, options.retrain_epochs
        for name, (_, network) in networks_of(run).items():
            train_network(name, network, run, spec=spec if epochs is None else replace(spec, epochs=epochs))

    def points(self, run: Run) -> list[OperatingPoint]:
        points: list[OperatingPoint] = []
        for name, (madds, network) in networks_of(run).items():
            run.restore(name, {"network": network})
            points.append(StaticPoint(name, network, madds))
        return points


def networks_of(run: Run) -> dict[str, tuple[int, nn.Module]]:
    """The untrained network that was found for each budget, with its multiply-adds, by the name of its point."""
    indices, _ = run.read("found")
    x = torch.zeros(2, run.data.channels, run.data.image_size, run.data.image_size, device=run.device)
    networks = {}
    for budget in run.options.budgets:
        net, choice = fresh_model(run), Choice(tuple((index,) for index in indices[f"{budget:g}"].tolist()))
        networks[f"slim@{budget:g}"] = madds_of(net, choice, run.data.image_size), plain_choice(net, choice, x)
    return networks


def sandwich(space: ChoiceSpace, options: AutoSlimOptions, generator: random.Random) -> Sequence[Lesson]:
    """The largest network on the labels; random ones, every stage of a width of its own, and the smallest, taught by
    the largest, or by the labels too."""
    drawn = [random_choice(space, generator) for _ in range(options.random_widths)]
    taught = {"labels": 0.0, "teacher": 0} if options.inplace_distillation else {}
    students: list[Any] = [*drawn, space.smallest]
    return [Lesson(BatchChoice(space.largest)), *(Lesson(BatchChoice(c), **taught) for c in students)]


def random_choice(space: ChoiceSpace, generator: random.Random) -> Choice:
    """A width for each stage, independently, each of its distinct widths as likely."""
    lists = [stage.values("filters") for stage in space.stages]
    return Choice(tuple((widths.index(generator.choice(sorted(set(widths)))),) for widths in lists))


def search(net: Supernet, run: Run) -> tuple[dict[str, Tensor], list[Any]]:
    """Slim a trained supernet to all budgets: the index of each stage by budget, and the path taken."""
    options, data = run.options, run.data
    batch = next(data.validation.batches(min(options.search_images, len(data.validation)), run.device))
    full = madds_of(net, net.space.largest, data.image_size)
    budgets = {budget: int(budget * full) for budget in options.budgets}
    networks, path = slim(
        stage_rungs(net.space, options.groups),
        set(budgets.values()),
        lambda choice: error_of(net, choice, batch, run.task),
        lambda choice: madds_of(net, choice, data.image_size),
    )
    indices = {f"{b:g}": torch.tensor([i for (i,) in networks[madds].indices]) for b, madds in budgets.items()}
    return indices, path


@torch.no_grad()
def error_of(net: Supernet, choice: Choice, batch: Batch, task: Task) -> Error:
    """Share of a batch that is not solved, then the loss: among so few images many removals err alike."""
    output = net(batch.x, BatchChoice(choice))
    missed = (task.score(output, batch.targets) < task.threshold).float().mean().item()
    return missed, task.loss(output, batch.targets).item()


@torch.no_grad()
def plain_choice(net: Supernet, choice: Choice, x: Tensor) -> nn.Module:
    """The untrained network of any choice as ordinary layers; `x` shows its norms how wide they are."""
    collecting = CollectingChoice(choice)
    net(x, collecting)
    network = trainable_copy(extract_collected(net, collecting))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return to_channels_last(network)
