"""Several gates: images regrouped at each gate, against groups of one whole path, and against all at the widest.

Every gate routes uniformly at random. Regrouping puts all images together for which the rest of a segment is the same:
a gate with K options makes at most K x K groups (DESIGN 2). Whole paths make up to K^gates, so at large batches they
run few images at a time. Both run the same extracted copies and compute the same outputs. The reference runs all images
through the widest routed network.

    python -m tests.speed.multigate
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from bench.models import PRESETS
from bench.slicing.choice import ChoiceSpace
from bench.slicing.dynamic import ExtractedSegments, by_path, by_segment, fixed_router, run_grouped
from bench.slicing.supernet import Supernet
from tests.speed.harness import Comparison, at_most, compare
from tests.speed.script import Options, script

CASES = (("ds_resnet_pp_micro32", (8, 64, 256)), ("ds_vit_micro32", (8, 64, 256)), ("ds_vit_ti", (8, 64)))
SECONDS = 30.0  # of rounds at most for each of the eight comparisons
WIDEST, REGROUPED, PATHS = "all at the widest", "regrouped", "whole paths"


def run(options: Options) -> Iterator[Comparison]:
    """Two micro presets and DeiT-Ti."""
    for name, batches in CASES:
        net: Supernet = PRESETS.get(name).build().eval()
        for batch in batches:
            yield comparison(net, name, batch, min(options.time_limit_s, SECONDS))


def comparison(net: Supernet, name: str, batch: int, time_limit_s: float) -> Comparison:
    """One family at one batch size."""
    space, size = net.space, PRESETS.get(name).image_size
    copies = ExtractedSegments(net)
    x = torch.randn(batch, net.input_channels, size, size).contiguous(memory_format=torch.channels_last)
    route = uniform_routes(space, batch)
    grouped = partial(run_grouped, copies, space)
    widest = torch.tensor([len(decision.options) - 1 for decision in space.decisions]).repeat(batch, 1)
    steps = {
        WIDEST: partial(grouped, fixed_router(widest), x),
        REGROUPED: partial(grouped, fixed_router(route), x, by_segment),
        PATHS: partial(grouped, fixed_router(route), x, by_path),
    }
    routed = sum(cost.madds for cost in net.costs([space.routed(r) for r in route.tolist()], size)) / batch
    share = routed / net.cost(space.routed(widest[0].tolist()), size).madds
    paths = len(route.unique(dim=0))
    return compare(
        f"{name}, batch {batch}: {paths} paths, {share:.3f} of the widest's multiply-adds",
        steps,
        WIDEST,
        {REGROUPED: at_most(1.0, PATHS)},
        time_limit_s,
        warmup=1,
    )


def uniform_routes(space: ChoiceSpace, count: int) -> Tensor:
    """Decisions drawn uniformly at every gate, (count, G), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(len(d.options), (count,), generator=generator) for d in space.decisions], 1)


main = script("multigate", run)

if __name__ == "__main__":
    main(None)
