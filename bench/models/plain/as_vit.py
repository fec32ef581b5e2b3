"""timm's plain Vision Transformer in the suite's layers, between which token pruning drops tokens."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from bench.core.errors import UserError
from bench.models.vit.plain import PlainBlock, PlainEmbedding, PlainHead, PlainStage
from bench.models.vit.timm_names import by_head
from bench.slicing.attention import PlainAttention

TOLERANCE = 1e-4  # of the greatest output: other kernels sum in another order


def as_vit(network: nn.Module, image_size: int, channels: int = 3) -> nn.Sequential:
    """A copy of the network as embedding, one stage of blocks, and head, which computes the same.

    Raises:
        UserError: it is no Vision Transformer of timm with a class token and pre-norm blocks, or has parts that these
            layers do not have (registers, layer scale, normalised queries, mean pooling).
    """
    source: Any = copy.deepcopy(network)
    try:
        vit = nn.Sequential(
            PlainEmbedding(source.patch_embed.proj, source.cls_token.detach(), source.pos_embed.detach()),
            PlainStage([_block(block) for block in source.blocks], source.embed_dim),
            PlainHead(source.norm, source.head),
        )
        x = torch.rand(2, channels, image_size, image_size, generator=torch.Generator().manual_seed(0))
        x = x.to(source.cls_token.device)
        training = network.training
        with torch.no_grad():
            theirs, ours = network.eval()(x), vit.eval()(x)
        network.train(training)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise UserError(
            f"tokens are pruned in plain Vision Transformers, and this network is none ({error})"
        ) from error
    if ours.shape != theirs.shape or (ours - theirs).abs().max() > TOLERANCE * theirs.abs().max().clamp_min(1):
        raise UserError(
            "tokens are pruned in plain Vision Transformers: class token, pre-norm blocks, no registers, layer scale "
            "or mean pooling; this network computes something else"
        )
    return vit.train(training)


def _block(block: Any) -> PlainBlock:
    attention, heads = block.attn, block.attn.num_heads
    qkv = attention.qkv
    with torch.no_grad():
        qkv.weight.copy_(by_head(qkv.weight, heads))
        if qkv.bias is not None:
            qkv.bias.copy_(by_head(qkv.bias, heads))
    chance = getattr(block.drop_path1, "drop_prob", 0.0)
    mixing = PlainAttention(qkv, attention.proj, heads)
    return PlainBlock(block.norm1, mixing, block.norm2, block.mlp.fc1, block.mlp.fc2, chance)
