"""What a method is written with. `from bench.methods import METHODS, Method, Run` is for plugins."""

from bench.methods.contract import Method
from bench.methods.registry import METHODS, check_parent, completed, method_of
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
