"""What a method is written with. `from bench.methods import METHODS, Method, Run` is for plugins.

A name is imported when it is asked for, so that methods can be listed without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bench.methods.table import METHODS

if TYPE_CHECKING:
    from bench.methods.contract import Method
    from bench.methods.registry import check_parent, completed, method_of
    from bench.methods.start import (
        SUPERNET,
        beside_of,
        build_model,
        build_network,
        check_task,
        fresh_model,
        left_by,
        plain_network,
        reseed,
        start_of,
        trainable_copy,
        trained_supernet,
    )
    from bench.training.loop import train_network
    from bench.training.run import Run

__all__ = [
    "METHODS",
    "SUPERNET",
    "Method",
    "Run",
    "beside_of",
    "build_model",
    "build_network",
    "check_parent",
    "check_task",
    "completed",
    "fresh_model",
    "left_by",
    "method_of",
    "plain_network",
    "reseed",
    "start_of",
    "train_network",
    "trainable_copy",
    "trained_supernet",
]
PLACES = ("bench.methods.contract", "bench.methods.registry", "bench.methods.start", "bench.training.loop")
"""Where they are, `Run` by way of the contract."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for place in PLACES:
            module = importlib.import_module(place)
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
