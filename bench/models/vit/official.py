"""The authors' weights of HydraViT and ThinkingViT: timm's names of DeiT, and what a second round needs (METHODS 14).

Both slice the first heads of timm's rows of query, key and value, which `timm_names` brings into our order.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bench.models.official import Adapted, matched
from bench.models.vit.timm_names import by_head, key_map
from bench.slicing.supernet import Supernet


def deit(state: Mapping[str, Tensor], net: Supernet, beside: Mapping[str, tuple[int, ...]] | None = None) -> Adapted:
    """A DeiT of the network's heads; `beside`: shapes of what else the checkpoint holds."""
    heads = net.space.stages[-1].values("heads")[-1]
    values = matched(state, net, key_map(net), beside or {})
    return Adapted({key: by_head(value, heads) if ".qkv." in key else value for key, value in values.items()}, {})


def thinking_vit(state: Mapping[str, Tensor], net: Supernet) -> Adapted:
    """ThinkingViT's DeiT of 3 and 6 heads; its recycling of tokens, from half of the channels, is beside it."""
    channels = net.space.stages[-1].values("embedding")[-1]
    shapes = {"alpha.0": (1,), "proj_layer.weight": (channels, channels // 2), "proj_layer.bias": (channels,)}
    return Adapted(deit(state, net, shapes).state, {name: state[name] for name in shapes})
