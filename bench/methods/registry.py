"""The table of methods, and what must hold of a run before it is one: its names, options and parent.

Importing it imports no torch, so that methods are listed at once. A contract test holds that the table is true.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from bench.core.errors import UserError
from bench.core.registry import Entry, Registry
from bench.core.spec import RunSpec
from bench.models import PRESETS
from bench.models.preset import ALONE, SLICED, SUPERNETS

if TYPE_CHECKING:
    from bench.methods.contract import Method


@dataclasses.dataclass(frozen=True)
class MethodEntry(Entry):
    """Where a method's class is, and what is listed of it, as the class says too."""

    kind: str
    paper: str = "control of this suite"
    trains: tuple[str, ...] = ()
    families: tuple[str, ...] = ()


METHODS = Registry(
    "method",
    {
        "ds_net": MethodEntry(
            "bench.methods.ds_net:DSNet",
            "a gate chooses how many filters run for each image",
            "dynamic",
            "Li et al., CVPR 2021, arXiv 2103.13258",
            trains=("dynamic slimmable",),
        ),
        "ds_net_pp": MethodEntry(
            "bench.methods.ds_net:DSNetPP",
            "gates choose filters and kernel size in CNNs; heads, MLP width and embedding in Vision Transformers",
            "dynamic",
            "Li et al., TPAMI 2023, arXiv 2109.10060",
            trains=("dynamic weight slicing",),
        ),
        "plain": MethodEntry(
            "baselines.plain:Plain",
            "any network as it is, timm:NAME included: trained, fine-tuned, or evaluated with weights that are given",
            "static",
            "the authors' of the network",
        ),
        "uniform": MethodEntry(
            "baselines.uniform:Uniform",
            "a network of each width, trained alone on the labels",
            "static",
            "the networks that every slimming paper compares with",
            trains=SUPERNETS,
        ),
        "s_net": MethodEntry(
            "baselines.switchable:SNet",
            "a few widths in one set of weights, with batch norm of their own",
            "slimmable",
            "Yu et al., ICLR 2019, arXiv 1812.08928",
            trains=("switchable",),
        ),
        "us_net": MethodEntry(
            "baselines.universally_slimmable:USNet",
            "any width in one set of weights, by the sandwich rule and in-place distillation",
            "slimmable",
            "Yu & Huang, ICCV 2019, arXiv 1903.05134",
            trains=("universally slimmable",),
        ),
        "autoslim": MethodEntry(
            "baselines.autoslim:AutoSlim",
            "widths for a budget found by greedy slimming, then trained from scratch",
            "static",
            "Yu & Huang, 2019, arXiv 1903.11728",
            trains=("universally slimmable",),
        ),
        "nested_vit": MethodEntry(
            "baselines.nested_transformer:NestedViT",
            "nested sub-networks of a transformer, by the scheme of MatFormer, HydraViT or Scala",
            "slimmable",
            "matformer: NeurIPS 2024, arXiv 2310.07707; hydravit: NeurIPS 2024, arXiv 2409.17978; "
            "scala: NeurIPS 2024, arXiv 2412.04786",
            trains=("nested",),
        ),
        "pretrained": MethodEntry(
            "baselines.pretrained:Pretrained",
            "sub-networks with the weights that their authors published, not trained",
            "slimmable",
            "the authors' of the weights",
            trains=SUPERNETS,
        ),
        "pruning": MethodEntry(
            "baselines.pruning:Pruning",
            "structured pruning with real removal to a budget, then fine-tuning",
            "static",
            "Fang et al. 2023, DepGraph; each criterion names its own (pruning_criteria)",
        ),
        "token_prune": MethodEntry(
            "baselines.token_prune:TokenPrune",
            "a number of tokens for each image, the important ones kept",
            "dynamic",
            "importance by Liang et al., ICLR 2022, arXiv 2202.07800; the number for each image is this suite's",
            trains=(SLICED, ALONE),
            families=("vit", "plain"),
        ),
        "thinking_vit": MethodEntry(
            "baselines.thinking_vit:ThinkingViT",
            "a second round with more heads for images that the first is not sure of",
            "dynamic",
            "ThinkingViT, CVPR 2026, arXiv 2507.10800",
            trains=("dynamic weight slicing",),
            families=("vit",),
        ),
        "early_exit": MethodEntry(
            "baselines.early_exit:EarlyExit",
            "images leave at the first classifier that is sure of them",
            "dynamic",
            "Teerapittayanon et al. 2016, arXiv 1709.01686; Huang et al. 2018, arXiv 1703.09844",
        ),
        "layer_skip": MethodEntry(
            "baselines.layer_skip:LayerSkip",
            "a gate at each residual block runs or skips it for each image",
            "dynamic",
            "Wang et al. 2018, arXiv 1711.09485; Veit & Belongie 2018, arXiv 1711.11503",
            trains=("dynamic slimmable", "dynamic weight slicing", "universally slimmable"),
            families=("resnet", "vit"),
        ),
        "channel_gate": MethodEntry(
            "baselines.channel_gate:ChannelGate",
            "each image selects the channels with the greatest predicted saliency",
            "dynamic",
            "Gao et al. 2019, arXiv 1810.05331",
            trains=("dynamic slimmable", "dynamic weight slicing", "universally slimmable"),
            families=("mobilenet", "resnet"),
        ),
        "slice_cascade": MethodEntry(
            "baselines.slice_cascade:SliceCascade",
            "on any supernet: the slimmest slice first, a wider one on the same front where it is not sure",
            "dynamic",
            "this suite's own",
            trains=SUPERNETS,
        ),
        "random_gate": MethodEntry(
            "baselines.controls:RandomGate",
            "the proportions of a gate or a cascade, routed by a hash of the image instead",
            "control",
        ),
        "fixed_choice": MethodEntry(
            "baselines.controls:FixedChoice",
            "the sub-networks that a gate may choose or a cascade is made of, each for every image",
            "control",
        ),
        "sliced_order": MethodEntry(
            "baselines.sliced_order:SlicedOrder",
            "every slice of one full network with its channels ordered, not trained",
            "control",
            trains=SUPERNETS,
        ),
        "class_prior": MethodEntry(
            "baselines.class_prior:ClassPrior",
            "the frequency of each class (in detection, its mean box too), without looking at the image",
            "control",
        ),
    },
    group="slicebench.methods",
)


