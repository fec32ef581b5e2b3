"""What a detector costs without its head."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from bench.models.detector.head import PlainDetectorHead
from bench.points import OperatingPoint
from bench.profilers.madds import executed_madds


def backbone_madds(point: OperatingPoint, route: np.ndarray, x: Tensor) -> float | None:
    """Multiply-adds of an image without the detector's head, executed and counted, mean over the routes (n, G) that
    images took; gates included. None for a network without such a head.

    x: (1, C, H, W), one image.
    """
    routes, counts = np.unique(route, axis=0, return_counts=True)
    networks = point.subnetworks([tuple(row) for row in routes.tolist()])
    total = 0
    for row, count in zip(routes.tolist(), counts.tolist(), strict=True):
        layers = list(networks[tuple(row)].children())
        if not layers or not isinstance(layers[-1], PlainDetectorHead):
            return None
        backbone = nn.Sequential(*layers[:-1]).eval()
        total += count * (executed_madds(backbone, x) + point.overhead())
    return total / len(route)
