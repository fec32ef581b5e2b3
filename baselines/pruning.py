"""`pruning`: static structured pruning. A network is trained, cut to a budget of multiply-adds, and fine-tuned.

The base is the widest sub-network of the model's ladder as a plain network, trained on the labels alone. A copy is
pruned for each budget, at once or in steps with fine-tuning in between; every criterion gets the same training.
"""

from __future__ import annotations

import copy
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
from bench.core.spec import RunSpec
from bench.data.dataset import Batch, Dataset
from bench.methods import Method, build_model, build_network
from bench.models.detector.head import DetectorTail
from bench.points import OperatingPoint, StaticPoint
from bench.profilers.madds import executed_madds
from bench.slicing.extract import extract
from bench.slicing.supernet import Supernet
from bench.tasks.task import task_of
from bench.training import checkpoint
from bench.training.context import Context
from bench.training.loop import Plan, fit, train_classifier


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
    budgets: tuple[float, ...] = (0.5, 0.25)
    iterative_steps: int = 1
    finetune_epochs: int = 10
    finetune_lr: float | None = None
    sparsity: float = 1e-4
    taylor_images: int = 256

    def __post_init__(self) -> None:
        for budget in self.budgets:
            if not 0 < budget <= 1:
                raise UserError(f"budgets are fractions of the full multiply-adds in (0, 1], not {budget}")
        if not self.budgets or len({f"{budget:g}" for budget in self.budgets}) < len(self.budgets):
            raise UserError("budgets must be at least one fraction, each named once")
        for key, least in (("iterative_steps", 1), ("finetune_epochs", 0), ("taylor_images", 1), ("sparsity", 0)):
            if getattr(self, key) < least:
                raise UserError(f"{key} must be at least {least}, not {getattr(self, key)}")
        if self.finetune_lr is not None and self.finetune_lr <= 0:
            raise UserError(f"finetune_lr must be above 0, not {self.finetune_lr}")


class Pruning(Method):
    """Structured pruning with real removal: the pruned network is an ordinary, smaller one."""

    name = "pruning"
    kind = "static"
    paper = "Fang et al. 2023, DepGraph; each criterion names its own (pruning_criteria)"
    Options = PruningOptions
    takes_networks = True

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        options: PruningOptions = self.options(spec)
        plain, criterion = extract(net, net.space.uniform_choices[-1]), CRITERIA[options.criterion]
        criterion.check(plain, spec.model)
        if any(isinstance(module, DetectorTail) and module.finer > 1 for module in plain.modules()):
            raise UserError(f"{spec.model} turns channels into positions, and pruning cannot follow them there")
        image = torch.zeros(1, net.input_channels, image_size, image_size)
        check_budget(plain, image, min(options.budgets), criterion)

    def operating_points(self, spec: RunSpec, data: Dataset, context: Context) -> list[OperatingPoint]:
        options: PruningOptions = self.options(spec)
        plain = _plain(spec, data, context)
        names = {f"{options.criterion}@{budget:g}": budget for budget in options.budgets}
        missing = [name for name in names if not context.checkpoint(name).exists()]
        if missing:
            base = copy.deepcopy(plain)
            self._train_base(base, spec, data, context)
            for name in missing:
                self._prune(name, base, names[name], spec, data, context)
        return [_stored_point(name, plain, data, context) for name in names]

    def _train_base(self, network: nn.Module, spec: RunSpec, data: Dataset, context: Context) -> None:
        options: PruningOptions = self.options(spec)
        if options.criterion == "slimming":
            train_sparsely(network, options.sparsity, spec, data, context)
        else:
            train_classifier("base", network, data.train, spec.train, spec.seed, task_of(data), context)

    def _prune(self, name: str, base: nn.Module, budget: float, spec: RunSpec, data: Dataset, context: Context) -> None:
        """Prune and fine-tune in turn until the budget is reached; the result is the checkpoint called `name`."""
        options: PruningOptions = self.options(spec)
        steps, network, full = options.iterative_steps, base, None
        for step in range(1, steps + 1):
            pruned = prune_to_budget(
                network,
                _example(data, context),
                1 - (1 - budget) * step / steps,
                CRITERIA[options.criterion],
                seed=spec.seed,
                batches=_calibration(options.taylor_images, spec, data, context),
                loss=task_of(data).loss,
                full_madds=full,
            )
            network, full = channels_last(pruned.network), pruned.full_madds
            epochs = options.finetune_epochs * step // steps - options.finetune_epochs * (step - 1) // steps
            finetuning = replace(spec.train, epochs=epochs, lr=options.finetune_lr or spec.train.lr, warmup_epochs=0.0)
            stage = name if step == steps else f"{name}.{step}of{steps}"
            train_classifier(stage, network, data.train, finetuning, spec.seed, task_of(data), context)


def channels_last(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _plain(spec: RunSpec, data: Dataset, context: Context) -> nn.Module:
    """The widest network of the model's ladder, as ordinary layers with the weights that training starts from."""
    net = build_model(spec, data, context)
    return channels_last(build_network(net, net.space.uniform_choices[-1], context))


def _example(data: Dataset, context: Context) -> Tensor:
    return torch.zeros(1, data.channels, data.image_size, data.image_size, device=context.device)


def train_sparsely(network: nn.Module, strength: float, spec: RunSpec, data: Dataset, context: Context) -> None:
    """Train on labels plus `strength` times the L1 norm of the batch norm scales (Liu et al. 2017, sec. 3)."""
    scales: list[Tensor] = [module.weight for module in network.modules() if isinstance(module, nn.BatchNorm2d)]

    def step(batch: Batch, index: int) -> dict[str, float]:
        loss = task_of(data).loss(network(batch.x), batch.targets, spec.train.label_smoothing)
        penalty = torch.cat(scales).abs().sum()
        (loss + strength * penalty).backward()
        return {"loss": loss.item(), "scales": penalty.item()}

    network.train()
    fit(Plan("base", {"network": network}, {}, step, spec.train, spec.seed), data.train, context)
    network.eval()


def _calibration(images: int, spec: RunSpec, data: Dataset, context: Context) -> Iterator[Batch]:
    """Batches of the calibration split's first images (rounded up to whole batches), never augmented."""
    size = min(spec.train.batch_size, images)
    return islice(data.calibration.batches(size, context.device), -(-images // size))


def _stored_point(name: str, plain: nn.Module, data: Dataset, context: Context) -> StaticPoint:
    """The point as its checkpoint holds it, so that every process judges the same network."""
    tensors, _ = checkpoint.load(context.checkpoint(name), context.run_id)
    state = {key.removeprefix("network/"): tensor for key, tensor in tensors.items()}
    network = channels_last(rebuild(plain, state)).eval()
    return StaticPoint(name, network, executed_madds(network, _example(data, context)))
