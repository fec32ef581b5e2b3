"""Structured removal: channels are cut out of the tensors, never masked, and a cut network is rebuilt from its tensors.

A channel is removed from every layer that shares it. A network keeps no other trace of being pruned than
the shapes of its tensors, so a checkpoint and the base network are all that a second process needs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from baselines.pruning_coupling import Coupling, channels_a_group, couplings_of, head_dim_of, is_attention
from bench.core.errors import UserError
from bench.models.vit.plain import PlainStage
from bench.slicing.attention import PlainAttention


class Surgeon:
    """A copy of a network, and the couplings along which channels can be removed from it.

    Attributes:
        left: why other couplings are left alone, by the name of their first layer.

    Args:
        network: a plain network; it is left as it is.
        example: (1, C, H, W), an image to trace the network with.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self.original = network
        self.network = copy.deepcopy(network).requires_grad_(True)
        self.couplings, self.left = couplings_of(self.network, example)
        if not self._runs(self.couplings, example):
            alone = [coupling for coupling in self.couplings if not self._runs([coupling], example)]
            self.left |= {coupling.name: "without one of its channels the network does not run" for coupling in alone}
            self.couplings = [coupling for coupling in self.couplings if coupling.name not in self.left]

    @property
    def untouched(self) -> str:
        """What is left alone and why, in a sentence; "" where everything can be pruned."""
        if not self.left:
            return ""
        (name, reason), *others = self.left.items()
        more = f", nor {len(others)} others ({', '.join(list(dict(others))[:3])}, ...)" if others else ""
        return f"the dependency graph cannot follow the channels of {name} ({reason}){more}, so they stay"

    @torch.no_grad()
    def _runs(self, couplings: Sequence[Coupling], example: Tensor) -> bool:
        """Whether the network still runs when each of some couplings has lost a unit."""
        widths = [each.units - (each in couplings and each.units > 1) for each in self.couplings]
        try:
            self.hollow(widths).eval()(example)
        except Exception:  # shapes that do not fit, and whatever a network asserts of them
            return False
        return True

    def shapes(self, widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor when each coupling has shrunk to its width, in units."""
        shapes = {key: list(tensor.shape) for key, tensor in self.original.state_dict().items()}
        for coupling, width in zip(self.couplings, widths, strict=True):
            for layer in coupling.layers:
                for key, dim in layer.tensors():
                    shapes[key][dim] -= len(layer.places) // coupling.units * (coupling.units - width)
        return {key: tuple(shape) for key, shape in shapes.items()}

    def hollow(self, widths: Sequence[int]) -> nn.Module:
        """The network as it would be at these widths, with zeros for weights: good for counting, and quick to make."""
        types = {key: tensor.dtype for key, tensor in self.original.state_dict().items()}
        zeros = {key: torch.zeros(shape, dtype=types[key]) for key, shape in self.shapes(widths).items()}
        return rebuild(self.original, zeros)

    def operate(self, kept: Mapping[str, Sequence[int]]) -> nn.Module:
        """The smaller network, without the units that are not among the kept ones of their coupling."""
        tensors = self.network.state_dict()
        stays = {}
        for coupling in self.couplings:
            gone = torch.ones(coupling.units, dtype=torch.bool)
            gone[list(kept[coupling.name])] = False
            for layer in coupling.layers:
                for key, dim in layer.tensors():
                    rows = stays.setdefault((key, dim), torch.ones(tensors[key].shape[dim], dtype=torch.bool))
                    rows[layer.places[gone[layer.unit_of]]] = False
        for (key, dim), rows in stays.items():
            tensors[key] = tensors[key].index_select(dim, rows.nonzero().flatten().to(tensors[key].device))
        return rebuild(self.network, tensors)


def rebuild(base: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network that a state dict was taken from: a copy of `base` with these tensors, in whatever shapes they have.

    Layers are fitted to their tensors. What a tensor does not tell is as in `base`: the filters a group of a
    convolution, the channels a group of a group norm, the width of an attention head.

    Raises:
        UserError: the tensors are not those of this base.
    """
    network = copy.deepcopy(base)
    strange = sorted(network.state_dict().keys() ^ tensors.keys())
    if strange:
        raise UserError(f"the checkpoint does not fit its base network: {strange[0]} is in only one of them")
    for key, tensor in tensors.items():
        path, _, name = key.rpartition(".")
        _replace(network.get_submodule(path), name, tensor)
    _refit(base, network)
    return network


def _replace(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a copy of a tensor of any shape in the place of a parameter or buffer, as trainable and where that was.

    A copy, since tensors that are read from a file lie at any address, and kernels then round differently.
    """
    before = getattr(module, name)
    tensor = tensor.detach().to(before.device, copy=True)
    if isinstance(before, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=before.requires_grad)
    setattr(module, name, tensor)


def _refit(base: nn.Module, network: nn.Module) -> None:
    """Bring what layers say of themselves in line with their tensors."""
    for before, after in zip(base.modules(), network.modules(), strict=True):
        _refit_layer(before, after)


def _refit_layer(before: Any, after: Any) -> None:
    if isinstance(after, nn.Conv2d):
        filters, channels = after.weight.shape[:2]
        after.groups = 1 if before.groups == 1 else filters // (before.out_channels // before.groups)
        after.out_channels, after.in_channels = filters, channels * after.groups
    elif isinstance(after, nn.Linear):
        after.out_features, after.in_features = after.weight.shape
    elif isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d) and after.weight is not None:
        after.num_features = len(after.weight)
    elif isinstance(after, nn.LayerNorm) and after.weight is not None:
        after.normalized_shape = tuple(after.weight.shape)
    elif isinstance(after, nn.GroupNorm) and after.weight is not None:
        after.num_channels = len(after.weight)
        after.num_groups = after.num_channels // channels_a_group(before)
    elif is_attention(after):
        _refit_attention(before, after)
    elif isinstance(after, PlainStage):
        first: Any = after.blocks[0]
        after.width = len(first.norm1.weight)


def _refit_attention(before: Any, after: Any) -> None:
    inner = after.proj.weight.shape[1]
    if isinstance(after, PlainAttention):
        after.heads = inner // before.head_dim
    else:
        after.num_heads, after.attn_dim = inner // head_dim_of(before), inner
