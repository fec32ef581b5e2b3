"""Multiply-adds by three counters that must agree to the unit.

analytic: from the choice alone (`Supernet.cost`, or what a point claims). executed: the operators that really ran, by
torch's dispatch-level FlopCounterMode, halved. fvcore: the plain network's graph. Counted are convolutions and matrix
products (linear layers and attention included); batch norm, activations, biases and pooling are not. An operator
that no formula counts and that is of no kind known to be free (`cost_free.py`) is an error, never a silent zero.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode, sdpa_flop_count

from bench.core.errors import UserError
from bench.profilers.cost_free import is_cost_free

EXECUTED = f"torch.FlopCounterMode/2@{torch.__version__}"
ANALYTIC = "slicebench.analytic@1"

aten = torch.ops.aten


Shape = Sequence[int]


def _flash_for_cpu(query, key, value, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _with_vector(matrix: Shape, vector: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(matrix)


def _fused_self_attention(x: Shape, key: Shape, value: Shape, width: int, *args: Any, **kwargs: Any) -> int:
    """Operations of nn.MultiheadAttention's fused form for x (B, N, D): queries, keys, values, output, two products."""
    batch, tokens, _ = x
    return 2 * batch * tokens * (4 * width**2 + 2 * tokens * width)


def _fused_encoder_layer(x: Shape, width: int, *args: Any, **kwargs: Any) -> int:
    """Operations of nn.TransformerEncoderLayer's fused form: self-attention, then an MLP."""
    narrow, wide = args[12], args[14]  # of the operator's schema, behind x and width
    return _fused_self_attention(x, x, x, width) + 2 * math.prod(x[:2]) * (math.prod(narrow) + math.prod(wide))


