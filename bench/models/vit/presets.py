"""Vision Transformers of one layout, DeiT's: routed in slices (DS-ViT++), or nested in their residual stream too."""

from __future__ import annotations

from bench.models.preset import NESTED, SLICED, Family, Official, Preset
from bench.models.vit.space import NestedConfig, ViTConfig

VIT = Family(
    "vit",
    "bench.models.vit.units:build",
    "bench.models.vit.order:order",
    timm="bench.models.vit.timm_names",
    timm_head="head.",
    tokens=True,
    official=(
        Official("thinking_vit", ("ds_vit_s",), "bench.models.vit.official:thinking_vit"),
        Official("hydravit", ("nested_vit_b",), "bench.models.vit.official:deit",
                 reported=tuple(f"hydravit/deit_b/{heads} heads" for heads in range(3, 13))),
        Official("scala", (), refused="its code cuts the rows of query, key and value as one block, narrows all six "
                 "heads instead of running fewer, and normalises with eps 1e-5; no network here does, and tensors of "
                 "equal names and shapes would give other answers"),
    ),
)  # fmt: skip

DEIT_S = ViTConfig(224, 16, 64, ((2, 512, 288), (3, 768, 320), (4, 1024, 352), (6, 1536, 384)))
DEIT_TI = ViTConfig(224, 16, 64, ((1, 256, 144), (2, 320, 160), (2, 576, 176), (3, 768, 192)))
MICRO_OPTIONS = ((1, 56, 48), (2, 72, 56), (3, 96, 56), (4, 128, 64))


def micro(image_size: int, patch: int) -> ViTConfig:
    """Four stages of one block for small images: the same four gates and 256 routable sub-networks."""
    return ViTConfig(image_size, patch, 16, MICRO_OPTIONS, (1, 1, 1, 1), gate_hidden=16)


def nested(image_size: int, patch: int, head_dim: int, heads: range, mlp_ratio: int, depth: int) -> NestedConfig:
    """A ladder of k heads, k * head_dim channels and `mlp_ratio` times as many hidden units, for each k."""
    ladder = tuple((k, mlp_ratio * k * head_dim, k * head_dim) for k in heads)
    return NestedConfig(image_size, patch, head_dim, ladder, (1,) * depth)


BUILD_NESTED = "bench.models.vit.nested:build"

PRESETS = (
    Preset("ds_vit_s", VIT, SLICED, DEIT_S, 224, 1000, 3,
           "DS-ViT++ on DeiT-S, 224x224: 256 routable sub-networks, 1.22 to 4.60 G multiply-adds"),
    Preset("ds_vit_ti", VIT, SLICED, DEIT_TI, 224, 1000, 3,
           "DS-ViT++ on DeiT-Ti, 224x224: 256 routable sub-networks, 0.35 to 1.25 G multiply-adds"),
    Preset("ds_vit_micro8", VIT, SLICED, micro(8, 2), 8, 10, 1,
           "DS-ViT++'s plan for 8x8 images, in patches of 2x2"),
    Preset("ds_vit_micro32", VIT, SLICED, micro(32, 4), 32, 10, 3,
           "DS-ViT++'s plan for 32x32 images, in patches of 4x4"),
    Preset("ds_vit_micro64", VIT, SLICED, micro(64, 8), 64, 10, 3,
           "DS-ViT++'s plan for 64x64 images, in patches of 8x8"),
    Preset("nested_vit_b", VIT, NESTED, nested(224, 16, 64, range(3, 13), 4, 12), 224, 1000, 3,
           "DeiT-B, 224x224, at 3 to 12 heads: HydraViT's ten sub-networks; DeiT-Ti and DeiT-S have the shape of two",
           BUILD_NESTED),
    Preset("nested_vit_s", VIT, NESTED, nested(224, 16, 64, range(2, 7), 4, 12), 224, 1000, 3,
           "DeiT-S, 224x224, at 2 to 6 heads", BUILD_NESTED),
    Preset("nested_vit_micro8", VIT, NESTED, nested(8, 2, 16, range(1, 5), 2, 4), 8, 10, 1,
           "The full network of `ds_vit_micro8` at 1 to 4 heads", BUILD_NESTED),
    Preset("nested_vit_micro32", VIT, NESTED, nested(32, 4, 16, range(1, 5), 2, 4), 32, 10, 3,
           "The full network of `ds_vit_micro32` at 1 to 4 heads", BUILD_NESTED),
)  # fmt: skip
