"""Extraction: copy one sub-network out of a supernet into ordinary torch layers (form `extracted`)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.slicing.bound import CollectingChoice
from bench.slicing.choice import Choice, OneChoice
from bench.slicing.supernet import M, Segment, Supernet


def extract(supernet: Supernet, choice: Choice, fold_bn: bool = False) -> nn.Module:
    """The sub-network of `choice` as a plain `nn.Sequential` with contiguous copies and the choice's own statistics.

    Args:
        fold_bn: fold each batch norm into the convolution in front of it (evaluation only).

    Raises:
        UserError: the space cannot run the choice.

    >>> from bench.models import PRESETS
    >>> net = PRESETS.get("ds_mobilenet_micro8").build().eval()

    >>> x, choice = torch.randn(2, net.input_channels, 8, 8), net.space.uniform(1)
    >>> plain = extract(net, choice)
    >>> bool(torch.equal(plain(x), net(x, choice))), parameters_of(plain) < parameters_of(net)
    (True, True)
    """
    plain = _plain(supernet, supernet.space.check(choice))
    return folded(plain) if fold_bn else plain


def extract_collected(supernet: Supernet, collected: CollectingChoice) -> nn.Module:
    """As `extract`, for any choice that images were run under: its statistics are those that it collected."""
    return _plain(supernet, collected)


def _plain(supernet: Supernet, choice: OneChoice) -> nn.Module:
    segments = [extract_segment(segment, choice, False) for segment in supernet.segments]  # type: ignore[arg-type]
    return nn.Sequential(*[layer for segment in segments for layer in segment]).train(supernet.training)


def extract_part(supernet: Supernet, choice: Choice, start: int, stop: int | None = None) -> nn.Sequential:
    """Some of a sub-network's segments as plain layers, flat."""
    segments = list(supernet.segments)[start:stop]
    return nn.Sequential(*[layer for segment in segments for layer in extract_segment(segment, choice, False)])  # type: ignore[arg-type]


def extract_segment(segment: Segment, choice: OneChoice, decides: bool) -> nn.Sequential:
    """One segment as plain layers, flat; with `decides` it returns (x, Features) for the gate behind it."""
    plain = nn.Sequential(*_flat(segment.extract(choice, decides)))
    return plain.train(segment.training)


def _flat(module: nn.Module) -> list[nn.Module]:
    if type(module) is nn.Sequential:
        return [leaf for child in module for leaf in _flat(child)]
    return [module]


def folded(plain: M) -> M:
    """A copy in which every batch norm that directly follows a convolution in a Sequential is folded into it."""
    plain = copy.deepcopy(plain).eval()
    for module in list(plain.modules()):
        if isinstance(module, nn.Sequential):
            _fold_sequence(module)
    return plain


def _fold_sequence(sequence: nn.Sequential) -> None:
    names = list(sequence._modules)
    for first, second in pairwise(names):
        conv, norm = sequence._modules[first], sequence._modules[second]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            sequence._modules[first] = fuse_conv_bn_eval(conv, norm)
            sequence._modules[second] = nn.Identity()


def parameters_of(module: nn.Module) -> int:
    """Number of parameters (buffers excluded)."""
    return sum(p.numel() for p in module.parameters())


def parameters_used(supernet: Supernet, choices: Sequence[Choice]) -> int:
    """Number of parameters that at least one of these sub-networks uses: what they share is counted once.

    Every parameter of a copy is given a number of its own, in two digits that float32 holds exactly, and the numbers
    that extraction finds are counted.
    """
    copied, digits, base = copy.deepcopy(supernet), [], 1 << 20
    for divisor in (1, base):
        count = 0
        with torch.no_grad():
            for parameter in copied.parameters():
                numbers = torch.arange(count, count + parameter.numel(), device=parameter.device)
                parameter.copy_((numbers // divisor % base).view_as(parameter))
                count += parameter.numel()
        networks = [extract(copied, choice) for choice in choices]
        digits.append(torch.cat([p.detach().flatten().long() for network in networks for p in network.parameters()]))
    return len((digits[0] + digits[1] * base).unique())
