"""A plain network cut into pieces behind named submodules, so that a classifier may stand between them.

What lies between the stages is traced (torch.fx); a stage itself, and whatever holds none, is run as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx, nn

from bench.core.errors import UserError


class _Root(nn.Module):
    """Calls a network with images alone, so that its other arguments keep their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class _Outline(fx.Tracer):
    """Traces the modules that hold a stage, and nothing within the others."""

    def __init__(self, opened: set[str]) -> None:
        super().__init__()
        self.opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.opened


def pieces(network: nn.Module, stages: Sequence[str]) -> list[nn.Module]:
    """The network as modules that are run one behind the other: one up to and with each stage, and the rest.

    Their parameters are the network's own.

    Args:
        stages: names of its submodules, in running order.

    Raises:
        UserError: there are no stages, the network cannot be traced around them, one is not run exactly once or in
            order, or what follows one reads more than it returns.
    """
    if not stages:
        raise UserError("this network names no stages behind which it may be cut (own_network takes `stages`)")
    root, paths = _Root(network), [f"network.{stage}" for stage in stages]
    opened = {path[:dot] for path in paths for dot in range(len(path)) if path[dot] == "."}
    try:
        graph = _Outline(opened).trace(root)
    except Exception as error:  # whatever a network does with what is no tensor
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"this network cannot be cut, because it cannot be traced around its stages ({reason:.160})"
        ) from error
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    ends = [[place for place, node in enumerate(nodes) if node.target == path] for path in paths]
    if any(len(places) != 1 for places in ends) or sorted(ends) != ends:
        raise UserError(f"the stages {', '.join(stages)} are not each run once, in this order")
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    arriving, start, cut = next(node for node in graph.nodes if node.op == "placeholder"), 0, []
    for stage, (place,) in zip(stages, ends, strict=True):
        cut.append(_part(root, nodes[start : place + 1], arriving, nodes[place], stage))
        arriving, start = nodes[place], place + 1
    return [*cut, _part(root, nodes[start:], arriving, result, "its end")]


def _part(root: nn.Module, nodes: Sequence[fx.Node], arriving: fx.Node, leaving: fx.Node, stage: str) -> nn.Module:
    """Some nodes of a graph as a module from what arrives to what leaves."""
    graph = fx.Graph()
    copies = {arriving: graph.placeholder("x")}
    try:
        for node in nodes:
            copies[node] = graph.node_copy(node, lambda read: copies[read])
        graph.output(copies[leaving])
    except KeyError as error:
        raise UserError(f"this network cannot be cut in front of {stage}, which reads {error.args[0]} too") from error
    return fx.GraphModule(root, graph)
