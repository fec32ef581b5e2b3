"""What makes a channel worth keeping: one pure function a criterion, from couplings to a score for each unit.

Magnitudes look at the filters that produce a channel (the weights, not the biases). Where several layers do, as along
a residual connection or in a depth-wise block, each is scaled to a mean of one, so that nine weights of a depth-wise
filter count as much as a hundred of a point-wise one, and the mean is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from baselines.pruning_coupling import NORMS, Coupling, Layer
from bench.core.errors import UserError
from bench.data.dataset import Batch
from bench.tasks.classification import Classification
from bench.training.loop import stable_seed

Scores = list[Tensor | None]
"""For each coupling (units,) float64 on the CPU, larger for what is worth keeping; None where nothing can be judged."""


Loss = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of a batch: from its output and labels to a scalar."""
CROSS_ENTROPY: Loss = Classification().loss


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at.

    Attributes:
        network: the trained network, whose layers the couplings name.
        batches: images with labels, outside the test split, for the criteria that need gradients.
        loss: whose gradients those are.
    """

    network: nn.Module
    couplings: Sequence[Coupling]
    seed: int = 0
    batches: Iterable[Batch] = ()
    loss: Loss = CROSS_ENTROPY


@dataclass(frozen=True)
class Criterion:
    """A way to rank channels.

    Attributes:
        ranking: "uniform" removes the same fraction of every layer, "global" ranks all channels in one list.
        norms: the norm layers of which a network must have at least one; empty for any network.
        serves: the families that it serves, in words.
    """

    name: str
    paper: str
    score: Callable[[Evidence], Scores]
    ranking: Literal["uniform", "global"] = "uniform"
    norms: tuple[type[nn.Module], ...] = ()
    serves: str = "every family"

    def judges(self, coupling: Coupling) -> bool:
        """Whether it has anything to go by in a coupling; else all of it stays."""
        return bool(coupling.norms) or not self.norms

    def check(self, network: nn.Module, model: str) -> None:
        """Raises `UserError` where the network is of a family that this criterion does not serve."""
        if self.norms and not any(isinstance(m, self.norms) and m.weight is not None for m in network.modules()):
            raise UserError(f"criterion {self.name} serves {self.serves}, and {model} is not among them")


def at_random(evidence: Evidence) -> Scores:
    """Seeded by the run and the coupling's name, so neither the order of couplings nor the time of the call matters."""
    return [_uniform(coupling, evidence.seed) for coupling in evidence.couplings]


def l1(evidence: Evidence) -> Scores:
    """Sum of the absolute weights of a filter (Li et al. 2017, sec. 3.1)."""
    return _of_filters(evidence, lambda filters: filters.abs().sum(1))


def l2(evidence: Evidence) -> Scores:
    """Euclidean norm of a filter (He et al. 2018, soft filter pruning)."""
    return _of_filters(evidence, lambda filters: filters.norm(dim=1))


def fpgm(evidence: Evidence) -> Scores:
    """Sum of the distances to the layer's other filters: what is nearest to their median goes (He et al. 2019)."""
    return _of_filters(evidence, lambda filters: torch.cdist(filters, filters).sum(1))


def norm_scale(evidence: Evidence) -> Scores:
    """Mean absolute scale of the norms behind a channel (batch, group or layer norm); unjudged where there is none.

    With batch norm, after training with an L1 penalty on the scales, it is network slimming (Liu et al. 2017).
    """
    return [_mean([_by_unit(layer).abs().mean(1) for layer in c.norms]) for c in evidence.couplings]


def taylor(evidence: Evidence) -> Scores:
    """Squared first-order change of the loss when a channel closes, mean over batches (Molchanov et al. 2019).

    A channel closes with the scale and shift of its norms; where it has none, with its filters and their biases.

    Raises:
        UserError: there are no images to take gradients on.
    """
    closed = [coupling.norms or coupling.producers for coupling in evidence.couplings]
    parameters = list({id(p): p for layers in closed for layer in layers for p in layer.module.parameters()}.values())
    changes = [
        [_change(layers, gradients) for layers in closed]
        for gradients in (_gradients(evidence, batch, parameters) for batch in evidence.batches)
    ]
    if not changes:
        raise UserError("criterion taylor needs images with labels to take gradients on")
    return [torch.stack(batches).square().mean(0) for batches in zip(*changes, strict=True)]


CRITERIA = {
    criterion.name: criterion
    for criterion in (
        Criterion("random", "the control of every criterion", at_random),
        Criterion("l1", "Li et al. 2017, Pruning filters for efficient ConvNets", l1),
        Criterion("l2", "He et al. 2018, Soft filter pruning", l2),
        Criterion("fpgm", "He et al. 2019, Filter pruning via geometric median", fpgm),
        Criterion(
            "taylor", "Molchanov et al. 2019, Importance estimation for neural network pruning", taylor, "global"
        ),
        Criterion(
            "norm_scale",
            "the scale of Liu et al. 2017 without its training, for any norm",
            norm_scale,
            norms=NORMS,
            serves="families with batch, group or layer norm",
        ),
        Criterion(
            "slimming",
            "Liu et al. 2017, Learning efficient convolutional networks through network slimming",
            norm_scale,
            "global",
            (nn.BatchNorm2d,),
            "families with batch norm",
        ),
    )
}


def _uniform(coupling: Coupling, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(stable_seed(seed, "random criterion", coupling.name))
    return torch.rand(coupling.units, dtype=torch.float64, generator=generator)


def _of_filters(evidence: Evidence, measure: Callable[[Tensor], Tensor]) -> Scores:
    """A measure (units, d) -> (units,) of the filters that produce each coupling's channels, over all its producers."""
    scores: Scores = []
    for coupling in evidence.couplings:
        measured = [measure(_by_unit(layer)) for layer in coupling.producers]
        tiny = torch.finfo(torch.float64).tiny  # a layer of zeros has nothing to scale
        scores.append(_mean([values / values.mean().clamp_min(tiny) for values in measured]))
    return scores


def _by_unit(layer: Layer) -> Tensor:
    """The layer's weights as (units, d): all that a unit owns of them in one row."""
    weight: Tensor = layer.module.weight.detach().double().cpu()  # type: ignore[assignment, operator]
    rows = weight[layer.places.cpu()]
    return rows[layer.unit_of.argsort(stable=True)].reshape(int(layer.unit_of.max()) + 1, -1)


def _mean(values: list[Tensor]) -> Tensor | None:
    return torch.stack(values).mean(0) if values else None


def _gradients(evidence: Evidence, batch: Batch, parameters: list[nn.Parameter]) -> dict[int, Tensor]:
    """Gradients of the loss in evaluation mode, by the parameter's id; the network stays as it is."""
    network, training = evidence.network, evidence.network.training
    device = next(network.parameters()).device
    network.eval()
    loss = evidence.loss(network(batch.x.to(device)), batch.targets.to(device))
    gradients = torch.autograd.grad(loss, parameters)
    network.train(training)
    return {id(parameter): gradient for parameter, gradient in zip(parameters, gradients, strict=True)}


def _change(layers: list[Layer], gradients: dict[int, Tensor]) -> Tensor:
    """(units,): by how much the loss moves, to first order, when each unit's parameters in these layers become zero."""
    change = torch.zeros(int(layers[0].unit_of.max()) + 1, dtype=torch.float64)
    for layer in layers:
        for parameter in layer.module.parameters():
            moved = (parameter.detach() * gradients[id(parameter)]).double().cpu()
            change.index_add_(0, layer.unit_of, moved.reshape(len(parameter), -1).sum(1)[layer.places])
    return change
