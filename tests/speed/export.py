"""Sub-networks of DS-MobileNet as they are served, against the same sub-networks as plain eager networks.

At 224 x 224, batch 1: the smallest routable sub-network and the largest one (never `largest`, which no gate reaches).
The reference, static eager, is the extracted sub-network in torch's default layout (NCHW), batch norm not folded.
Served are a copy with batch norm folded in channels_last, and the exported sub-network in ONNX Runtime with as many
threads as torch has.

    python -m tests.speed.export       needs the extra onnx
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.export.engines import network_in_engine
from bench.models import PRESETS
from bench.profilers.choices import chosen
from bench.profilers.meter import Served
from bench.slicing.choice import Choice
from bench.slicing.extract import extract
from bench.slicing.supernet import Supernet, to_channels_last
from tests.speed.harness import Comparison, at_most, compare, faster
from tests.speed.script import Options, script

PRESET = "ds_mobilenet_v1"
SIZE = 224
FASTER = {"smallest": 2.5, "largest": 1.9}  # PERFORMANCE: exported to ONNX Runtime over static eager
FOLDED = 0.86


def run(options: Options) -> Iterator[Comparison]:
    """All forms of both in one run; then the two exported ones, whose ratio is held against their multiply-adds'."""
    net = PRESETS.get(PRESET).build().eval()
    small, *_, large = chosen(net, "routable", SIZE)
    x = torch.randn(1, net.input_channels, SIZE, SIZE)
    steps: dict[str, Served] = {}
    for which, choice in (("smallest", small), ("largest", large)):
        steps |= {f"{form}, {which}": step for form, step in forms(net, choice, x, options.threads).items()}
    goals = {f"onnx, {which}": faster(times, f"eager, {which}") for which, times in FASTER.items()}
    goals |= {f"folded channels_last, {which}": at_most(FOLDED, f"eager, {which}") for which in FASTER}
    yield compare(
        f"DS-MobileNet at {SIZE} x {SIZE}, batch 1: served over static eager", steps, "eager, largest", goals,
        options.time_limit_s,
    )  # fmt: skip
    less, more = (cost.madds for cost in net.costs((small, large), SIZE))
    yield compare(
        f"exported: smallest over largest (ratio of multiply-adds: {less / more:.3f})",
        {name: steps[name] for name in ("onnx, smallest", "onnx, largest")},
        "onnx, largest",
        {"onnx, smallest": at_most(0.38)},
        options.time_limit_s,
    )


def forms(net: Supernet, choice: Choice, x: Tensor, threads: int) -> dict[str, Served]:
    """The ways to run one sub-network; x (1, C, H, W), which the exported graph takes in any number."""
    return {
        "eager": Served(extract(net, choice), [x]),
        "folded channels_last": Served(
            to_channels_last(extract(net, choice, fold_bn=True)), [x.contiguous(memory_format=torch.channels_last)]
        ),
        "onnx": Served(network_in_engine(extract(net, choice), x.repeat(2, 1, 1, 1), threads=threads), [x]),
    }


main = script("export", run)

if __name__ == "__main__":
    main(None)
