"""The scripts about served slices, Vision Transformers and several gates: what each compares, on small networks."""

import importlib.util

import pytest
import torch
from small_runs import small_net

from bench.models import PRESETS
from bench.profilers.choices import routable
from bench.profilers.madds import executed_madds
from bench.slicing.dynamic import ExtractedSegments, by_path, by_segment, fixed_router, run_grouped
from bench.slicing.extract import extract
from tests.speed import dynamic_file, export, multigate, vit_slicing
from tests.speed.__main__ import scripts
from tests.speed.script import Options

ONNX = importlib.util.find_spec("onnxruntime") is not None and importlib.util.find_spec("onnxscript") is not None
SHORT = Options(0.0, 1, None)  # one round


def rows(comparison):
    return {row.name: row for row in comparison.rows}


def test_the_scripts_are_found():
    assert {"dynamic_file", "export", "multigate", "vit_slicing"} <= set(scripts())


@pytest.mark.slow
@pytest.mark.skipif(not ONNX, reason="the extra onnx is not installed")
def test_served_forms_compute_what_eager_computes_and_are_held_against_it(monkeypatch):
    net = PRESETS.get("ds_mobilenet_micro8").build()
    monkeypatch.setattr(export, "PRESET", "ds_mobilenet_micro8")
    monkeypatch.setattr(export, "SIZE", 8)
    served, over = export.run(SHORT)
    goals = {name: (row.goal.against, row.goal.ratio) for name, row in rows(served).items() if row.goal}
    assert goals == {
        "onnx, smallest": ("eager, smallest", 1 / 2.5),
        "onnx, largest": ("eager, largest", 1 / 1.9),
        "folded channels_last, smallest": ("eager, smallest", 0.86),
        "folded channels_last, largest": ("eager, largest", 0.86),
    }
    assert list(rows(over)) == ["onnx, smallest", "onnx, largest"]
    small, large = (net.cost(net.space.uniform(index), 8).madds for index in (0, 3))
    assert f"{small / large:.3f}" in over.name


@pytest.mark.slow
@pytest.mark.skipif(not ONNX, reason="the extra onnx is not installed")
def test_all_served_forms_give_one_output():
    net = small_net("ds_mobilenet_micro8").eval()
    forms = export.forms(net, net.space.uniform(1), torch.randn(1, 1, 8, 8), 1)
    assert list(forms) == ["eager", "folded channels_last", "onnx"]
    with torch.inference_mode():
        outputs = [form.step()() for form in forms.values()]
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not ONNX, reason="the extra onnx is not installed")
def test_the_dynamic_file_is_held_against_its_parts_and_the_chosen_width():
    batch, single = dynamic_file.comparisons("ds_mobilenet_micro8", 8, SHORT)
    assert list(rows(batch)) == ["one file", "its parts", "all at the widest"]
    assert list(rows(single)) == ["one file", "the chosen width alone"]
    goals = [row.goal for comparison in (batch, single) for row in comparison.rows if row.goal]
    assert [(goal.against, goal.ratio) for goal in goals] == [("its parts", 1.05), (None, 1.05)]
    point, x = dynamic_file.spread("ds_mobilenet_micro8", 8)
    with torch.no_grad():
        counts = point(x).route[:, 0].bincount()
        steps = dynamic_file.parts_of(point, x, 1)()
    assert (counts > 0).sum() > 1
    assert [len(tensors[0]) for tensors in steps] == [64, *counts[counts > 0].tolist()]


def test_the_slices_of_deit_vary_one_thing_each():
    """MAdds by METHODS 3.4's formula: N = 197 tokens, 12 blocks, and the patches and classifier that nothing slices."""
    net = PRESETS.get("ds_vit_s").build()
    tokens, fixed = 197, 196 * 3 * 16 * 16 * 384 + 384 * 1000

    def madds(heads, mlp, width):
        inner = 64 * heads
        block = 4 * tokens * width * inner + 2 * tokens**2 * inner + 2 * tokens * width * mlp
        return fixed + 12 * block

    full = madds(6, 1536, 384)
    for name, expected in (
        ("heads and MLP 1/2", madds(3, 768, 384)),
        ("heads and MLP 1/3", madds(2, 512, 384)),
        ("embedding 3/4 (idle)", madds(6, 1536, 288)),
    ):
        values, margin = vit_slicing.SLICED[name]
        ratio = vit_slicing.madds_ratio(net, vit_slicing.everywhere(net, values))
        assert ratio == pytest.approx(expected / full, rel=1e-12)
        assert margin == (0.25 if "idle" in name else 0.15)


def test_a_goal_over_the_ratio_of_multiply_adds():
    goal = vit_slicing.over_madds(0.5, 0.15)
    assert (goal.ratio, goal.text) == (pytest.approx(0.575), "<= 0.575 (MAdds 0.500 + 15%)")


def test_the_slices_of_a_vision_transformer_are_compared_with_the_full_one(monkeypatch):
    monkeypatch.setattr(vit_slicing, "PRESET", "ds_vit_micro32")
    monkeypatch.setattr(vit_slicing, "SIZE", 32)
    monkeypatch.setattr(vit_slicing, "SLICED", {"half": ({"heads": 2, "mlp": 72}, 0.15)})
    found = list(vit_slicing.run(SHORT))
    assert [comparison.reference for comparison in found] == ["full", "full"]
    for comparison, batch in zip(found, (1, 16), strict=True):
        assert comparison.name.endswith(f"batch {batch}")
        assert list(rows(comparison)) == ["full", "half"]


@pytest.mark.parametrize("name", ["ds_vit_micro8", "ds_resnet_pp_micro8"])
def test_routes_are_uniform_at_every_gate_and_the_same_at_every_call(name):
    space = PRESETS.get(name).build().space
    route = multigate.uniform_routes(space, 4000)
    assert torch.equal(route, multigate.uniform_routes(space, 4000))
    assert route.shape == (4000, len(space.decisions))
    for gate, decision in enumerate(space.decisions):
        share = route[:, gate].bincount(minlength=len(decision.options)) / 4000
        assert (share * len(decision.options) - 1).abs().max() < 0.25
    assert {space.routed(r) for r in route.tolist()} == set(routable(space))


@torch.no_grad()
def test_regrouping_and_whole_paths_do_the_same_work(monkeypatch):
    """Outputs and multiply-adds of the three ways that are compared, and the share that the title states."""
    net, ran = small_net("ds_vit_micro8").eval(), {}

    def compare(name, steps, reference, goals, *_, **__):
        ran.update(name=name, steps=steps, reference=reference, goals=goals)

    monkeypatch.setattr(multigate, "compare", compare)
    multigate.comparison(net, "ds_vit_micro8", 16, 0.0)
    copies, route = ExtractedSegments(net), fixed_router(multigate.uniform_routes(net.space, 16))
    x = torch.randn(16, 1, 8, 8)
    first, second = (run_grouped(copies, net.space, route, x, key) for key in (by_segment, by_path))
    torch.testing.assert_close(first.output, second.output, rtol=1e-4, atol=1e-5)
    work = {name: executed_madds(lambda _, step=step: step(), x) for name, step in ran["steps"].items()}
    assert work["regrouped"] == work["whole paths"]
    assert work["all at the widest"] == executed_madds(extract(net, net.space.largest), x)
    assert f"{work['regrouped'] / work['all at the widest']:.3f} of the widest's" in ran["name"]
    assert ran["goals"]["regrouped"].against == "whole paths"


def test_every_family_of_the_comparison_has_several_gates():
    for name, _ in multigate.CASES:
        assert len(PRESETS.get(name).build().space.decisions) > 1
