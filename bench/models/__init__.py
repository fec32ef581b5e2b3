"""Slimmable families, one a file, each with presets of the same code from 8x8 to full-size images."""

from bench.core.registry import Registry

MODELS = Registry(
    "model",
    {
        "ds_mobilenet_v1": "bench.models.mobilenet:ds_mobilenet_v1",
        "ds_mobilenet_micro8": "bench.models.mobilenet:ds_mobilenet_micro8",
        "ds_mobilenet_micro32": "bench.models.mobilenet:ds_mobilenet_micro32",
        "ds_mobilenet_pp_v1": "bench.models.mobilenet:ds_mobilenet_pp_v1",
        "ds_mobilenet_pp_micro8": "bench.models.mobilenet:ds_mobilenet_pp_micro8",
        "ds_mobilenet_pp_micro32": "bench.models.mobilenet:ds_mobilenet_pp_micro32",
        "us_mobilenet_v1": "bench.models.mobilenet:us_mobilenet_v1",
        "us_mobilenet_micro8": "bench.models.mobilenet:us_mobilenet_micro8",
        "us_mobilenet_micro32": "bench.models.mobilenet:us_mobilenet_micro32",
        "ds_vit_s": "bench.models.vit:ds_vit_s",
        "ds_vit_ti": "bench.models.vit:ds_vit_ti",
        "ds_vit_micro8": "bench.models.vit:ds_vit_micro8",
        "ds_vit_micro32": "bench.models.vit:ds_vit_micro32",
        "ds_vit_micro64": "bench.models.vit:ds_vit_micro64",
        "ds_resnet50": "bench.models.resnet:ds_resnet50",
        "ds_resnet50_bn": "bench.models.resnet:ds_resnet50_bn",
        "ds_resnet50_pp": "bench.models.resnet:ds_resnet50_pp",
        "ds_resnet_micro8": "bench.models.resnet:ds_resnet_micro8",
        "ds_resnet_micro32": "bench.models.resnet:ds_resnet_micro32",
        "ds_resnet_micro64": "bench.models.resnet:ds_resnet_micro64",
        "ds_resnet_bn_micro8": "bench.models.resnet:ds_resnet_bn_micro8",
        "ds_resnet_bn_micro32": "bench.models.resnet:ds_resnet_bn_micro32",
        "ds_resnet_pp_micro8": "bench.models.resnet:ds_resnet_pp_micro8",
        "ds_resnet_pp_micro32": "bench.models.resnet:ds_resnet_pp_micro32",
        "us_resnet50": "bench.models.resnet:us_resnet50",
        "us_resnet_micro8": "bench.models.resnet:us_resnet_micro8",
        "us_resnet_micro32": "bench.models.resnet:us_resnet_micro32",
    },
    group="slicebench.models",
)
