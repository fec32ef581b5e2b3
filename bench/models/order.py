"""The order of a supernet's channels before it trains or is sliced: as it is, by importance, or at random."""

from __future__ import annotations

from typing import Literal

import torch

from bench.models import cnn_order
from bench.models.vit import order as vit_order
from bench.models.vit.network import Block
from bench.slicing.supernet import Supernet

Order = Literal["none", "l1", "random"]


def check_order(net: Supernet, order: Order) -> None:
    """Raise `UserError` for a supernet whose channels cannot change places, where they would have to."""
    if order != "none":
        for _ in cnn_order.channels_of(net):  # says why, and touches nothing; transformers have no such sets
            pass


def in_order(net: Supernet, order: Order, seed: int) -> Supernet:
    """The supernet ("none"), or a copy with the same full network whose prefixes hold other channels.

    Args:
        order: "l1", the largest L1 norm first (`cnn_order`, `vit_order`); "random", the control, drawn from `seed`.
    """
    if order == "none":
        return net
    family = vit_order if any(isinstance(module, Block) for module in net.modules()) else cnn_order
    return family.order_channels(net, torch.Generator().manual_seed(seed) if order == "random" else None)
