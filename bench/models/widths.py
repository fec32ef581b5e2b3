"""Width lists: multipliers of the published slimmable networks, how channels are scaled, and stages of equal blocks."""

from __future__ import annotations

from dataclasses import dataclass

WIDTH_MULTIPLIERS = tuple(round(0.25 + 0.025 * step, 3) for step in range(31))  # 0.25 to 1.0, as US-Nets
SWITCHABLE_MULTIPLIERS = (0.25, 0.5, 0.75, 1.0)  # as S-Nets


def scaled(channels: int, multiplier: float, divisor: int = 8) -> int:
    """`channels` times the width multiplier, to the nearest multiple of `divisor` but never below 90 % of it."""
    width = max(divisor, int(channels * multiplier + divisor / 2) // divisor * divisor)
    return width + divisor if width < 0.9 * channels * multiplier else width


def width_ladder(channels: int, multipliers: tuple[float, ...], divisor: int) -> tuple[int, ...]:
    return tuple(scaled(channels, multiplier, divisor) for multiplier in multipliers)


@dataclass(frozen=True)
class BlockStage:
    """Blocks of equal width: its list (in residual blocks, of inner widths), their number, the stride of the first."""

    widths: tuple[int, ...]
    blocks: int
    stride: int
