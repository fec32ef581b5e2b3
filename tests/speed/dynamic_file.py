"""One ONNX file that routes a batch inside itself, against static files of the same network, all in ONNX Runtime.

Batch 64: the file against the sum of its parts (every part as a file of its own, run on the images that the gates send
there, which were gathered beforehand), and against all images in the static file of the widest network. Batch 1: the
file against the static file of the width that its gate chooses. The gate is not trained: its head is orthogonal to the
mean of what it reads, so that images spread over its options.

    python -m tests.speed.dynamic_file       needs the extra onnx
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from bench.export import onnx_file
from bench.export.routed import load_routed, write_routed
from bench.models import PRESETS
from bench.points import RoutedPoint
from bench.slicing.choice import Choice
from bench.slicing.extract import extract, folded
from bench.slicing.gate import new_gates
from tests.speed.harness import Comparison, at_most, compare
from tests.speed.script import Options, script

CASES = (("ds_mobilenet_v1", 224), ("ds_mobilenet_micro32", 32))
BATCH = 64
FILE, PARTS, WIDEST, CHOSEN = "one file", "its parts", "all at the widest", "the chosen width alone"
Network = Callable[[Tensor], tuple[Tensor, ...]]


def run(options: Options) -> Iterator[Comparison]:
    """DS-MobileNet at full size and at 32 x 32."""
    for name, size in CASES:
        yield from comparisons(name, size, options)


@torch.no_grad()
def comparisons(name: str, size: int, options: Options) -> Iterator[Comparison]:
    """Batch 64, then batch 1, of a preset with one gate."""
    point, x = spread(name, size)
    net, example = point.supernet, x[:2]
    route = point(x).route
    alone: dict[Choice, Network] = {}
    for decision in {int(route[0, 0]), point.routing[0][-1]}:
        choice = net.space.routed([decision])
        alone[choice] = static(extract(net, choice), example, ("output",), options.threads)
    widest = net.space.routed([point.routing[0][-1]])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        write_routed(path, point, example, {})
        file = load_routed(path, options.threads)
    share = point.madds(route).double().mean().item() / net.cost(widest, size).madds
    counts = ", ".join(map(str, route[:, 0].bincount().tolist()))
    yield compare(
        f"{name}, batch {BATCH}: {counts} images an option, {share:.3f} of the widest's multiply-adds",
        {FILE: partial(file, x), PARTS: parts_of(point, x, options.threads), WIDEST: partial(alone[widest], x)},
        WIDEST,
        {FILE: at_most(1.05, PARTS)},
        options.time_limit_s,
    )
    chosen = alone[net.space.routed(route[0].tolist())]
    yield compare(
        f"{name}, batch 1",
        {FILE: partial(file, x[:1]), CHOSEN: partial(chosen, x[:1])},
        CHOSEN,
        {FILE: at_most(1.05)},
        options.time_limit_s,
    )


@torch.no_grad()
def spread(name: str, size: int, options: tuple[int, ...] = ()) -> tuple[RoutedPoint, Tensor]:
    """A point whose untrained gate spreads images over its options (none: all), and a batch of such images."""
    torch.manual_seed(0)
    net = PRESETS.get(name).build().eval()
    x = torch.randn(BATCH, net.input_channels, size, size)
    (decision,) = net.space.decisions
    _, features = net.segments[0](x, net.space.smallest)
    options = options or tuple(range(len(decision.options)))
    (gate,) = new_gates(net, (options,), size)
    seen = gate.read(features)
    mean, weight = seen.mean(0, keepdim=True), nn.init.normal_(gate.head.weight)
    weight -= (weight @ mean.T) / mean.square().sum() * mean
    return RoutedPoint("dynamic", net, [gate], [options], size), x


def static(network: nn.Module, example: Tensor, outputs: tuple[str, ...], threads: int) -> Network:
    """A network, batch norm folded, as an ONNX file in the engine."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        onnx_file.write(path, folded(network), example.contiguous(), outputs, {})
        return onnx_file.load(path, threads)


def parts_of(point: RoutedPoint, x: Tensor, threads: int) -> Callable[[], list[tuple[Tensor, ...]]]:
    """A step that runs every part once, on the images that come to it."""
    first, *others = point.parts()
    activation, decision = first.network(x)
    steps = [partial(static(first.network, x[:2], first.gives, threads), x)]
    for place, part in enumerate(others):
        arriving = activation[decision == place].contiguous()
        if len(arriving):
            steps.append(partial(static(part.network, activation[:2], part.gives, threads), arriving))
    return lambda: [step() for step in steps]


main = script("dynamic_file", run)

if __name__ == "__main__":
    main(None)
