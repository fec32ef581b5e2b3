"""The smallest sub-network, trained alone: what a gate must beat at its lowest cost."""

from bench.core.spec import RunSpec
from bench.methods import METHODS, Method, build_model, trainable_copy
from bench.points import StaticPoint
from bench.slicing.extract import extract
from bench.tasks.classification import Classification
from bench.training.loop import train_classifier


class Smallest(Method):
    """The smallest sub-network, extracted at initialisation and trained on the labels alone."""

    name = "smallest"
    kind = "static"
    paper = "what every gate is held against"

    def operating_points(self, spec, data, context):
        net = build_model(spec, data, context)
        network = trainable_copy(extract(net, net.space.smallest))
        train_classifier("smallest", network, data.train, spec.train, spec.seed, Classification(), context)
        madds = net.cost(net.space.smallest, data.image_size).madds
        return [StaticPoint("smallest", network, madds)]


METHODS.add("smallest", Smallest)


def table(seeds=(0, 1, 2)):
    return [RunSpec("smallest", "ds_mobilenet_micro8", seed=seed) for seed in seeds]
