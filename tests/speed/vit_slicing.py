"""Latency of DeiT-S's sub-networks against their multiply-adds, by the dimension that is sliced.

Extracted forms at 224 x 224, all stages alike: heads and MLP width together, whose matrix products shrink as a whole,
and the embedding (idle slicing), which leaves the stream at its width: it is split and joined around each stage. The
reference is the full network. A goal allows 15 % over the ratio of multiply-adds where only heads and MLP are sliced,
25 % where only the embedding is.

    python -m tests.speed.vit_slicing
"""

from collections.abc import Iterator

import torch

from bench.models import PRESETS
from bench.profilers.meter import Served
from bench.slicing.choice import Choice
from bench.slicing.extract import extract
from bench.slicing.supernet import Supernet
from tests.speed.harness import Comparison, Goal, compare
from tests.speed.script import Options, script

PRESET = "ds_vit_s"
SIZE = 224
BATCHES = (1, 16)
SLICED = {
    "heads and MLP 1/2": ({"heads": 3, "mlp": 768}, 0.15),
    "heads and MLP 1/3": ({"heads": 2, "mlp": 512}, 0.15),
    "embedding 3/4 (idle)": ({"embedding": 288}, 0.25),
}
"""What each stage runs, and how much its latency may exceed its multiply-adds, both as ratios to the full network."""


def run(options: Options) -> Iterator[Comparison]:
    """Batch 1 and batch 16."""
    net = PRESETS.get(PRESET).build().eval()
    choices = {"full": net.space.largest} | {name: everywhere(net, values) for name, (values, _) in SLICED.items()}
    networks = {name: extract(net, choice) for name, choice in choices.items()}
    goals = {name: over_madds(madds_ratio(net, choices[name]), margin) for name, (_, margin) in SLICED.items()}
    for batch in BATCHES:
        x = torch.randn(batch, net.input_channels, SIZE, SIZE)
        steps = {name: Served(network, [x]) for name, network in networks.items()}
        yield compare(
            f"DeiT-S sub-networks over the full one, extracted, batch {batch}", steps, "full", goals,
            options.time_limit_s, warmup=1,
        )  # fmt: skip


def everywhere(net: Supernet, values: dict[str, int]) -> Choice:
    """The sub-network whose every stage takes these values, and the largest of what is not named."""
    return net.space.choose({stage.name: values for stage in net.space.stages})


def madds_ratio(net: Supernet, choice: Choice) -> float:
    """Multiply-adds of a sub-network over those of the full one."""
    sliced, full = net.costs((choice, net.space.largest), SIZE)
    return sliced.madds / full.madds


def over_madds(ratio: float, margin: float) -> Goal:
    """A latency ratio at most `margin` (a fraction) above the ratio of multiply-adds."""
    bound = ratio * (1 + margin)
    return Goal(bound, f"<= {bound:.3f} (MAdds {ratio:.3f} + {margin:.0%})")


main = script("vit_slicing", run)

if __name__ == "__main__":
    main(None)
