"""`pruning`: static structured pruning. A network is trained, cut to a budget of multiply-adds, and fine-tuned.

The base is the widest sub-network of the model's ladder as a plain network, trained on the labels alone. A copy is
pruned for each budget, at once or in steps with fine-tuning in between; every criterion gets the same training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from baselines.pruning_budget import check_budget, prune_to_budget
from baselines.pruning_criteria import CRITERIA
from baselines.pruning_surgery import rebuild
from bench.core.errors import UserError
from bench.core.ranges import Count, Fractions, FromZero, NotNegative, Positive
from bench.core.spec import RunSpec
from bench.data.dataset import Batch
from bench.methods import Method, Run, build_model, build_network, fresh_model, plain_network, train_network
from bench.models.detector.head import DetectorTail
from bench.points import OperatingPoint, StaticPoint
from bench.profilers.madds import executed_madds
from bench.slicing.extract import extract
from bench.slicing.supernet import Supernet, to_channels_last
from bench.training.loop import Loss


@dataclass(frozen=True)
class PruningOptions:
    """
    Attributes:
        criterion: how channels are ranked (`pruning_criteria`).
        budgets: fractions of the full network's multiply-adds, one operating point each.
        iterative_steps: 1 prunes at once; more prune and fine-tune in turn, to evenly spaced fractions.
        finetune_epochs: in all, shared evenly between the steps.
        finetune_lr: where the learning rate of each fine-tuning starts; null: where the base's did (learning-rate
            rewinding, Renda et al. 2020), since smaller ones recover less in so few epochs.
        sparsity: weight of the L1 penalty on batch norm scales while the base is trained (slimming only).
        taylor_images: images of the calibration split that gradients are taken on (taylor only).
    """

    criterion: Literal["random", "l1", "l2", "norm_scale", "slimming", "fpgm", "taylor"] = "l1"
    budgets: Fractions = (0.5, 0.25)
    iterative_steps: Count = 1
    finetune_epochs: FromZero = 10
    finetune_lr: Positive | None = None
    sparsity: NotNegative = 1e-4
    taylor_images: Count = 256


class Pruning(Method):
    """Structured pruning with real removal: the pruned network is an ordinary, smaller one."""

    name = "pruning"
    kind = "static"
    paper = "Fang et al. 2023, DepGraph; each criterion names its own (pruning_criteria)"
    Options = PruningOptions
    takes_networks = True

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> str:
        options: PruningOptions = self.options(spec)
        plain, criterion = extract(net, net.space.uniform_choices[-1]), CRITERIA[options.criterion]
        criterion.check(plain, spec.model)
        if any(isinstance(module, DetectorTail) and module.finer > 1 for module in plain.modules()):
            raise UserError(f"{spec.model} turns channels into positions, and pruning cannot follow them there")
        image = torch.zeros(1, net.input_channels, image_size, image_size)
        untouched = check_budget(plain, image, min(options.budgets), criterion)
        return untouched and f"{spec.model}: {untouched}"

    def train(self, run: Run) -> None:
        names = names_of(run.options)
        missing = [name for name in names if not run.checkpoint(name).exists()]
        if missing:
            net = build_model(run)
            base = build_network(net, net.space.uniform_choices[-1], run)
            sparse = run.options.criterion == "slimming"
            train_network("base", base, run, sparse_loss(base, run.options.sparsity, run) if sparse else None)
            for name in missing:
                prune(name, base, names[name], run)

    def points(self, run: Run) -> list[OperatingPoint]:
        net = fresh_model(run)
        plain, points = plain_network(net, net.space.uniform_choices[-1]), []
        for name in names_of(run.options):
            network = to_channels_last(rebuild(plain, run.state(name, "network"))).eval()
            points.append(StaticPoint(name, network, executed_madds(network, run.example)))
        return points


def names_of(options: PruningOptions) -> dict[str, float]:
    """The budgets by the names of their points."""
    return {f"{options.criterion}@{budget:g}": budget for budget in options.budgets}


def prune(name: str, base: nn.Module, budget: float, run: Run) -> None:
    """Prune and fine-tune in turn until the budget is reached; the result is the checkpoint called `name`."""
    options: PruningOptions = run.options
    steps, network, full = options.iterative_steps, base, None
    for step in range(1, steps + 1):
        pruned = prune_to_budget(
            network,
            run.example,
            1 - (1 - budget) * step / steps,
            CRITERIA[options.criterion],
            seed=run.spec.seed,
            batches=_calibration(run),
            loss=run.task.loss,
            full_madds=full,
        )
        network, full = to_channels_last(pruned.network), pruned.full_madds
        epochs = options.finetune_epochs * step // steps - options.finetune_epochs * (step - 1) // steps
        spec = run.spec.train
        spec = replace(spec, epochs=epochs, lr=options.finetune_lr or spec.lr, warmup_epochs=0.0, warmup_steps=None)
        train_network(name if step == steps else f"{name}.{step}of{steps}", network, run, spec=spec)


def sparse_loss(network: nn.Module, strength: float, run: Run) -> Loss:
    """The labels' loss plus `strength` times the L1 norm of the batch norm scales (Liu et al. 2017, sec. 3)."""
    scales: list[Tensor] = [module.weight for module in network.modules() if isinstance(module, nn.BatchNorm2d)]

    def loss(batch: Batch, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        labels, penalty = run.loss(network(batch.x), batch), torch.cat(scales).abs().sum()
        return labels + strength * penalty, {"loss": labels, "scales": penalty}

    return loss


def _calibration(run: Run) -> Iterator[Batch]:
    """Batches of the calibration split's first images (rounded up to whole batches), never augmented."""
    images = run.options.taylor_images
    size = min(run.spec.train.batch_size, images)
    return islice(run.data.calibration.batches(size, run.device), -(-images // size))
