"""Slimmable families, one a file, each with presets of the same code from 8x8 to full-size images."""

from bench.core.registry import Registry

MODELS = Registry(
    "model",
    {
        "ds_mobilenet_v1": "bench.models.mobilenet:ds_mobilenet_v1",
        "ds_mobilenet_micro8": "bench.models.mobilenet:ds_mobilenet_micro8",
        "ds_mobilenet_micro32": "bench.models.mobilenet:ds_mobilenet_micro32",
        "us_mobilenet_v1": "bench.models.mobilenet:us_mobilenet_v1",
        "us_mobilenet_micro8": "bench.models.mobilenet:us_mobilenet_micro8",
        "us_mobilenet_micro32": "bench.models.mobilenet:us_mobilenet_micro32",
    },
    group="slicebench.models",
)
