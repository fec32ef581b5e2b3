"""Which channels hang together: the couplings of a plain network, read from Torch-Pruning's dependency graph.

A channel is produced by one layer, normalised by another, read by a third, and shared by all that a residual
connection adds up; it can only be removed from all of them (Fang et al. 2023, DepGraph). Attention is cut by whole
heads, so that its scale keeps its meaning, and group norm by whole groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn

from bench.slicing.attention import PlainAttention

Role = Literal["producer", "consumer", "norm", "parameter"]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer's share in a coupling.

    Attributes:
        path: qualified name of the module; of the parameter itself where the role is "parameter".
        role: whether its outputs, its inputs or (norms, bare parameters) its only channels are shared.
        unit_of: (n,) int64, the unit to which each of its n shared channels belongs.
        places: (n,) int64, where those stand among all its channels, ascending; where outputs are concatenated, a layer
            that reads them shares some channels with each.
        dim: the dimension of a bare parameter that is shared.
    """

    path: str
    module: nn.Module
    role: Role
    unit_of: Tensor
    places: Tensor
    dim: int = 0

    def tensors(self) -> Iterator[tuple[str, int]]:
        """State-dict keys of the tensors that shrink, each with the dimension that does."""
        if self.role == "parameter":
            yield self.path, self.dim
        elif self.role == "consumer":
            yield f"{self.path}.weight", 1
        else:
            names = ("weight", "bias", "running_mean", "running_var")
            yield from ((f"{self.path}.{name}", 0) for name in names if getattr(self.module, name, None) is not None)


@dataclass(frozen=True, eq=False)
class Coupling:
    """Channels that live and die together, in `units` that can be removed one by one.

    Attributes:
        name: the first of its layers in network order.
        units: how many channels, norm groups or attention heads there are.
        layers: in network order.
    """

    name: str
    units: int
    layers: tuple[Layer, ...]

    @property
    def producers(self) -> list[Layer]:
        """The convolutions and linear layers that compute these channels."""
        return [layer for layer in self.layers if layer.role == "producer"]

    @property
    def norms(self) -> list[Layer]:
        """The norms with a scale that these channels pass through."""
        return [layer for layer in self.layers if layer.role == "norm" and layer.module.weight is not None]


def couplings_of(network: nn.Module, example: Tensor) -> tuple[list[Coupling], dict[str, str]]:
    """The couplings of a network in network order, and, by the name of its first layer, why another one is left alone.

    Channels that the network returns are in neither.

    Args:
        example: (1, C, H, W), an image to trace the network with.
    """
    training = network.training
    with torch.enable_grad():  # the graph is read from autograd's
        graph: Any = tp.DependencyGraph().build_dependency(
            network,
            example,
            forward_fn=lambda module, x: module(x),
            unwrapped_parameters=_bare_parameters(network),  # type: ignore[arg-type]  # pairs, whatever its hint says
            customized_pruners={type(module): _Attention() for module in network.modules() if is_attention(module)},
            verbose=False,
        )
    network.train(training)  # tracing switches to evaluation mode
    order = {name: position for position, (name, _) in enumerate(network.named_modules())}
    groups = graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear])
    couplings, unfollowed = list(_heads(network)), {}
    for group in groups:
        coupling, reason = _coupling(graph, group, order)
        if coupling is not None and reason:
            unfollowed[coupling.name] = reason
        elif coupling is not None:
            couplings.append(coupling)
    return sorted(couplings, key=lambda coupling: order[coupling.name]), unfollowed


def is_attention(module: nn.Module) -> bool:
    """Whether a module is multi-head attention of our families or of timm's, with `qkv` and `proj` and nothing else."""
    names = {name for name, child in module.named_children() if next(child.parameters(), None) is not None}
    return names == {"qkv", "proj"} and (hasattr(module, "head_dim") or hasattr(module, "num_heads"))


def head_dim_of(attention: Any) -> int:
    """Channels of one head."""
    return getattr(attention, "head_dim", None) or attention.proj.in_features // attention.num_heads


def channels_a_group(module: nn.Module) -> int:
    """How many channels a group norm normalises together; 1 for any other layer."""
    return module.num_channels // module.num_groups if isinstance(module, nn.GroupNorm) else 1


def is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels


