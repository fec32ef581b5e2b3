"""Importance order of a Vision Transformer: its most important heads, hidden units and stream channels go first.

Importance is the L1 norm of the weights. Permuting a dimension together with everything that reads it leaves the full
network as it was.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.models.vit.units import Block, Embedding, Head
from bench.slicing.attention import SlicedAttention
from bench.slicing.supernet import Supernet


def order(net: Supernet, generator: torch.Generator | None) -> None:
    """Permute each elastic dimension in place, in falling order of importance; in a random order where a generator is
    given (the control)."""
    for module in net.modules():
        if isinstance(module, Block):
            order_heads(module.attention, _order(head_importance(module.attention), generator))
            order_hidden(module, _order(hidden_importance(module), generator))
    order_stream(net, _order(stream_importance(net), generator))


def _order(importance: Tensor, generator: torch.Generator | None) -> Tensor:
    """Indices in falling order of importance, equal ones in their old order; or a random permutation."""
    if generator is not None:
        return torch.randperm(len(importance), generator=generator)
    return importance.argsort(descending=True, stable=True)


def head_importance(attention: SlicedAttention) -> Tensor:
    """(heads,): L1 norm of each head's query, key and value rows and of its projection columns."""
    size = attention.head_dim
    rows = attention.qkv.weight.abs().sum(1).unflatten(0, (-1, 3 * size))  # (H, 3d)
    columns = attention.proj.weight.abs().sum(0).unflatten(0, (-1, size))  # (H, d)
    return rows.sum(1) + columns.sum(1)


def hidden_importance(block: Block) -> Tensor:
    """(hidden,): L1 norm of the weights into and out of each hidden unit of the MLP."""
    return block.fc1.weight.abs().sum(1) + block.fc2.weight.abs().sum(0)


def stream_importance(net: Supernet) -> Tensor:
    """(D,): L1 norm of the weights that write to each channel of the residual stream."""
    written = []
    for module in net.modules():
        if isinstance(module, Embedding):
            written.append(module.patches.weight.abs().sum((1, 2, 3)))
        elif isinstance(module, Block):
            written += [module.attention.proj.weight.abs().sum(1), module.fc2.weight.abs().sum(1)]
    return torch.stack(written).sum(0)


def order_heads(attention: SlicedAttention, order: Tensor) -> None:
    """Permute the heads of an attention layer in place; what it computes at full width stays."""
    size = attention.head_dim
    rows = (order[:, None] * 3 * size + torch.arange(3 * size, device=order.device)).flatten()
    columns = (order[:, None] * size + torch.arange(size, device=order.device)).flatten()
    _permute(attention.qkv.weight, 0, rows)
    _permute(attention.qkv.bias, 0, rows)
    _permute(attention.proj.weight, 1, columns)


def order_hidden(block: Block, order: Tensor) -> None:
    """Permute the hidden units of a block's MLP in place; what it computes at full width stays."""
    _permute(block.fc1.weight, 0, order)
    _permute(block.fc1.bias, 0, order)
    _permute(block.fc2.weight, 1, order)


def order_stream(net: Supernet, order: Tensor) -> None:
    """Permute the channels of the residual stream in place, in all that writes or reads them."""
    for module in net.modules():
        if isinstance(module, Embedding):
            _permute(module.patches.weight, 0, order)
            _permute(module.patches.bias, 0, order)
            _permute(module.token, 2, order)
            _permute(module.position, 2, order)
        elif isinstance(module, Block):
            _order_block_ends(module, order)
        elif isinstance(module, Head):
            _permute(module.norm.weight, 0, order)
            _permute(module.norm.bias, 0, order)
            _permute(module.linear.weight, 1, order)


def _order_block_ends(block: Block, order: Tensor) -> None:
    for norm in (block.norm1, block.norm2):
        _permute(norm.weight, 0, order)
        _permute(norm.bias, 0, order)
    for reader in (block.attention.qkv, block.fc1):
        _permute(reader.weight, 1, order)
    for writer in (block.attention.proj, block.fc2):
        _permute(writer.weight, 0, order)
        _permute(writer.bias, 0, order)


def _permute(parameter: Tensor | None, dimension: int, order: Tensor) -> None:
    if parameter is not None:
        parameter.copy_(parameter.index_select(dimension, order.to(parameter.device)))
