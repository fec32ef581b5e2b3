"""`plain`: any network as it is, trained here, fine-tuned, or only evaluated with the weights that it is given."""

from __future__ import annotations

import torch

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.methods import Method, Run, build_model, build_network, fresh_model, plain_network, train_network
from bench.points import OperatingPoint, StaticPoint
from bench.profilers.madds import executed_madds
from bench.slicing.supernet import Supernet


class Plain(Method):
    """One point: a model of timm, a network of one's own, or the widest network of a preset's ladder."""

    name = "plain"
    kind = "static"
    paper = "the authors' of the network"
    leaves = "networks"
    takes_networks = True
    as_given = True

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        if spec.train.epochs == 0 and spec.weights is None and spec.init_from is None:
            raise UserError(
                "nothing is trained and no weights are given: name some with --weights, or set train.epochs"
            )

    def train(self, run: Run) -> None:
        net = build_model(run)
        choice = net.space.uniform_choices[-1]
        train_network(net.space.name_of(choice), build_network(net, choice, run), run)

    def points(self, run: Run) -> list[OperatingPoint]:
        net = fresh_model(run)
        choice = net.space.uniform_choices[-1]
        name, network = net.space.name_of(choice), plain_network(net, choice)
        run.restore(name, {"network": network})
        image = torch.zeros(1, run.data.channels, run.data.image_size, run.data.image_size, device=run.device)
        point = StaticPoint(name, network, executed_madds(network.eval(), image))
        point.reported = run.preset.reported if run.spec.train.epochs == 0 else None
        return [point]