def method_of(name: str) -> Method:
    """The method called `name`. Raises `UserError`, naming the nearest, when there is none."""
    return METHODS.get(name)()


def completed(spec: RunSpec) -> RunSpec:
    """A spec as it is run: names and options checked, options that equal their default dropped, version filled in.

    Raises:
        UserError: unknown method, model or option; a method on a family that it does not serve.

    >>> spec = completed(RunSpec("us_net", "us_mobilenet_micro8", options={"random_widths": 2}))
    >>> dict(spec.options), spec.method_version  # an option at its default is no other run
    ({}, 2)
    >>> completed(RunSpec("us_net", "ds_vit_micro8"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    bench.core.errors.UserError: us_net serves ..., not ds_vit_micro8
    """
    method = method_of(spec.method)
    if not method.serves(PRESETS.get(spec.model)):
        served = ", ".join(name for name in PRESETS.names() if method.serves(PRESETS.get(name)))
        raise UserError(f"{method.name} serves {served}, not {spec.model}")
    if method.needs_parent and spec.init_from is None:
        raise UserError(f"{method.name} works on another run's checkpoint; name it with init_from")
    options = method.options(spec)
    defaults = {field.name: getattr(method.Options(), field.name) for field in dataclasses.fields(method.Options)}
    kept = {key: getattr(options, key) for key in spec.options if getattr(options, key) != defaults[key]}
    return dataclasses.replace(spec, options=kept, method_version=method.version)


def check_parent(spec: RunSpec, parent: RunSpec) -> None:
    """Raise `UserError` for a run that can do nothing with what `parent` leaves. Their networks are not compared."""
    method, former = method_of(spec.method), method_of(parent.method)
    if method.needs_parent:
        if (parent.model, parent.data) != (spec.model, spec.data):
            raise UserError(f"{spec.run_id} starts from {parent.run_id}, which has another model or other data")
        method.check_start(parent)
    elif former.needs_parent or former.leaves == "nothing":
        raise UserError(
            f"{spec.run_id} starts from {parent.run_id}, but a run of {former.name} leaves no network to train on"
        )
    elif former.leaves == "networks" and not method.takes_networks:
        raise UserError(
            f"{spec.run_id} starts from {parent.run_id}, but {former.name} trains each network alone, and "
            f"{method.name} needs a supernet"
        )
