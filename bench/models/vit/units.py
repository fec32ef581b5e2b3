"""DS-ViT++: a Vision Transformer sliced in heads, MLP hidden width and embedding (Li et al. 2022).

The full network is DeiT (Touvron et al. 2021; timm's layout: class token, learned position embedding, pre-norm, GELU,
biased qkv, layer norm with eps 1e-6). Its blocks are grouped into network stages, and every stage chooses

- `heads`: the first h heads;
- `mlp`: the first m hidden units;
- `embedding`: idle slicing (`slicing/tokens.py`). Patch embedding, final norm and classifier keep the width D.

What the paper's choice lists, gate positions and idle slicing are is unknown to us (METHODS 3.4, 11). Ours, and why:

- Four options a gate, each step about 1.5 times the multiply-adds of the one below: heads and MLP width shrink
  together to about a third, the embedding only to three quarters (the abstract calls slicing it too drastic). The
  smallest sub-network then costs about a quarter of the full one, the reach that the abstract claims (2-4x).
- A gate in front of the first block of every stage, the first stage included, so each step of the uniform ladder and
  the full network can be routed to. `gated_from` moves the first gate back; the stages in front of it then run at
  their smallest, as in DS-MBNet.
- A gate reads `moments` of the tokens and has one hidden layer of its own. It shares no trunk with an attention head
  (DS-Net's "double head"): that would change the network that DeiT's weights fit, and its cost.

Cost: METHODS 3.4's formula, exactly; all gates together add 0.01 % of the smallest sub-network at full size, 1.4 % at
8x8. A position embedding fits one image size, so each preset has one.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.models.vit.plain import PlainBlock, PlainEmbedding, PlainHead, PlainStage, WithFeatures
from bench.models.vit.space import DIMENSIONS, ViTConfig
from bench.slicing.attention import SlicedAttention, attention_cost
from bench.slicing.choice import AnyChoice, Choice, ChoiceSpace, OneChoice
from bench.slicing.layers import Shape
from bench.slicing.norms import SlicedLayerNorm
from bench.slicing.ops import Width, drop_path, drop_rates
from bench.slicing.supernet import Cost, Features, Segment, Supernet, Unit
from bench.slicing.tokens import TokenLinear, active, carried, truncated_normal

EPS = 1e-6


class TokenUnit(Unit):
    """A unit that returns the residual stream; a gate may stand behind it."""

    def decide(self, x: Tensor, choice: AnyChoice) -> tuple[Tensor, Features]:
        stream = self(x, choice)
        return stream, Features(stream)

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        return WithFeatures(self.plain(choice)) if decides else self.plain(choice)

    def plain(self, choice: OneChoice) -> nn.Module:
        """The unit under a choice as ordinary layers that return the stream."""
        raise TypeError(f"{type(self).__name__} cannot be extracted")


class Embedding(TokenUnit):
    """Image to tokens of the full width D, under every choice.

    The position embedding starts at unit variance, as the patches' do: at timm's 0.02 a short training never learns
    where a patch is (digits, micro preset, 20 epochs from scratch: 0.64 against 0.94 of 150 validation images).
    """

    def __init__(self, config: ViTConfig, input_channels: int) -> None:
        super().__init__()
        self.expected: Shape = (input_channels, config.image_size, config.image_size)
        self.patches = nn.Conv2d(input_channels, config.channels, config.patch, config.patch)
        fan_in = self.patches.weight[0].numel()
        self.patches.weight = truncated_normal(*self.patches.weight.shape, std=fan_in**-0.5)
        self.patches.bias = nn.Parameter(torch.zeros(config.channels))
        self.token = nn.Parameter(torch.zeros(1, 1, config.channels))
        self.position = truncated_normal(1, config.tokens, config.channels, std=1.0)

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        self.check(tuple(x.shape[1:]))
        patches = self.patches(x).flatten(2).transpose(1, 2)  # (B, N - 1, D)
        return torch.cat((self.token.expand(x.shape[0], -1, -1), patches), dim=1) + self.position

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises `UserError` for images that the position embedding does not fit."""
        if shape != self.expected:
            wanted, shown = ("x".join(map(str, sizes)) for sizes in (self.expected, shape))
            raise UserError(
                f"this Vision Transformer reads {wanted} images (channels x height x width), not {shown}: its position "
                "embedding fixes the size; resize the images or use the preset of their size"
            )

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        self.check(shape)
        _, tokens, channels = self.position.shape
        return Cost((tokens - 1) * self.patches.weight[0].numel() * channels, 0, (channels, tokens, 1))

    def plain(self, choice: OneChoice) -> nn.Module:
        conv = copy.deepcopy(self.patches).requires_grad_(True)  # trainable, as all that is extracted
        return PlainEmbedding(conv, self.token.detach().clone(), self.position.detach().clone())


