"""A sub-network run as a view of the supernet, against a static network of equal widths in the same layout.

Batch norm is not folded into the static network.

    python -m tests.speed.slicing
"""

from collections.abc import Iterator

import torch

from bench.models import PRESETS
from bench.profilers.meter import Served
from bench.slicing.extract import extract
from bench.slicing.supernet import View, to_channels_last
from tests.speed.harness import Comparison, at_most, compare
from tests.speed.script import Options, script

CASES = ((0, 1, 1.05), (13, 1, 1.05), (0, 32, 1.03))  # choice, batch, goal (PERFORMANCE: view over static)


def run(options: Options) -> Iterator[Comparison]:
    """DS-MobileNet at 224 x 224."""
    net = to_channels_last(PRESETS.get("ds_mobilenet_v1").build().eval())
    for index, batch, goal in CASES:
        choice = net.space.uniform(index)
        x = torch.randn(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
        yield compare(
            f"view over static: choice {index}, batch {batch}",
            {"static": Served(to_channels_last(extract(net, choice)), [x]), "view": Served(View(net, choice), [x])},
            "static",
            {"view": at_most(goal)},
            options.time_limit_s,
        )


main = script("slicing", run)

if __name__ == "__main__":
    main(None)
