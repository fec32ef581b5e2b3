"""Evaluations that were written before numbers stood in records alone, as they are written now."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.core.spec import RunSpec
from bench.statistics.routing import level_routes

_CONTROLS = {
    "random_gate": "random",
    "fixed_choice": "fixed",
    "sliced_order": None,
    "class_prior": None,
    "oracle_gate": None,
}
"""The methods of that time that were controls, with their roles."""


DECIDED = {
    **dict.fromkeys(("ds_net", "ds_net_pp", "random_gate", "oracle_gate", "layer_skip", "channel_gate"), "gate"),
    "slice_cascade": "cascade",
    "early_exit": "exit",
    "token_prune": "token count",
    "thinking_vit": "rounds",
}
"""What decided for each image, by method, in evaluations that were written before points said it themselves."""


def as_written_now(spec: RunSpec, body: dict[str, Any], parent: Mapping[str, Any] | None) -> dict[str, Any]:
    """The body of an eval phase with what old files lack; a body that is not old, as it is.

    Old results held the extremes of the MAdds, which now stand in the details of their record. They did not say whether
    a row is a control, which the method's name did; nor the routing space, which the name of a dynamic point did
    ("dynamic0-2" for all gates, "dynamic0-1_0-2" for each); nor the routes of `fixed_choice`, whose points stood in the
    order of its routes.

    Args:
        parent: the body of the eval phase of the run that this one starts from, where there is one.
    """
    said: dict[str, dict[str, Any]] = body["results"]["points"]
    if not any("madds_mean" in summary for summary in said.values()):
        return body
    control = {"of": spec.init_from, "role": _CONTROLS[spec.method]} if spec.method in _CONTROLS else None
    spaces = {name: _space(name, summary) for name, summary in said.items()}
    names = list(dict.fromkeys(record.point for record in body["records"]))
    routes: dict[str, tuple[int, ...]] = {}
    if spec.method == "fixed_choice" and parent:
        listed = [_space(name, summary) for name, summary in parent["results"]["points"].items()]
        levels = sorted({route for space in listed if space for route in level_routes(space)})
        routes = dict(zip(names, levels, strict=True)) if len(names) == len(levels) else {}
    points = {
        name: {
            "kind": summary["kind"],
            "control": control,
            "routing_space": spaces[name],
            "route": routes.get(name),
            "headline": summary["headline"]["metric"] if "headline" in summary else "top1",
            "routing": summary["routing"],
            "executed_proof": summary.get("executed_proof"),
        }
        for name, summary in said.items()
    }
    extremes = {name: {"min": summary["madds_min"], "max": summary["madds_max"]} for name, summary in said.items()}
    records = [
        replace(each, details={**each.details, **extremes[each.point]}) if each.metric == "madds" else each
        for each in body["records"]
    ]
    return body | {"records": records, "results": body["results"] | {"points": points}}


def _space(name: str, summary: Mapping[str, Any]) -> list[list[int]] | None:
    """The routing space of a dynamic point of gates, read out of its old name and the routes that images took."""
    spelled = re.fullmatch(r"dynamic(\d+(?:[-_]\d+)*)", name)
    if spelled is None or not summary["routing"]:
        return None
    lists = [[int(option) for option in options.split("-")] for options in spelled[1].split("_")]
    gates = next(iter(summary["routing"])).count("-") + 1
    return lists * gates if len(lists) == 1 else lists
