"""Dynamic points that nobody trained, but whose images spread over their routes."""

import torch
from small_runs import digits, small_net
from torch import Tensor, nn

from baselines import exits
from baselines.early_exit import exit_costs, with_exits
from baselines.exit_thresholds import confidence
from baselines.exits import ExitPoint
from baselines.staged import staged
from bench.points import RoutedPoint
from bench.slicing.gate import new_gates


def pictures(count: int) -> Tensor:
    return next(iter(digits().validation.batches(count))).x.contiguous()


@torch.no_grad()
def routed_point(model: str, options: int | None = 2) -> RoutedPoint:
    """A network whose gates are not trained, but whose images spread over the cheapest and the costliest option, or all
    options: a gate reads standardised features. Statistics of batch norm are not those of a fresh network, so that a
    mistake in them shows."""
    torch.manual_seed(0)
    net, x = small_net(model).eval(), pictures(64)
    for name, buffer in net.named_buffers():
        if ".mean_" in name:
            buffer.normal_(0, 0.1)
        if ".var_" in name:
            buffer.uniform_(0.5, 1.5)
    counts = [len(decision.options) for decision in net.space.decisions]
    routing = tuple(tuple(range(count)) if options is None else (0, count - 1) for count in counts)
    gates = new_gates(net, routing, 8)
    for index, gate in enumerate(gates):
        x, features = net.segments[index](x, net.space.smallest)
        gate.standardise(gate.read(features))
        seen = (gate.read(features) - gate.shift) / gate.scale
        seen = seen if gate.hidden is None else gate.hidden(seen).relu()
        mean, weight = seen.mean(0, keepdim=True), nn.init.normal_(gate.head.weight)
        weight -= (weight @ mean.T) / mean.square().sum() * mean
    return RoutedPoint("dynamic", net, gates, routing, 8)


def exit_point() -> ExitPoint:
    """A network with three exits, at thresholds that some images pass."""
    torch.manual_seed(0)
    network = with_exits(staged(small_net("ds_mobilenet_micro8").eval()), (0.3, 0.6), pictures(1)).eval()
    with torch.no_grad():
        for head in network.heads[:-1]:
            head[-1].weight.normal_(0, 20)  # type: ignore[index]
        sure = [confidence(logits) for logits in network(pictures(64))[:-1]]
    costs, _ = exit_costs(network, pictures(1))
    return exits.exit_point("exits", network, [each.median().item() for each in sure], costs)
