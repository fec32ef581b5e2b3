"""The method contract and the registry of methods. `from bench.methods import METHODS, Method` is for plugins."""

from bench.methods.contract import (
    METHODS,
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
