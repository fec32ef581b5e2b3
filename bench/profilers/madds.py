"""Multiply-adds by three counters that must agree to the unit.

analytic: from the choice alone (`Supernet.cost`, or what a point claims). executed: the operators that really ran, by
torch's dispatch-level FlopCounterMode, halved. fvcore: the plain network's graph. Counted are convolutions and matrix
products (linear layers and attention included); batch norm, activations, biases and pooling are not. An operator
that neither table knows is an error, never a silent zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode, sdpa_flop_count

from bench.core.errors import UserError
from bench.profilers.cost_free import COST_FREE

EXECUTED = f"torch.FlopCounterMode/2@{torch.__version__}"
ANALYTIC = "slicebench.analytic@1"

aten = torch.ops.aten


def _flash_for_cpu(query, key, value, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


MISSING_FORMULAS: dict[Any, Any] = {
    # torch up to 2.14 counts fused attention on a CPU as nothing
    aten._scaled_dot_product_flash_attention_for_cpu: _flash_for_cpu,
}


class _NoModules:
    """Stands in for torch's module tracker: counts by operator are all we need, and its hooks double the time."""

    parents = frozenset({"Global"})


class _Counter(FlopCounterMode):
    """FlopCounterMode that remembers which operators it had no formula for, and sets no hooks on modules."""

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=MISSING_FORMULAS)
        self.mod_tracker = _NoModules()  # type: ignore[assignment]
        self.unknown: set[str] = set()

    def __enter__(self) -> _Counter:
        self.flop_counts.clear()
        self.remembering = _Remembering(self)
        self.remembering.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.remembering.__exit__(*error)


class _Remembering(_FlopCounterMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = getattr(func, "_overloadpacket", func)
        counter: _Counter = self.counter  # type: ignore[assignment]
        if packet not in counter.flop_registry:
            name = str(packet).removeprefix("aten.")
            if not str(packet).startswith("prim") and name not in COST_FREE:
                counter.unknown.add(name)
        return super().__torch_dispatch__(func, types, args, kwargs)


def executed_by(run: Callable[[], object]) -> int:
    """Multiply-adds of the convolutions and matrix products that `run` executes.

    Raises:
        UserError: it ran an operator that no table knows.
    """
    with torch.no_grad(), _Counter() as counter:
        run()
    if counter.unknown:
        names = ", ".join(sorted(counter.unknown))
        raise UserError(f"no rule says what {names} costs in multiply-adds; add a formula in bench/profilers/madds.py")
    flops = counter.get_total_flops()
    if flops % 2:
        raise RuntimeError(f"{flops} floating-point operations are no whole number of multiply-adds")
    return flops // 2


def executed_madds(module: Callable[[Tensor], object], x: Tensor) -> int:
    """Multiply-adds that `module(x)` executes for the whole batch x (B, ...)."""
    return executed_by(lambda: module(x))


FVCORE_COUNTED = ("conv", "linear", "matmul", "attention")


def fvcore_madds(network: nn.Module, x: Tensor) -> int:
    """Multiply-adds of a plain network for the batch x by fvcore, which counts one for each multiply-add.

    fvcore reads the traced graph, does not know fused attention (a formula is registered here), and counts norms and
    pooling into its total; only convolutions and matrix products are taken.
    """

    def attention(inputs: list[Any], outputs: list[Any]) -> dict[str, int]:
        shapes = [value.type().sizes() for value in inputs[:3]]
        return {"attention": sdpa_flop_count(*shapes) // 2}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore relies on a tracer that torch has deprecated
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(network, x)
        analysis.set_op_handle("aten::scaled_dot_product_attention", attention)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counts = analysis.by_operator()
        unsupported = analysis.unsupported_ops()
    unknown = sorted(name for name in unsupported if name.removeprefix("aten::").rstrip("_") not in _GRAPH_FREE)
    if unknown:
        raise UserError(f"fvcore has no rule for {', '.join(unknown)}; add one in bench/profilers/madds.py")
    return int(sum(counts.get(name, 0) for name in FVCORE_COUNTED))


_GRAPH_FREE = COST_FREE | {"batch_norm", "layer_norm", "group_norm", "softmax", "feature_dropout", "Int", "size", "pad"}


def fvcore_version() -> str:
    from importlib.metadata import version

    return f"fvcore@{version('fvcore')}"
