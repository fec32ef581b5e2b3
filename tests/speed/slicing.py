"""A sub-network run as a view of the supernet, against a static network of equal widths in the same layout.

python -m tests.speed.slicing
"""

from collections.abc import Iterator

import torch
from torch import nn

from bench.models import PRESETS
from bench.slicing.choice import Choice
from bench.slicing.extract import extract
from bench.slicing.supernet import Supernet, View
from tests.speed.harness import Comparison, Step, at_most, compare
from tests.speed.script import Options, script

CASES = ((0, 1, 1.05), (13, 1, 1.05), (0, 32, 1.03))  # choice, batch, goal (PERFORMANCE: view over static)


def run(options: Options) -> Iterator[Comparison]:
    """DS-MobileNet at 224 x 224."""
    net = PRESETS.get("ds_mobilenet_v1").build().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for index, batch, goal in CASES:
        choice = net.space.uniform(index)
        x = torch.randn(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
        yield compare(
            f"view over static: choice {index}, batch {batch}",
            {"static": forward(static(net, choice), x), "view": forward(View(net, choice), x)},
            "static",
            {"view": at_most(goal)},
            options.time_limit_s,
        )


def static(net: Supernet, choice: Choice) -> nn.Module:
    """The sub-network as ordinary layers, batch norm not folded, channels_last like the supernet."""
    return extract(net, choice).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def forward(network: nn.Module, x: torch.Tensor) -> Step:
    def step() -> None:
        with torch.inference_mode():
            network(x)

    return step


main = script("slicing", run)

if __name__ == "__main__":
    main(None)
