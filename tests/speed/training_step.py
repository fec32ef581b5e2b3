"""One step of stage I (sandwich rule, in-place bootstrapping), against its plainest correct version.

The same mathematics on the same network: DS-MobileNet at 128 x 128, batch 32. The plain version keeps the default NCHW
layout, runs every choice from the image on, steps its optimizer and averages its EMA network parameter by parameter,
and leaves the allocator as it is.

    python -m tests.speed.training_step
"""

import copy
import random
from collections.abc import Iterator

import torch

from bench.core.spec import TrainSpec
from bench.data.dataset import Batch
from bench.models import PRESETS
from bench.slicing.supernet import Supernet, to_channels_last
from bench.tasks.classification import Classification
from bench.training.optim import move_average, parameter_groups, sgd
from bench.training.supernet import StageOne, sandwich, supernet_step
from tests.speed.harness import Comparison, Isolated, Step, compare, faster
from tests.speed.script import Options, script

BATCH, SIZE = 32, 128
SPEC = TrainSpec(lr=0.01)


def run(options: Options) -> Iterator[Comparison]:
    """Each version in a process of its own: the allocator is a property of the process."""
    module = "tests.speed.training_step"
    yield compare(
        f"sandwich step with IB, DS-MobileNet at {SIZE} x {SIZE}, batch {BATCH}",
        {
            "plain": Isolated(f"{module}:plain", threads=options.threads, pin=False),
            "slicebench": Isolated(f"{module}:ours", threads=options.threads, pin=True),
        },
        "plain",
        {"slicebench": faster(1.5)},
        max(options.time_limit_s, 150.0),
    )


def prepared() -> tuple[Supernet, Supernet, Batch]:
    """Network, EMA network and a batch, equal in both processes."""
    torch.manual_seed(0)
    net = PRESETS.get("ds_mobilenet_v1").build().train()
    ema = copy.deepcopy(net).eval().requires_grad_(False)
    return net, ema, Batch((torch.randn(BATCH, 3, SIZE, SIZE),), torch.randint(0, 1000, (BATCH,)))


def plain() -> Step:
    """Default layout, an optimizer and an average that loop over parameters."""
    net, ema, batch = prepared()
    groups = parameter_groups([net], SPEC.weight_decay)
    optimizer = torch.optim.SGD(groups, SPEC.lr, SPEC.momentum, nesterov=True, foreach=False)

    space, generator, task = net.space, random.Random(0), Classification()

    def step() -> None:
        optimizer.zero_grad()
        choices = sandwich(space, StageOne().random_widths, generator)
        with torch.no_grad():
            target = task.soften(ema(batch.x, choices[0]))
        task.loss(net(batch.x, choices[0]), batch.targets, SPEC.label_smoothing).backward()
        for choice in choices[1:]:
            task.distill(net(batch.x, choice), target).backward()
        optimizer.step()
        with torch.no_grad():
            for mean, value in zip(ema.state_dict().values(), net.state_dict().values(), strict=True):
                mean.mul_(0.997).add_(value, alpha=0.003)

    return step


def ours() -> Step:
    """As the training loop runs it."""
    net, ema, batch = prepared()
    for network in (net, ema):
        to_channels_last(network)
    batch = Batch((batch.x.contiguous(memory_format=torch.channels_last),), batch.targets)
    optimizer = sgd([net], SPEC)

    generator = random.Random(0)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        supernet_step(net, ema, batch, StageOne(), Classification(), SPEC.label_smoothing, generator)
        optimizer.step()
        move_average(ema, net, 0.997)

    return step


main = script("training_step", run)

if __name__ == "__main__":
    main(None)
