"""Multiply-adds by hand, against all counters: dense, depth-wise, grouped, strided, unpadded, nested, attention."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.core.errors import UserError
from bench.profilers.madds import executed_by, executed_madds, fvcore_madds

BY_HAND = [
    (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10), 3 * 8 * 9 * 100),
    (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 10, 10), 8 * 9 * 100),
    (nn.Conv2d(8, 16, 3, padding=1, groups=4), (8, 10, 10), 2 * 16 * 9 * 100),
    (nn.Conv2d(4, 8, 3, stride=2, padding=1), (4, 9, 9), 4 * 8 * 9 * 25),
    (nn.Conv2d(4, 8, 3), (4, 10, 10), 4 * 8 * 9 * 64),
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