def _bare_parameters(network: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """Parameters outside the common layers (tokens, position embeddings), each with its shared dimension: the last."""
    layers = (nn.Conv2d, nn.Linear, *NORMS)
    owners = [module for module in network.modules() if not (isinstance(module, layers) or is_attention(module))]
    return [(p, p.dim() - 1) for module in owners for p in module.parameters(recurse=False) if p.shape[-1] > 1]


def _coupling(graph: Any, group: Any, order: dict[str, int]) -> tuple[Coupling | None, str]:
    """One of Torch-Pruning's groups as a coupling, None where it is what the network returns; and why its channels must
    stay, "" where they need not."""
    if any(not item.dep.target.outputs and graph.is_out_channel_pruning_fn(item.dep.handler) for item in group):
        return None, ""
    shared = [layer for item in group if (layer := _layer(graph, item)) is not None]
    block = math.lcm(*(channels_a_group(layer.module) for layer in shared))
    layers = [replace(layer, unit_of=layer.unit_of // block) for layer in shared]
    layers.sort(key=lambda layer: order.get(layer.path, -1))
    name = next(layer.path for layer in layers if layer.role == "producer")
    return Coupling(name, len(group[0].idxs) // block, tuple(layers)), _obstacle(layers)


def _obstacle(layers: Sequence[Layer]) -> str:
    """Why the channels of a group must stay; "" where they need not."""
    for layer in layers:
        if getattr(layer.module, "groups", 1) > 1 and not is_depthwise(layer.module):
            return f"{layer.path} is a grouped convolution"
        own = layer.path.rpartition(".")[2] if layer.role == "parameter" else "weight"
        tensor: Any = getattr(layer.module, own)
        channels = tensor.shape[next(layer.tensors())[1]] if tensor is not None else len(layer.places)
        whole = layer.role != "producer" or len(layer.places) == channels
        if not whole or int(layer.places.max()) >= channels or len(layer.places.unique()) < len(layer.places):
            return f"it counts {len(layer.places)} channels of {layer.path}, which has {channels}"
    return ""


def _layer(graph: Any, item: Any) -> Layer | None:
    """A member of Torch-Pruning's group as a layer; None for operators without tensors."""
    module, handler = item.dep.target.module, item.dep.handler
    places, order = torch.tensor(item.idxs).sort()
    unit_of = torch.tensor(item.root_idxs)[order]
    if isinstance(module, nn.Parameter):
        path = graph._param_to_name[module]
        owner = graph.model.get_submodule(path.rpartition(".")[0])
        return Layer(path, owner, "parameter", unit_of, places, item.dep.target.pruning_dim)
    path = graph._module2name.get(module, "")
    if isinstance(module, NORMS):
        return Layer(path, module, "norm", unit_of, places)
    inward = handler != graph.get_pruner_of_module(module).prune_out_channels and not is_depthwise(module)
    role: Role = "consumer" if inward else "producer"
    if is_attention(module):
        part = "qkv" if inward else "proj"
        return Layer(f"{path}.{part}", getattr(module, part), role, unit_of, places)
    return Layer(path, module, role, unit_of, places) if isinstance(module, nn.Conv2d | nn.Linear) else None


def _heads(network: nn.Module) -> Iterator[Coupling]:
    """For each attention module its heads: rows of `qkv`, columns of `proj`."""
    for path, module in network.named_modules():
        if is_attention(module):
            attention: Any = module
            width = head_dim_of(attention)
            heads = attention.proj.in_features // width
            columns = torch.arange(heads).repeat_interleave(width)
            ours = isinstance(module, PlainAttention)  # rows are (heads, 3, head_dim); timm's (3, heads, head_dim)
            rows = torch.arange(heads).repeat_interleave(3 * width) if ours else columns.repeat(3)
            layers = [
                Layer(f"{path}.qkv", attention.qkv, "producer", rows, torch.arange(len(rows))),
                Layer(f"{path}.proj", attention.proj, "consumer", columns, torch.arange(len(columns))),
            ]
            each = torch.arange(heads)
            for name, own in attention.named_parameters(recurse=False):  # the position biases of Swin, (places, heads)
                layers.append(Layer(f"{path}.{name}", attention, "parameter", each, each, own.dim() - 1))
            yield Coupling(path, heads, tuple(layers))


class _Attention(tp.BasePruningFunc):
    """Tells Torch-Pruning that what enters attention enters `qkv`, and that what leaves it leaves `proj`."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        tp.prune_linear_out_channels(layer.proj, idxs)
        return layer

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        tp.prune_linear_in_channels(layer.qkv, idxs)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        return layer.proj.out_features

    def get_in_channels(self, layer: Any) -> int:
        return layer.qkv.in_features
