"""A batch routed to several widths: grouped by choice, masked, and one by one, against all images at the widest.

Images are routed evenly to choices 0, 4, 9 and 13 of DS-MobileNet at 224 x 224; the reference runs all of them at
choice 13, the widest that a gate can reach (never `largest`). Extracted forms have batch norm folded on both sides.

    python -m tests.speed.grouping
"""

from collections.abc import Iterator

import torch

from bench.models import PRESETS
from bench.slicing.dynamic import (
    ExtractedSegments,
    ViewSegments,
    fixed_router,
    run_grouped,
    run_masked,
    run_one_by_one,
)
from bench.slicing.supernet import to_channels_last
from tests.speed.harness import Comparison, Step, at_most, compare
from tests.speed.script import Options, script

BATCH = 64
ROUTED_TO = (0, 4, 9, 13)


def run(options: Options) -> Iterator[Comparison]:
    """Whole network, batch 64."""
    net = to_channels_last(PRESETS.get("ds_mobilenet_v1").build().eval())
    space, views, copies = net.space, ViewSegments(net), ExtractedSegments(net)
    x = torch.randn(BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    mixed = torch.tensor(ROUTED_TO).repeat(BATCH // len(ROUTED_TO))[:, None]
    mixed = mixed[torch.randperm(BATCH, generator=torch.Generator().manual_seed(0))]
    router, widest = fixed_router(mixed), fixed_router(torch.full((BATCH, 1), 13))
    ways: dict[str, Step] = {
        "all at 13, extracted": lambda: run_grouped(copies, space, widest, x),
        "grouped, extracted": lambda: run_grouped(copies, space, router, x),
        "grouped, view": lambda: run_grouped(views, space, router, x),
        "masked": lambda: run_masked(net, router, x),
        "one by one, extracted": lambda: run_one_by_one(copies, space, router, x),
    }
    routed = torch.tensor([cost.madds for cost in net.costs(space.uniform_choices, 224)])
    share = routed[mixed].double().mean() / routed[13]
    yield compare(
        f"batch {BATCH} routed evenly to {ROUTED_TO} (its multiply-adds: {share:.3f} of the reference's)",
        ways,
        "all at 13, extracted",
        {"grouped, extracted": at_most(0.75)},
        max(options.time_limit_s, 150.0),
        warmup=1,
    )


main = script("grouping", run)

if __name__ == "__main__":
    main(None)
