"""`slice_cascade`: the slimmest slice answers first; images that it is not sure of run a wider one, on the same front.

A cascade inside one supernet: what its sub-networks have in front of the first decision is run once, and a second
opinion then costs the slim suffix alone. Nothing is trained, so it works on the checkpoint of any supernet. This method
is the suite's own.

Every suffix that ran is paid for. Where the sub-networks of a chain differ from the first layer on, nothing is shared,
and the networks are paid whole: `front_madds` of a point says how much is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn

from baselines.controls import image_keys
from baselines.early_exit import ExitNetwork, ExitPoint, Exits, confidences, served
from baselines.exit_thresholds import MEASURES, thresholds_for
from bench.data.dataset import Split
from bench.slicing.choice import Choice
from bench.slicing.extract import extract_part, parameters_of, parameters_used
from bench.slicing.supernet import Supernet, View


class Chain:
    """Sub-networks of a supernet, slimmest first, and what they have in common.

    As networks with exits: the first part is the shared front, the parts behind it are empty, and the suffixes are the
    heads.

    Attributes:
        costs: multiply-adds of an image that stops at each sub-network: the front and all suffixes up to there.
        alone: multiply-adds of the last sub-network by itself.
        front_madds: of the front; 0 where the sub-networks share no layer.
    """

    def __init__(self, net: Supernet, choices: Sequence[Choice], image_size: int) -> None:
        self.net, self.choices = net.eval(), choices
        front = net.space.shared_segments(choices)
        madds = [[cost.madds for cost in net.segment_costs(choice, image_size)] for choice in choices]
        self.front_madds = sum(madds[0][:front])
        self.costs = list(accumulate((sum(segments[front:]) for segments in madds), initial=self.front_madds))[1:]
        self.alone = sum(madds[-1])
        empty = [nn.Identity() for _ in choices[1:]]
        views = [View(net, choice, front) for choice in choices]
        self.view = ExitNetwork([View(net, choices[0], 0, front), *empty], views)
        plain = [extract_part(net, choice, front) for choice in choices]
        self.plain = ExitNetwork([extract_part(net, choices[0], 0, front), *empty], plain)


class CascadePoint(ExitPoint):
    """A chain at thresholds of confidence, one for each sub-network but the last. The decision of an image is the place
    in the chain at which it stopped.

    Args:
        measure: of confidence, by its name in `MEASURES`.
        blind: from images to where each stops, if that is not where the chain is sure of it.
    """

    def __init__(
        self,
        name: str,
        chain: Chain,
        thresholds: Sequence[float],
        measure: str = "probability",
        blind: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.chain, self.thresholds, self.measure = chain, thresholds, measure
        places = range(1, len(chain.choices) + 1)
        params = [parameters_used(chain.net, chain.choices[:place]) for place in places]
        exits = partial(Exits, thresholds=thresholds, measure=MEASURES[measure], blind=blind)
        forms = {"view": exits(chain.view), "extracted": exits(served(chain.plain))}
        super().__init__(name, chain.plain, forms, chain.costs, params, parameters_of(chain.net))

    @property
    def front_madds(self) -> int:
        """Multiply-adds that all sub-networks of the chain share."""
        return self.chain.front_madds


class BlindCascade(CascadePoint):
    """The control of a cascade: the same chain, but which images go on is decided by a keyed hash of their bytes, with
    exactly the cascade's proportions on the images that it is judged on. So it costs the same.

    Args:
        stops: the hashes (E,) below which images stop at each sub-network but the last.
    """

    def __init__(self, cascade: CascadePoint, key: bytes, stops: Tensor | None = None) -> None:
        self.cascade, self.key, self.stops = cascade, key, stops
        super().__init__(cascade.name, cascade.chain, cascade.thresholds, cascade.measure, self._places)

    def on(self, images: Iterable[Tensor]) -> BlindCascade:
        """Fit the hashes: those of these images, split so that each place gets as many as the cascade gives it."""
        keys, places = [], []
        for x in images:
            keys.append(image_keys(x, self.key))
            places.append(self.cascade(x).route[:, 0].cpu())
        ordered = torch.cat((torch.cat(keys).sort().values, torch.ones(1, dtype=torch.float64)))
        counts = torch.cat(places).bincount(minlength=len(self.chain.costs))
        return BlindCascade(self.cascade, self.key, ordered[counts.cumsum(0)[:-1]])

    def _places(self, x: Tensor) -> Tensor:
        if self.stops is None:
            raise RuntimeError("a blind cascade must be fitted with `on(images)` before it runs")
        return torch.bucketize(image_keys(x, self.key), self.stops, right=True).to(x.device)


@torch.no_grad()
def fitted_thresholds(
    chain: Chain, budgets: Iterable[float], split: Split, device: torch.device, measure: str
) -> list[list[float]]:
    """The thresholds of each budget, a fraction of what the last sub-network costs by itself: images of a split cost at
    most as much on average (`thresholds_for`).

    Args:
        split: the validation split. measure: of confidence, by its name in `MEASURES`.
    """
    sure = confidences(chain.view, split, device, MEASURES[measure])
    return [thresholds_for(sure, chain.costs, budget * chain.alone) for budget in budgets]
