"""`thinking_vit`: a Vision Transformer that thinks again about what it is not sure of (ThinkingViT, arXiv 2507.10800).

Known from the released code (METHODS 13): a first round by some of the heads, with as large a share of the channels;
an image is done when the entropy of the ten largest probabilities is below a threshold; else the whole network runs,
and to its tokens, patches and positions embedded, alpha * Linear(the first round's normalised output tokens) is added,
alpha starting at 0. Both rounds use the same weights; the loss is the mean of both rounds' losses on the labels.

Different here: the second round is skipped for images that are done, where the released evaluation runs both and
selects, and its projection is counted. It trains from scratch by the suite's loop, where the authors start from a
trained DeiT-Ti. The preset gives the sizes; its gates play no part.

The authors' weights (`--weights official:thinking_vit=FILE`, preset `ds_vit_s`) bring the recycling too; with
train.epochs=0 and thresholds alone they are evaluated as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from baselines.one_decision import OneDecisionPoint, check_budgets, fit_thresholds, fitted_thresholds
from baselines.pretrained import require_authors_classes
from baselines.thinking_rounds import Nested, NestedRounds, RoundWidth
from bench.core.errors import UserError
from bench.core.ranges import NamedOnce, NotNegative, Positive, Share
from bench.core.spec import RunSpec
from bench.data.dataset import Batch, Dataset
from bench.methods import Method, Run, beside_of, build_model, fresh_model, reseed, train_network
from bench.points import OperatingPoint
from bench.slicing.extract import parameters_of
from bench.slicing.supernet import Supernet, to_channels_last


@dataclass(frozen=True)
class ThinkingViTOptions:
    """
    Attributes:
        heads: heads of the first round; null: half of them. Its channels and hidden units are the same share.
        budgets: mean multiply-adds of an image as fractions of the full network's (a plain one, run once), one
            operating point each; met on the validation split.
        thresholds: entropies in nats below which an image is done, one operating point each.
        first_weight: weight of the first round's loss; the second has the rest of 1.
    """

    heads: int | None = None
    budgets: Annotated[tuple[Positive, ...], NamedOnce] = (0.8, 0.6)
    thresholds: Annotated[tuple[NotNegative, ...], NamedOnce] = ()
    first_weight: Share = 0.5

    def __post_init__(self) -> None:
        if not (self.budgets or self.thresholds):
            raise UserError("thinking_vit needs at least one budget or threshold")

    @property
    def named_thresholds(self) -> dict[str, float]:
        """Thresholds by the names of their points."""
        return {f"entropy{threshold:g}": threshold for threshold in self.thresholds}


class ThinkingViT(Method):
    """A point for each budget and threshold, all of one network."""

    name = "thinking_vit"
    kind = "dynamic"
    paper = "ThinkingViT, CVPR 2026, arXiv 2507.10800"
    trains = ("dynamic weight slicing",)
    families = ("vit",)
    beside: ClassVar = {"alpha.0": "alpha", "proj_layer.weight": "recycle.weight", "proj_layer.bias": "recycle.bias"}
    as_given = True
    Options = ThinkingViTOptions

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        options: ThinkingViTOptions = self.options(spec)
        if not spec.train.epochs and spec.weights is None and spec.init_from is None:
            raise UserError("where nothing is trained (train.epochs=0) it needs --weights official:thinking_vit=FILE")
        cheapest, _ = rounds_of(net, options).costs()
        check_budgets(options.budgets, cheapest, net.cost(net.space.largest, image_size).madds)

    def check_data(self, spec: RunSpec, data: Dataset) -> None:
        require_authors_classes(spec, data)

    def train(self, run: Run) -> None:
        net = build_model(run)
        network = seeded_rounds(net, run)
        if recycling := beside_of(run):
            network.nested.load_state_dict(recycling, strict=False)
        train_rounds(network, run)
        if run.options.budgets:
            fit_thresholds(network, network.costs(), net.cost(net.space.largest, run.data.image_size).madds, run)

    def points(self, run: Run) -> list[OperatingPoint]:
        network = seeded_rounds(fresh_model(run), run)
        run.restore("rounds", {"network": network})
        thresholds = fitted_thresholds(run) if run.options.budgets else {}
        thresholds |= {name: -value for name, value in run.options.named_thresholds.items()}  # sure = of low entropy
        plain = to_channels_last(network.eval().extract())
        forms = {"view": network, "extracted": plain}
        costs, params = network.costs(), (parameters_of(plain.first), parameters_of(network))
        points: list[OperatingPoint] = []
        for name, threshold in thresholds.items():
            points.append(OneDecisionPoint(name, forms, threshold, costs, params))
            points[-1].reported = f"thinking_vit/deit_s/entropy {abs(threshold)}"  # of the authors' weights
        return points


def seeded_rounds(net: Supernet, run: Run) -> NestedRounds:
    """Both rounds, their recycling drawn by the run's seed."""
    reseed(run.spec, "recycling")
    return rounds_of(net, run.options).to(run.device)


def rounds_of(net: Supernet, options: ThinkingViTOptions) -> NestedRounds:
    """Both rounds on a preset's weights. Raises `UserError` for a number of heads that is no part of the network's."""
    stage = net.space.stages[0]
    full = RoundWidth(*(stage.values(dimension)[-1] for dimension in ("heads", "mlp", "embedding")))
    heads = max(1, full.heads // 2) if options.heads is None else options.heads
    if not 0 < heads < full.heads:
        raise UserError(f"the first round needs 1 to {full.heads - 1} of the {full.heads} heads, not {heads}")
    narrow = RoundWidth(heads, full.hidden * heads // full.heads, full.channels * heads // full.heads)
    return NestedRounds(Nested(net, narrow, full), narrow, full)


def train_rounds(network: NestedRounds, run: Run) -> None:
    """Train both rounds on every image; the second's gradient flows into the first through the recycled tokens."""
    weight = run.options.first_weight

    def loss(batch: Batch, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        first, second = (run.loss(output, batch) for output in network.outputs(batch.x))
        return weight * first + (1 - weight) * second, {"first": first, "second": second}

    train_network("rounds", network, run, loss)
