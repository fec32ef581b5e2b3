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

EXECUTED = f"torch.FlopCounterMode/2@{torch.__version__}"
ANALYTIC = "slicebench.analytic@1"

aten = torch.ops.aten


def _flash_for_cpu(query, key, value, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


MISSING_FORMULAS: dict[Any, Any] = {
    # torch up to 2.14 counts fused attention on a CPU as nothing
    aten._scaled_dot_product_flash_attention_for_cpu: _flash_for_cpu,
}

# Operators that multiply no matrices: element-wise, reductions, normalisation, pooling, views, copies, indexing.
COST_FREE = frozenset(
    """
    _adaptive_avg_pool2d _log_softmax _softmax _to_copy _unsafe_view abs adaptive_max_pool2d add add_ alias aminmax any arange
    argmax as_strided as_strided_ avg_pool2d bernoulli bernoulli_ bitwise_and bitwise_or bucketize cat ceil clamp clamp_min clone
    constant_pad_nd copy_ cumsum detach detach_ div div_ dropout embedding empty empty_like empty_strided eq equal exp
    expand fill_ flatten floor full full_like gather ge gelu gt hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh
    hardtanh_ index index_put index_put_ index_select index_copy index_copy_ is_same_size item leaky_relu le lift_fresh
    _local_scalar_dense log logical_and logical_not logical_or lt masked_fill max max_pool2d max_pool2d_with_indices
    maximum mean min minimum mul mul_ native_batch_norm native_dropout native_group_norm native_layer_norm
    _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_no_update
    cudnn_batch_norm miopen_batch_norm ne neg normal_ new_empty new_empty_strided new_full new_ones new_zeros nonzero one_hot
    ones ones_like permute pow rand rand_like randn reciprocal relu relu_ repeat reshape rms_norm round rsqrt rsub
    scalar_tensor scatter scatter_ select select_backward set_ sigmoid sigmoid_ sign silu silu_ slice sort split
    split_with_sizes sqrt squeeze stack std sub sub_ sum t tanh topk transpose tril triu unbind unfold _unique2 unique_dim
    unique_consecutive uniform_ unsqueeze upsample_bilinear2d upsample_nearest2d var var_mean view where zero_ zeros zeros_like
    """.split()
)


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
        self.mode = _Remembering(self)
        self.mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.mode.__exit__(*error)


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
