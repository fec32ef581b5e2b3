"""A network of one's own in Slicebench: the ResNet-20 and ResNet-56 that He et al. (2016) trained on CIFAR-10.

The weights are those that Yerlan Idelbayev published (github.com/akamaster/pytorch_resnet_cifar10, BSD-2): put
`resnet20-12fca82f.th` and `resnet56-4bfd9763.th` into a folder, and then

    CIFAR_RESNETS=FOLDER slicebench run docs/examples/cifar_resnets.py:published --data DIR
    CIFAR_RESNETS=FOLDER slicebench run docs/examples/cifar_resnets.py:pruned --data DIR

evaluates both as they are, and prunes the larger one within its blocks. The recipe's file is a plugin: what it adds to
`PRESETS` can be named in any recipe, and on the command line with `--plugin docs/examples/cifar_resnets.py`.
"""

import os
from pathlib import Path

import torch.nn.functional as F
from torch import nn

from bench.core.image_input import ImageInput
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.models import PRESETS, own_network
from bench.models.weights import weights_of


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters: where channels double, every second pixel is taken and
    zeros fill the new channels (option A of He et al. 2016, sec. 3.3)."""

    def __init__(self, channels, filters, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.stride, self.zeros = stride, (filters - channels) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.zeros:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.zeros, self.zeros))
        return F.relu(x + y)


class ResNet(nn.Module):
    """The ResNet of 6 n + 2 layers for images of 32x32 pixels (He et al. 2016, sec. 4.2)."""

    def __init__(self, n, classes, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[Block(16, 16, 1) for _ in range(n)])
        self.layer2 = nn.Sequential(Block(16, 32, 2), *[Block(32, 32, 1) for _ in range(n - 1)])
        self.layer3 = nn.Sequential(Block(32, 64, 2), *[Block(64, 64, 1) for _ in range(n - 1)])
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


IMAGES = ImageInput(32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""The weights were trained on pixels normalised by ImageNet's mean and deviation."""
FOLDER = os.environ.get("CIFAR_RESNETS")
FILES = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}

for layers, file in FILES.items():
    PRESETS.add(
        f"resnet{layers}",
        own_network(
            f"resnet{layers}",
            lambda classes, channels, n=(layers - 2) // 6: ResNet(n, classes, channels),
            IMAGES,
            head=("linear",),
            stages=("layer1", "layer2", "layer3"),
            weights=Path(FOLDER) / file if FOLDER else None,
            reported=f"plain/resnet{layers}/akamaster",
            what=f"ResNet-{layers} for CIFAR with shortcuts that pad channels",
        ),
    )

CIFAR10 = DataSpec("cifar10")
PROFILE = ProfileSpec(batch_sizes=(1, 64), rounds=7, warmup=2)


def published(seeds=(0,)):
    """Both networks as they were published. Expected: 91.73 and 93.39 % (README of their author)."""
    train = TrainSpec(epochs=0, batch_size=128)
    return [
        RunSpec("plain", model, CIFAR10, train, PROFILE, seed=seed, weights=weights_of(PRESETS.get(model)))
        for seed in seeds
        for model in ("resnet20", "resnet56")
    ]


def pruned(seeds=(0,)):
    """ResNet-56 pruned within its blocks to 0.5 of its multiply-adds by L1 and at random, and to 0.4 by L1; three
    epochs of fine-tuning each on the 45,000 training images, from a learning rate of 0.01."""
    train = TrainSpec(epochs=0, batch_size=128, lr=0.01, weight_decay=5e-4, label_smoothing=0.0)
    return [
        RunSpec(
            "pruning",
            "resnet56",
            CIFAR10,
            train,
            PROFILE,
            {"criterion": criterion, "budgets": (budget,), "finetune_epochs": 3},
            seed=seed,
            weights=weights_of(PRESETS.get("resnet56")),
        )
        for seed in seeds
        for criterion, budget in (("l1", 0.5), ("random", 0.5), ("l1", 0.4))
    ]
