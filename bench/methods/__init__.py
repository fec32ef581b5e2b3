"""The method contract and the registry of methods. `from bench.methods import METHODS, Method` is for plugins.

The contract is imported when one of its names is asked for, so that methods can be listed without torch.
"""

from typing import TYPE_CHECKING, Any

from bench.methods.table import METHODS

if TYPE_CHECKING:
    from bench.methods.contract import (
        Method,
        build_model,
        build_network,
        check_parent,
        check_task,
        completed,
        fresh_model,
        method_of,
        reseed,
        start_of,
        trainable_copy,
    )

__all__ = [
    "METHODS",
    "Method",
    "build_model",
    "build_network",
    "check_parent",
    "check_task",
    "completed",
    "fresh_model",
    "method_of",
    "reseed",
    "start_of",
    "trainable_copy",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bench.methods import contract

    return getattr(contract, name)
