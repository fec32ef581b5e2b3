"""The smallest sub-network, trained alone: what a gate must beat at its lowest cost."""

from bench.core.spec import RunSpec
from bench.methods import METHODS, Method, build_model, fresh_model, plain_network, train_network
from bench.points import StaticPoint


class Smallest(Method):
    """The smallest sub-network, extracted at initialisation and trained on the labels alone."""

    name = "smallest"
    kind = "static"
    paper = "what every gate is held against"

    def train(self, run):
        net = build_model(run)
        train_network("smallest", plain_network(net, net.space.smallest), run)

    def points(self, run):
        net = fresh_model(run)
        network = plain_network(net, net.space.smallest)
        run.restore("smallest", {"network": network})
        return [StaticPoint("smallest", network, net.cost(net.space.smallest, run.data.image_size).madds)]


METHODS.add("smallest", Smallest)


def table(seeds=(0, 1, 2)):
    return [RunSpec("smallest", "ds_mobilenet_micro8", seed=seed) for seed in seeds]
