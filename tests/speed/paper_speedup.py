"""DS-Net's acceleration of 1.62x put to the test: DS-MobileNet at the mean cost of DS-MBNet-M against MobileNetV1.

The paper sets DS-MBNet-M (319 M multiply-adds on average) against MobileNetV1 (569 M) and reports 63 ms to 39 ms; on
which hardware and at which batch size is not known. Here the same networks, with random weights, run on this machine's
CPU: grouped inference in PyTorch, and one ONNX file in ONNX Runtime and in OpenVINO. The gate is not trained: it
grades images by what sets them apart most, so that they spread over four neighbouring sub-networks, and leans so that
the batch costs 319 M on average; the title states how many images took which. At batch 1 the images come in turn.

    python -m tests.speed.paper_speedup       needs the extras onnx and openvino
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from bench.export.engines import ENGINES, point_in_engine
from bench.points import RoutedPoint, StaticPoint
from bench.profilers.madds import executed_madds
from bench.slicing.gate import Gate
from bench.training.budget import fit_offset, option_costs, route_span
from tests.speed.dynamic_file import BATCH, spread
from tests.speed.harness import Comparison, compare, faster
from tests.speed.script import Options, script

NAME, SIZE, BASELINE = "ds_mobilenet_v1", 224, "mobilenetv1_100"
OPTIONS = (5, 6, 7, 8)
MEAN = 319_442_048
"""Multiply-adds of sub-network 7, which are those of DS-MBNet-M."""
CLAIMED = 63 / 39
STATIC, DYNAMIC = "MobileNetV1 of timm", "DS-MobileNet, routed"


def run(options: Options) -> Iterator[Comparison]:
    """Each engine at batch 64 and at batch 1."""
    with torch.no_grad():
        point, x = at_mean_cost()
        baseline = StaticPoint(BASELINE, mobilenet(), executed_madds(timm.create_model(BASELINE).eval(), x[:1]))
        route = point(x).route
    counts = ", ".join(map(str, route[:, 0].bincount(minlength=OPTIONS[-1] + 1)[list(OPTIONS)].tolist()))
    share = point.madds(route).double().mean().item() / baseline.claimed
    for engine in ("PyTorch", *ENGINES):
        static, dynamic = (in_engine(each, engine, x, options.threads) for each in (baseline, point))
        for batch in (BATCH, 1):
            yield compare(
                f"{engine}, batch {batch}: {counts} images an option, {share:.3f} of its multiply-adds",
                {STATIC: in_turn(static, x, batch), DYNAMIC: in_turn(dynamic, x, batch)},
                STATIC,
                {DYNAMIC: faster(CLAIMED)},
                options.time_limit_s,
            )


def at_mean_cost() -> tuple[RoutedPoint, Tensor]:
    """The routed network and 64 images that cost `MEAN` on average."""
    point, x = spread(NAME, SIZE, OPTIONS)
    net, (gate,) = point.supernet, point.gates
    (shares,), span = option_costs(net, point.routing, SIZE), route_span(net, [gate], point.routing, SIZE)  # type: ignore[list-item]
    _, features = net.segments[0](x, net.space.smallest)
    grade(gate, gate.read(features))  # type: ignore[operator, arg-type]
    raw = gate.raw(features)  # type: ignore[operator]
    offsets, added = gate.switches(raw, shares)  # type: ignore[operator]
    offset = fit_offset(offsets, added, 0.0, (MEAN - span.cheapest) / (span.costliest - span.cheapest))
    gate.offset += offset * shares  # type: ignore[operator]
    return RoutedPoint("dynamic", net, [gate], [OPTIONS], SIZE), x  # type: ignore[list-item]


def grade(gate: Gate, seen: Tensor) -> None:
    """Let a gate take the option whose grade is nearest to where an image stands among these, (n, T), along the
    direction in which they differ most: so all options are taken."""
    mean = seen.mean(0)
    direction = torch.linalg.svd(seen - mean, full_matrices=False).Vh[0]
    direction /= ((seen - mean) @ direction).std()
    grades = torch.linspace(-1.5, 1.5, gate.options)
    gate.head.weight.copy_(grades[:, None] * direction)
    gate.offset.copy_(-grades.square() / 2 - grades * (mean @ direction))


def mobilenet() -> nn.Module:
    """timm's MobileNetV1 with batch norm folded into its convolutions, as it would be served."""
    network = timm.create_model(BASELINE).eval()
    for parent in list(network.modules()):
        children: list[tuple[str, Any]] = list(parent.named_children())
        for name, child in children:
            if type(child) is BatchNormAct2d:
                parent.add_module(name, _norm_and_activation(child))
    return fuse(network)


def _norm_and_activation(layer: Any) -> nn.Sequential:
    """timm's layer of both as two."""
    norm = nn.BatchNorm2d(layer.num_features, layer.eps)
    norm.load_state_dict(layer.state_dict())
    return nn.Sequential(norm.eval(), layer.drop, layer.act)


def in_engine(point: RoutedPoint | StaticPoint, engine: str, x: Tensor, threads: int) -> Callable[[Tensor], object]:
    """A point as an engine serves it."""
    if engine in ENGINES:
        return point_in_engine(point, x[:2], engine, threads)
    served = point.executables()["extracted"]
    return lambda images: served(images.contiguous(memory_format=torch.channels_last))


def in_turn(network: Callable[[Tensor], object], x: Tensor, batch: int) -> Callable[[], object]:
    """A step that runs the next batch of the images."""
    following = itertools.cycle(x.split(batch))
    return lambda: network(next(following))


main = script("paper_speedup", run)

if __name__ == "__main__":
    main(None)
