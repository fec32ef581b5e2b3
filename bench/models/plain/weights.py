"""Weights of a plain network, under its own names, in and out of the supernet that it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bench.models.plain.network import whole_of
from bench.models.transfer import Transferred, transfer
from bench.slicing.supernet import Supernet

COUNTER = "num_batches_tracked"
IMAGENET_CLASSES = 1000


def from_own(state: Mapping[str, Tensor], net: Supernet, rows: Sequence[int] | None = None) -> Transferred:
    """The state of `net`, a plain network, with the values of a state dict under the network's own names.

    Args:
        rows: where the classes of the data are classes of ImageNet, their places among its 1,000: of a classifier of
            those 1,000 these rows are taken. A classifier of another size stays as it is in `net`.

    Raises:
        UserError: something outside the head is missing from `state` or has another shape.
    """
    whole = whole_of(net)
    assert whole is not None
    heads = tuple(f"{name}." for name in whole.head)
    if rows is not None:
        places = torch.tensor(rows)
        state = {
            key: value[places] if key.startswith(heads) and len(value) == IMAGENET_CLASSES else value
            for key, value in state.items()
        }
    counters = {key: value for key, value in whole.network.state_dict().items() if key.endswith(COUNTER)}
    moved = transfer({**counters, **state}, whole.network, heads)
    prefix = next(name for name, module in net.named_modules() if module is whole) + ".network."
    return Transferred(
        {prefix + key: value for key, value in moved.state.items()},
        tuple(prefix + key for key in moved.stayed),
        moved.unused,
    )
