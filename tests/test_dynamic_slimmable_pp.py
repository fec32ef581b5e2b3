"""DS-Net++ on each family: two steps of both stages, points whose cost is proven, controls that start from them."""

import pytest
import torch
from small_runs import CPU, Trained, checkpoint_bytes, digits, small_spec, trained_points

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.evaluation.proof import prove
from bench.methods import completed, method_of
from bench.methods.ds_net import DSNet, DSNetPP, DSNetPPOptions
from bench.models import PRESETS
from bench.runs.estimate import FirstImages

FAMILIES = {
    "ds_mobilenet_pp_micro8": [[0, 3, 7], [2, 5]],
    "ds_resnet_pp_micro8": [[[0, 7], [1, 4, 6], [2, 3]]],
    "ds_vit_micro8": [[0, 1, 2, 3]],
}
METHOD = DSNetPP()


def spec_of(model, **options):
    gate = {"gate_epochs": 1, "routing": FAMILIES[model], "random_widths": 1}
    return small_spec("ds_net_pp", model=model, options={**gate, **options})


@pytest.fixture(scope="module", params=FAMILIES)
def run(request, tmp_path_factory):
    """(run, points) of one family."""
    spec, directory = spec_of(request.param), tmp_path_factory.mktemp(request.param)
    return Trained(spec, directory), trained_points(spec, directory)


def test_each_routing_space_is_a_dynamic_point(run):
    trained, points = run
    routings = FAMILIES[trained.spec.model]
    assert len(points) == len(routings)
    for point, routing in zip(points, routings, strict=True):
        route = point(digits().validation.batches(16).__iter__().__next__().x).route
        lists = routing if isinstance(routing[0], list) else [routing] * route.shape[1]
        for column, options in zip(route.T, lists, strict=True):
            assert set(column.tolist()) <= set(options)


def test_the_claimed_cost_is_what_runs(run):
    trained, points = run
    for point in points:
        proof = prove(point, FirstImages(digits().validation, 32), CPU)
        assert proof["images"] == 32, trained.spec.model


def test_a_finished_run_loads_to_the_same_outputs(run):
    trained, points = run
    before = checkpoint_bytes(trained.directory)
    again = trained_points(trained.spec, trained.directory)
    x = next(iter(digits().validation.batches(16))).x
    for old, new in zip(points, again, strict=True):
        assert torch.equal(old(x).output, new(x).output)
        assert torch.equal(old(x).route, new(x).route)
    assert checkpoint_bytes(trained.directory) == before


@pytest.mark.parametrize("control", ["fixed_choice", "random_gate"])
def test_controls_start_from_it(run, control, tmp_path):
    trained, points = run
    spec = completed(
        RunSpec(control, trained.spec.model, trained.spec.data, trained.spec.train, init_from=trained.spec.run_id)
    )
    found = trained_points(spec, tmp_path, trained)
    if control == "random_gate":
        assert [point.name for point in found] == [point.name for point in points]
    else:
        assert all(point.kind == "static" for point in found)


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("ds_vit_micro8", {}, True),
        ("ds_mobilenet_pp_micro8", {}, False),
        ("ds_resnet_pp_micro8", {}, False),
        ("ds_vit_micro8", {"multi_view": False}, False),
        ("ds_mobilenet_pp_micro8", {"multi_view": True}, True),
        ("ds_vit_micro8", {"distillation": "inplace"}, False),
    ],
)
def test_transformers_learn_across_views_unless_told_otherwise(model, options, expected):
    settings = METHOD.stage_one(DSNetPPOptions(**options), PRESETS.get(model))
    assert settings.multi_view is expected
    assert settings.views == 1 + expected


def test_views_without_a_teacher_are_refused_before_any_work():
    spec = spec_of("ds_mobilenet_pp_micro8", multi_view=True, distillation="inplace")
    with pytest.raises(UserError, match="multi_view needs a teacher of its own"):
        METHOD.check(spec, PRESETS.get(spec.model).build(), 8)


def test_every_dynamic_preset_belongs_to_one_of_the_two_methods():
    for model in PRESETS.names():
        assert DSNet().serves(PRESETS.get(model)) + METHOD.serves(PRESETS.get(model)) == model.startswith("ds_"), model
    assert {m for m in PRESETS.names() if METHOD.serves(PRESETS.get(m))} == {
        m for m in PRESETS.names() if "_pp" in m or m.startswith("ds_vit_")
    }


@pytest.mark.parametrize(("method", "model"), [("ds_net", "ds_vit_micro8"), ("ds_net_pp", "ds_mobilenet_micro8")])
def test_a_preset_of_the_other_is_refused(method, model):
    with pytest.raises(UserError, match=rf"{method} serves .*, not {model}"):
        completed(RunSpec(method, model))


@pytest.mark.parametrize("recipe", ["digits_families", "cifar10_families", "ablation_mvco"])
def test_recipes_name_only_what_exists(recipe):
    from bench.recipes.registry import RECIPES
    from bench.runs.prepare import placed

    specs = placed(RECIPES.get(recipe)((0, 1)), None)
    known = {spec.run_id for spec in specs}
    assert len(known) == len(specs)
    assert all(spec.init_from in known for spec in specs if spec.init_from)
    for spec in specs:
        size = 32 if spec.model.endswith("32") else 8
        method_of(spec.method).check(spec, PRESETS.get(spec.model).build(), size)
