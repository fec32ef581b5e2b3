"""Any model of timm by the name `timm:NAME`: a preset of one plain network, by timm's own configuration of it.

Nothing is downloaded here; weights are random, or come from a file, or are fetched by their name (`weights.py`).
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from bench.core.errors import UserError
from bench.core.image_input import ImageInput
from bench.models.plain.presets import PLAIN
from bench.models.preset import ALONE, Preset


@dataclass(frozen=True)
class TimmModel:
    """A model of timm for images of a size. drop_path: chance that its last residual block is skipped in training."""

    name: str
    image_size: int
    made_for: int
    drop_path: float = 0.0

    def make(self, classes: int, channels: int) -> tuple[nn.Module, Sequence[str], Sequence[str]]:
        """The model with random weights, its classifier and timm's feature stages.

        Raises:
            UserError: timm cannot make it so.
        """
        settings: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
        if self.drop_path:
            settings["drop_path_rate"] = self.drop_path
        try:
            network = self._made(settings)
        except Exception as error:  # whatever its constructor raises
            size = f"{self.image_size} x {self.image_size}"
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"timm cannot make {self.name} for {channels} x {size} images and {classes} classes"
                f"{' with train.drop_path' if self.drop_path else ''} ({reason:.200})"
            ) from error
        head = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
        stages = [row["module"] for row in getattr(network, "feature_info", None) or () if isinstance(row, dict)]
        names = {name for name, _ in network.named_modules()}
        return network, (head,) if isinstance(head, str) else tuple(head), [name for name in stages if name in names]

    def _made(self, settings: dict[str, Any]) -> nn.Module:
        """Networks with position embeddings are told the size of their images; others know no such setting."""
        import timm

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old names, which still work
            if self.image_size != self.made_for:
                try:
                    return timm.create_model(self.name, img_size=self.image_size, **settings)
                except TypeError:
                    pass
            return timm.create_model(self.name, **settings)


@cache
def preset(name: str) -> Preset:
    """The preset `timm:NAME`. Raises `UserError`, naming the nearest, where timm has no such model."""
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        raise UserError(f"timm has no model {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old names, which still work
        cfg = timm.models.get_pretrained_cfg(name)
    facts = cfg.to_dict() if cfg is not None else {}
    channels, size, _ = facts.get("input_size") or (3, 224, 224)
    images = ImageInput(
        size,
        tuple(facts.get("mean") or (0.485, 0.456, 0.406)),
        tuple(facts.get("std") or (0.229, 0.224, 0.225)),
        facts.get("crop_pct") or 0.875,
        facts.get("interpolation") or "bicubic",
    )
    return Preset(
        f"timm:{name}",
        PLAIN,
        ALONE,
        TimmModel(name, size, size),
        size,
        facts.get("num_classes") or 1000,
        channels,
        f"{name} of timm",
        input=images,
        weights=f"timm:{name}",
    )