MISSING_FORMULAS: dict[Any, Any] = {
    # torch up to 2.14 counts fused attention on a CPU, and what is not a product of two matrices, as nothing
    aten._scaled_dot_product_flash_attention_for_cpu: _flash_for_cpu,
    aten._native_multi_head_attention: _fused_self_attention,
    aten._transformer_encoder_layer_fwd: _fused_encoder_layer,
    aten.mkldnn_rnn_layer: lambda x, *weights, **kwargs: 2 * math.prod(x[:-1]) * sum(map(math.prod, weights[:2])),
    aten.mv: _with_vector,
    aten.addmv: lambda total, matrix, vector, **kwargs: _with_vector(matrix, vector),
    aten.dot: _with_vector,
    aten.vdot: _with_vector,
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
            operator = str(packet)
            short = operator.removeprefix("aten.")
            if not operator.startswith("prim") and (short == operator or not is_cost_free(short)):
                counter.unknown.add(short)
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
        raise UserError(f"no rule says what the operator {names} costs in multiply-adds ({RULES})")
    flops = counter.get_total_flops()
    if flops % 2:
        raise RuntimeError(f"{flops} floating-point operations are no whole number of multiply-adds")
    return flops // 2


def executed_madds(module: Callable[[Tensor], object], x: Tensor) -> int:
    """Multiply-adds that `module(x)` executes for the whole batch x (B, ...).

    >>> executed_madds(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()), torch.zeros(1, 1, 8, 8)) == 4 * 9 * 64
    True
    """
    return executed_by(lambda: module(x))


RULES = "formulas: bench/profilers/madds.py; kinds of operators without a cost: bench/profilers/cost_free.py"


def _sizes(value: Any) -> list[int]:
    return value.type().sizes()


def _product(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """matmul, mm, bmm, mv, dot: each output is a sum over the last dimension of the first factor."""
    return Counter(product=math.prod(_sizes(outputs[0])) * _sizes(inputs[0])[-1])


def _sum_and_product(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """addmm, baddbmm, addmv: a product, added to the first operand."""
    return _product(inputs[1:], outputs)


def _einsum(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A sum of products over the letters of two factors. Letters of one factor alone that are no output are summed
    before, as torch does; without a letter to sum the product is element-wise. Raises `UserError` for other forms."""
    equation, factors = inputs[0].toIValue().replace(" ", ""), list(inputs[1].node().inputs())
    terms, arrow, result = equation.partition("->")
    letters = terms.split(",")
    if not arrow or "." in equation or len(letters) != 2 or any(len(set(each)) < len(each) for each in letters):
        raise UserError(f"no rule says what torch.einsum({equation!r}) costs in multiply-adds; write it as products")
    sizes: dict[str, int] = {}
    for each, factor in zip(letters, factors, strict=True):
        sizes |= {letter: max(size, sizes.get(letter, 1)) for letter, size in zip(each, _sizes(factor), strict=True)}
    shared = set(letters[0]) & set(letters[1])
    if shared <= set(result):
        return Counter()
    return Counter(product=math.prod(sizes[letter] for letter in shared | set(result)))


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    query, key, value = map(_sizes, inputs[:3])  # (..., N, E), (..., M, E), (..., M, V)
    return Counter(product=math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _same_convolution(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A convolution whose padding is a word, by its weight (C_out, C_in / groups, k, k)."""
    return Counter(product=math.prod(_sizes(outputs[0])) * math.prod(_sizes(inputs[1])[1:]))


def _recurrent(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """lstm, gru, rnn: each weight matrix is applied once to each item of the sequence (T, B, C)."""
    matrices = [shape for shape in map(_sizes, inputs[2].node().inputs()) if len(shape) == 2]
    return Counter(product=math.prod(_sizes(inputs[0])[:-1]) * sum(map(math.prod, matrices)))


def _graph_of(formula: Callable[..., int]) -> Callable[[list[Any], list[Any]], Counter[str]]:
    """A formula of operations by shapes, for the nodes of a graph."""

    def handle(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        shapes = [_sizes(value) if value.isCompleteTensor() else value.toIValue() for value in inputs]
        return Counter(product=formula(*shapes) // 2)

    return handle


GRAPH_FORMULAS = {
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "vdot"), _product),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _sum_and_product),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    "_convolution_mode": _same_convolution,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "_native_multi_head_attention": _graph_of(_fused_self_attention),
    "_transformer_encoder_layer_fwd": _graph_of(_fused_encoder_layer),
}
FVCORE_COUNTED = ("conv", "linear", "product")


def fvcore_madds(network: nn.Module, x: Tensor) -> int:
    """Multiply-adds of a plain network for the batch x by fvcore, which counts one for each multiply-add.

    fvcore reads the traced graph. It knows convolutions and linear layers; other products are counted here, by the
    shapes in the graph. It counts norms and pooling into its total, which are left out.

    Raises:
        UserError: the graph has an operator that no formula counts and that is of no kind known to be free.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore relies on a tracer that torch has deprecated
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(network, x)
        for name, formula in GRAPH_FORMULAS.items():
            analysis.set_op_handle(f"aten::{name}", formula)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counts = analysis.by_operator()
        unsupported = [name.removeprefix("aten::") for name in analysis.unsupported_ops()]
    unknown = sorted(name for name in unsupported if "::" in name or not is_cost_free(name))
    if unknown:
        raise UserError(f"no rule says what the operator {', '.join(unknown)} costs in fvcore's count ({RULES})")
    return int(sum(counts.get(name, 0) for name in FVCORE_COUNTED))


def check_counted(network: nn.Module, x: Tensor) -> None:
    """Find out before a network trains whether it can be counted. It is in evaluation mode afterwards.

    Args:
        x: an image, (1, C, H, W).

    Raises:
        UserError: an operator of which no rule says what it costs, or counters that disagree.
    """
    network.eval()
    with torch.no_grad():
        executed, traced = executed_madds(network, x), fvcore_madds(network, x)
    if executed != traced:
        raise UserError(f"the network executes {executed:,} multiply-adds, and fvcore counts {traced:,} in its graph")


def fvcore_version() -> str:
    from importlib.metadata import version

    return f"fvcore@{version('fvcore')}"