class Block(nn.Module):
    """A pre-norm transformer block: attention by the leading heads, an MLP of the leading hidden units."""

    def __init__(self, channels: int, heads: int, head_dim: int, hidden: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = SlicedLayerNorm(channels, EPS)
        self.attention = SlicedAttention(channels, heads, head_dim)
        self.norm2 = SlicedLayerNorm(channels, EPS)
        self.fc1 = TokenLinear(channels, hidden)
        self.fc2 = TokenLinear(hidden, channels)

    def forward(self, x: Tensor, heads: Width, hidden: Width, width: Width) -> Tensor:
        """(B, N, full(width)), the active channels of the stream, to the same."""
        x = x + drop_path(self.attention(self.norm1(x, width), heads, width), self.drop_path, self.training)
        y = self.fc2(F.gelu(self.fc1(self.norm2(x, width), hidden)), width)  # gelu(0) = 0: masks survive it
        return x + drop_path(y, self.drop_path, self.training)

    def cost(self, tokens: int, heads: int, hidden: int, width: int) -> int:
        return attention_cost(tokens, width, heads, self.attention.head_dim) + 2 * tokens * width * hidden

    def extract(self, heads: int, hidden: int, width: int) -> PlainBlock:
        return PlainBlock(
            self.norm1.extract(width),
            self.attention.extract(heads, width),
            self.norm2.extract(width),
            self.fc1.extract(width, hidden),
            self.fc2.extract(hidden, width),
            self.drop_path,
        )


class BlockStage(TokenUnit):
    """The blocks of one network stage. They share its choice, so the stream is split in front and joined behind."""

    def __init__(self, config: ViTConfig, space: ChoiceSpace, stage: int) -> None:
        super().__init__()
        self.space, self.stage = space, stage
        heads, hidden, channels = config.options[-1]
        first = sum(config.stages[:stage])
        rates = drop_rates(config.drop_path, sum(config.stages))[first : first + config.stages[stage]]
        self.blocks = nn.ModuleList([Block(channels, heads, config.head_dim, hidden, rate) for rate in rates])

    def widths(self, choice: AnyChoice) -> tuple:
        """(heads, MLP hidden width, embedding) of this stage under a choice: ints, or soft widths."""
        return tuple(self.space.width(choice, self.stage, dimension) for dimension in DIMENSIONS)

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        heads, hidden, width = self.widths(choice)
        worked = active(x, width)
        for block in self.blocks:
            worked = block(worked, heads, hidden, width)
        return carried(worked, x)

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        madds = sum(block.cost(shape[1], *self.widths(choice)) for block in self.blocks)  # type: ignore[operator]
        return Cost(madds, 0, shape)

    def plain(self, choice: OneChoice) -> nn.Module:
        widths = self.widths(choice)
        return PlainStage([block.extract(*widths) for block in self.blocks], widths[2])  # type: ignore[operator]


class Head(Unit):
    """Norm and classifier of the class token, of the full width under every choice."""

    of_classes = ("linear.",)

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = SlicedLayerNorm(channels, EPS)
        self.linear = TokenLinear(channels, classes)

    def forward(self, x: Tensor, choice: AnyChoice) -> Tensor:
        return self.linear(self.norm(x[:, 0], x.shape[-1]))

    def cost(self, choice: Choice, shape: Shape) -> Cost:
        classes, channels = self.linear.weight.shape
        return Cost(channels * classes, 0, (classes, 1, 1))

    def extract(self, choice: OneChoice, decides: bool = False) -> nn.Module:
        channels = len(self.norm.weight)
        return PlainHead(self.norm.extract(channels), self.linear.extract(channels))


def build(config: ViTConfig, classes: int, input_channels: int) -> Supernet:
    """The supernet of a configuration, cut in front of every gated stage."""
    space = config.space()
    cuts: list[list[Unit]] = [[Embedding(config, input_channels)]]
    for stage in range(len(config.stages)):
        if stage >= config.gated_from:
            cuts.append([])
        cuts[-1].append(BlockStage(config, space, stage))
    cuts[-1].append(Head(config.channels, classes))
    segments = [Segment(units, decides=index < len(cuts) - 1) for index, units in enumerate(cuts)]
    return Supernet(space, segments, input_channels, config.gate_hidden)
