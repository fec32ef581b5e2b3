"""What a method is written with. `from bench.methods import METHODS, Method, Run` is for plugins.

All but the table is imported when one of its names is asked for, so that methods can be listed without torch.
"""

from typing import TYPE_CHECKING, Any

from bench.methods.table import METHODS

if TYPE_CHECKING:
    from bench.methods.contract import Method, check_parent, completed, method_of
    from bench.methods.start import (
        SUPERNET,
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bench.methods import contract, start
    from bench.training import loop, run

    return next(getattr(module, name) for module in (contract, start, loop, run) if hasattr(module, name))
