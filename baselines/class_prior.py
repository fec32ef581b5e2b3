"""`class_prior`: what can be said without looking at the image. The floor that everything trained must be above."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.methods import Method, Run
from bench.points import OperatingPoint, StaticPoint


class Constant(nn.Module):
    """(B, C, H, W) to (B, ...): the same output for every image.

    It is a linear layer of the mean colour whose weights are zero, so that whatever counts, times or exports networks
    takes it for one.
    """

    def __init__(self, channels: int, output: Tensor) -> None:
        super().__init__()
        self.shape = tuple(output.shape)
        self.linear = nn.Linear(channels, output.numel())
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.copy_(output.flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3))).reshape(-1, *self.shape)


class ClassPrior(Method):
    """One point, nothing trained: the frequency of each class among the training images; in detection, of each class
    also the mean of its boxes. `model` says only whose place it takes in a table."""

    name = "class_prior"
    kind = "control"
    paper = "control of this suite"

    def points(self, run: Run) -> list[OperatingPoint]:
        prior = run.task.prior(run.data.train)
        network = Constant(run.data.channels, prior).to(run.device)
        return [StaticPoint("prior", network, network.linear.weight.numel())]
