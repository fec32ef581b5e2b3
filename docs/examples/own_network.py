"""A network of one's own in Slicebench: what a plugin holds. It runs on the handwritten digits that come along.

    slicebench run docs/examples/own_network.py:table

Where the environment variable OWN_WEIGHTS names a file of weights (safetensors, or a state dict in a torch file, under
the names of the module), all three runs start from it.
"""

import os

from torch import nn

from bench.core.image_input import ImageInput
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.models import PRESETS, own_network
from bench.models.weights import weights_of


def stage(channels, filters, stride):
    layers = [nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]
    return nn.Sequential(*layers)


class SmallNet(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.stem = stage(channels, 16, 1)
        self.middle = nn.Sequential(stage(16, 32, 2), stage(32, 32, 1))
        self.end = stage(32, 64, 2)
        self.classifier = nn.Linear(64, classes)

    def forward(self, x):
        x = self.end(self.middle(self.stem(x)))
        return self.classifier(x.mean((2, 3)))


PRESETS.add(
    "small_net",
    own_network(
        "small_net",
        SmallNet,  # called with (classes, channels) of the data
        ImageInput(size=8, mean=(0.5,), std=(0.5,)),  # how it wants its images
        head=("classifier",),  # what depends on the classes: replaced where the data have another number of them
        stages=("stem", "middle.0", "middle.1", "end"),  # where early_exit may put classifiers
        weights=os.environ.get("OWN_WEIGHTS"),
        channels=1,
        what="four convolutions for 8x8 images",
    ),
)


def table(seeds=(0,)):
    """The network as it is, pruned to half, and with exits."""
    preset = PRESETS.get("small_net")
    weights = weights_of(preset) if preset.weights else None
    train, profile = TrainSpec(epochs=10, batch_size=60), ProfileSpec(batch_sizes=(1,), rounds=7)
    methods = {"plain": {}, "pruning": {"budgets": (0.5,), "finetune_epochs": 4}, "early_exit": {"budgets": (0.7,)}}
    return [
        RunSpec(method, "small_net", DataSpec("digits"), train, profile, options, seed=seed, weights=weights)
        for seed in seeds
        for method, options in methods.items()
    ]
