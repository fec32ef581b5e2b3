"""`sliced_order`: what the order of its channels is worth to a network that is sliced.

A slice is a prefix, so each wider slice of a layer is the narrower one plus the term that the added channels bring. An
order is good where the first terms say most and later ones refine. DS-Net++ calls this nested residual learning (Li et
al. 2022); its exact mechanism is not public (METHODS 1), so this control shows the property and not the paper's way to
it: one network, its channels in an order, and the accuracy of every slice. Trained alone at full width its channels
are in no order but the one that they are put in; a supernet trained by the sandwich rule (`init_from`) has learned one,
which "none" keeps and "random" destroys.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.core.spec import RunSpec
from bench.methods import SUPERNET, Method, Run, build_model, train_network, trained_supernet
from bench.models import PRESETS
from bench.models.order import Order, check_order, in_order
from bench.models.preset import SUPERNETS
from bench.points import OperatingPoint, subnetwork_point
from bench.slicing.supernet import Supernet, View
from bench.training.calibrate import calibrate
from bench.training.loop import stable_seed


@dataclass(frozen=True)
class SlicedOrderOptions:
    """
    Attributes:
        order: of the channels before slicing: "l1", the largest L1 norm first; "random"; "none", as they are.
    """

    order: Order = "l1"


class SlicedOrder(Method):
    """Every slice of one ordered full network, batch norm recalibrated, nothing else trained.

    Without `init_from` the full network is trained alone first; with it, the parent's is taken as it is.
    """

    name = "sliced_order"
    kind = "control"
    paper = "control of this suite"
    leaves = "supernet"
    version = 2
    trains = SUPERNETS
    Options = SlicedOrderOptions

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        check_order(PRESETS.get(spec.model), self.options(spec).order)

    def train(self, run: Run) -> None:
        run.once(SUPERNET, lambda: ({"supernet": ordered(run)}, {}))

    def points(self, run: Run) -> list[OperatingPoint]:
        net = trained_supernet(run)
        return [subnetwork_point(net, choice, run.data.image_size) for choice in net.space.named]


def ordered(run: Run) -> Supernet:
    """The full network, trained on the labels alone unless it is the parent's, its channels in the run's order."""
    net = build_model(run)
    if run.spec.init_from is None:
        train_network("full", View(net, net.space.largest), run)
    net = in_order(net, run.preset.family, run.options.order, stable_seed(run.spec.seed, "order")).eval()
    if net.space.prefix_statistics:
        calibrate(net, net.space.named, run.data.calibration, run.device)
    return net
