"""Which of torch's operators multiply no matrices, by their kind: what torch says of them, else a word of their name.

Element-wise, reducing and viewing operators, norms, pools, interpolation, indexing, joining, copying and sorting are
such kinds. So is an operator of one tensor, for a product needs two, unless it is of linear algebra. Of an operator
that is none of these, or that another library brought, nothing is known. A product that is written as element-wise
multiplication and a sum is, here as in all counters, none of matrices.
"""

from __future__ import annotations

from functools import cache

import torch

TAGS = {torch.Tag.pointwise, torch.Tag.reduction}
_FREE = """
norm renorm upsample sampler softmax prelu rrelu unpool2d unpool3d similarity
index gather scatter select embedding masked take put bucketize searchsorted repeat max min
cat concat concatenate stack hstack vstack dstack meshgrid copy fill set as to
multiply divide subtract less greater equal arctan2 complex polar bernoulli normal linspace
"""
_ALGEBRA = """
affine attention cholesky convolution corrcoef cov det fbgemm fft geqrf inverse linalg logdet lu matrix nested nuclear
pdist pinverse qr slogdet sparse svd
"""
FREE = frozenset(_FREE.split())  # in the names of operators that take several tensors and multiply no matrices
ALGEBRA = frozenset(_ALGEBRA.split())  # in the names of those that do, although they take one tensor or are a norm


@cache
def is_cost_free(name: str) -> bool:
    """Whether the operator `aten::name` multiplies no matrices, whatever it is given; False where nothing is known."""
    aten = torch.ops.aten
    name = name[:-1] if name.endswith("_") and hasattr(aten, name[:-1]) else name  # in place
    if not hasattr(aten, name):
        return False
    packet = getattr(aten, name)
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    if any(TAGS & set(each.tags) or each.is_view for each in overloads):
        return True
    words = set(name.split("_"))
    return not words & ALGEBRA and (bool(words & FREE) or not any(map(_may_multiply, overloads)))


def _may_multiply(overload: torch._ops.OpOverload) -> bool:
    """Whether an operator makes tensors of several others, or of a list of them."""
    arguments = [argument for argument in overload._schema.arguments if not argument.is_out]
    tensors = [str(argument.type) for argument in arguments if "Tensor" in str(argument.type)]
    makes = any("Tensor" in str(value.type) for value in overload._schema.returns)
    return makes and (len(tensors) > 1 or any("List" in kind for kind in tensors))
