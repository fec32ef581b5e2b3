"""What a method is written with. `from bench.methods import METHODS, Method, Run` is for plugins.

A name is imported when it is asked for, so that methods can be listed without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bench.methods.registry import METHODS as METHODS
from bench.methods.registry import check_parent as check_parent
from bench.methods.registry import completed as completed
from bench.methods.registry import method_of as method_of

if TYPE_CHECKING:
    from bench.methods.contract import Method as Method
    from bench.methods.start import SUPERNET as SUPERNET
    from bench.methods.start import beside_of as beside_of
    from bench.methods.start import build_model as build_model
    from bench.methods.start import build_network as build_network
    from bench.methods.start import check_task as check_task
    from bench.methods.start import fresh_model as fresh_model
    from bench.methods.start import left_by as left_by
    from bench.methods.start import plain_network as plain_network
    from bench.methods.start import reseed as reseed
    from bench.methods.start import start_of as start_of
    from bench.methods.start import trainable_copy as trainable_copy
    from bench.methods.start import trained_supernet as trained_supernet
    from bench.training.loop import train_network as train_network
    from bench.training.run import Run as Run

PLACES = ("bench.methods.contract", "bench.methods.start", "bench.training.loop")
"""Where they are, `Run` by way of the contract."""


def __getattr__(name: str) -> Any:
    for place in PLACES:
        module = importlib.import_module(place)
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
