"""Multiply-adds by hand, against all counters: dense, depth-wise, grouped, strided, unpadded, nested, attention."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.flop_counter import flop_registry

from bench.core.errors import UserError
from bench.profilers.cost_free import is_cost_free
from bench.profilers.madds import (
    GRAPH_FORMULAS,
    MISSING_FORMULAS,
    check_counted,
    executed_by,
    executed_madds,
    fvcore_madds,
)

BY_HAND = [
    (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10), 3 * 8 * 9 * 100),
    (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 10, 10), 8 * 9 * 100),
    (nn.Conv2d(8, 16, 3, padding=1, groups=4), (8, 10, 10), 2 * 16 * 9 * 100),
    (nn.Conv2d(4, 8, 3, stride=2, padding=1), (4, 9, 9), 4 * 8 * 9 * 25),
    (nn.Conv2d(4, 8, 3), (4, 10, 10), 4 * 8 * 9 * 64),
    (nn.Conv2d(4, 8, 3, padding="same", groups=2), (4, 10, 10), 2 * 8 * 9 * 100),
    (nn.Sequential(nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU()), nn.BatchNorm2d(4)), (2, 5, 5), 2 * 4 * 25),
    (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)), (6, 7, 7), 60),
]


@pytest.mark.parametrize(("network", "shape", "expected"), BY_HAND)
def test_hand_counts(network, shape, expected):
    x = torch.randn(1, *shape)
    network.eval()
    assert executed_madds(network, x) == expected
    assert fvcore_madds(network, x) == expected
    assert executed_madds(network, x.expand(3, *shape)) == 3 * expected


class Attention(nn.Module):
    def forward(self, x):  # (B, N, D) as queries, keys and values of two heads
        heads = x.reshape(*x.shape[:2], 2, -1).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads)


@pytest.mark.parametrize("grad", [False, True])
def test_fused_attention_is_counted(grad):
    x = torch.randn(1, 12, 16, requires_grad=grad)
    assert executed_madds(Attention(), x) == 2 * 12 * 12 * 16
    assert fvcore_madds(Attention(), x) == 2 * 12 * 12 * 16


class Product(nn.Module):
    """A product of x (B, ...) and a weight (8, 8) or (8,), written in one of many ways."""

    def __init__(self, product):
        super().__init__()
        self.matrix, self.vector = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))
        self.product = product

    def forward(self, x):
        return self.product(x, self.matrix, self.vector)


@pytest.mark.parametrize(
    ("product", "expected"),
    [
        (lambda x, w, b: x @ w, 48 * 64),
        (lambda x, w, b: torch.matmul(x[:, :1], w.expand(2, 3, 8, 8)), 48 * 64),
        (lambda x, w, b: torch.einsum("bchw,wk->bchk", x, w), 48 * 64),
        (lambda x, w, b: torch.einsum("bchw, wk -> bkc", x, w), 6 * 64),
        (lambda x, w, b: torch.einsum("bchw,bchk->bcwk", x, x), 48 * 64),
        (lambda x, w, b: torch.einsum("bchw,w->bchw", x, b), 0),
        (lambda x, w, b: torch.bmm(x.flatten(0, 1), w.expand(6, 8, 8)), 48 * 64),
        (lambda x, w, b: torch.baddbmm(w.expand(6, 8, 8), x.flatten(0, 1), w.expand(6, 8, 8)), 48 * 64),
        (lambda x, w, b: torch.mm(x.reshape(-1, 8), w), 48 * 64),
        (lambda x, w, b: torch.addmm(b, x.reshape(-1, 8), w), 48 * 64),
        (lambda x, w, b: x.reshape(-1, 8) @ b, 48 * 8),
        (lambda x, w, b: torch.addmv(x.reshape(-1, 8)[:, 0], x.reshape(-1, 8), b), 48 * 8),
        (lambda x, w, b: torch.dot(x.flatten(), x.flatten()), 48 * 8),
        (lambda x, w, b: F.linear(x, w, b), 48 * 64),
    ],
)
def test_a_product_is_counted_however_it_is_written(product, expected):
    network, x = Product(product).eval(), torch.randn(2, 3, 8, 8)
    assert executed_madds(network, x) == fvcore_madds(network, x) == expected


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (SelfAttention, 22_080),  # 5 * 4 * 32 * 32 + 2 * 5 * 5 * 32
        (lambda: nn.TransformerEncoderLayer(32, 2, 64, batch_first=True), 22_080 + 2 * 5 * 32 * 64),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_attention_layers_of_torch_fused_or_not(build, expected, grad):
    """In evaluation, without gradients, torch runs such a layer as one operator."""
    network, x = build().eval(), torch.randn(3, 5, 32)
    with torch.set_grad_enabled(grad):
        assert fvcore_madds(network, x) == executed_madds(network, x) == 3 * expected


FREE = """
roll sin im2col upsample_bilinear2d upsample_nearest2d leaky_relu_ flip linalg_vector_norm grid_sampler prelu cumsum
"""
NOT_FREE = """
mm bmm addmm baddbmm mv dot matmul linear einsum convolution conv2d _convolution_mode scaled_dot_product_attention
_flash_attention_forward_no_dropout_inplace gru lstm rnn_relu mkldnn_rnn_layer bilinear _trilinear tensordot
chain_matmul linalg_multi_dot linalg_inv matrix_power matrix_exp _fft_r2c _cdist_forward _pdist_forward cov corrcoef
affine_grid_generator _sparse_mm _weight_int8pack_mm no_such_operator
"""


def test_operators_are_known_by_their_kind():
    assert [name for name in FREE.split() if not is_cost_free(name)] == []
    assert [name for name in NOT_FREE.split() if is_cost_free(name)] == []


def test_no_operator_with_a_formula_is_known_as_free():
    counted = {str(packet).removeprefix("aten.") for packet in (*flop_registry, *MISSING_FORMULAS)}
    assert [name for name in sorted(counted) if is_cost_free(name)] == []
    assert [name for name in sorted(GRAPH_FORMULAS) if is_cost_free(name)] == []


def test_an_operator_of_another_library_is_unknown():
    boxes, scores = torch.tensor([[0.0, 0, 2, 2]]), torch.ones(1)
    with pytest.raises(UserError, match=r"the operator torchvision\.nms"):
        executed_by(lambda: torchvision.ops.nms(boxes, scores, 0.5))


@pytest.mark.parametrize(("equation", "factors"), [("bchw,wk,kl->bchl", 3), ("...w,wk->...k", 2), ("bchw,wk", 2)])
def test_an_einsum_that_no_rule_counts_is_named(equation, factors):
    network = Product(lambda x, w, b: torch.einsum(equation, x, *[w] * (factors - 1))).eval()
    with pytest.raises(UserError, match=r"no rule says what torch.einsum\("):
        fvcore_madds(network, torch.randn(2, 3, 8, 8))


def test_an_operator_that_is_unknown_in_the_graph_alone_is_named():
    """It runs as products that are counted, but the traced graph holds it as one operator."""
    network, x = Product(lambda x, w, b: torch.tensordot(x, w, dims=1)), torch.randn(2, 3, 8, 8)
    assert executed_madds(network, x) == 48 * 64
    with pytest.raises(UserError, match="no rule says what the operator tensordot costs"):
        check_counted(network, x)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.GRU(8, 6), 5 * 3 * 3 * 6 * (8 + 6)),
        (nn.LSTM(8, 6), 5 * 3 * 4 * 6 * (8 + 6)),
        (nn.LSTM(8, 6, num_layers=2, bidirectional=True), 2 * 5 * 3 * 4 * 6 * (8 + 6 + 12 + 6)),
        (nn.RNN(8, 6), 5 * 3 * 6 * (8 + 6)),
    ],
)
def test_recurrent_layers_are_counted(network, expected):
    """Sequences of 5 for 3 images."""
    x = torch.randn(5, 3, 8)
    assert executed_madds(network.eval(), x) == fvcore_madds(network, x) == expected


def test_attention_over_windows_has_more_dimensions():
    windows, x = Product(lambda x, w, b: F.scaled_dot_product_attention(x, x, x)), torch.randn(2, 3, 4, 5, 8)
    assert executed_madds(windows, x) == fvcore_madds(windows, x) == 2 * 3 * 4 * 5 * 5 * 16


def test_an_unknown_operator_is_an_error_not_a_zero():
    with pytest.raises(UserError, match="_cdist_forward"):
        executed_by(lambda: torch.cdist(torch.randn(4, 3), torch.randn(5, 3)))


def test_counting_leaves_no_hooks_and_no_change():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    x = torch.randn(2, 1, 6, 6)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.eval()
    executed_madds(network, x)
    fvcore_madds(network, x)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
