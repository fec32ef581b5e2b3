"""Ablation recipes: one full method for all, variants that differ in what they say, settings that reach all."""

from dataclasses import fields

import pytest

from bench.core.ablation import Ablation, groups_of
from bench.methods import method_of
from bench.models import PRESETS
from bench.recipes.ablations import FULL
from bench.recipes.registry import RECIPES, resolve
from bench.runs.prepare import placed, with_overrides

NAMES = [name for name in RECIPES.names() if name.startswith("ablation_")]
DIGITS = [name for name in NAMES if name not in ("ablation_mvco", "ablation_distillation_cifar10")]
STAGE_ONE = ["ablation_distillation", "ablation_bn", "ablation_sandwich"]


def finished(specs, **settings):
    return placed(with_overrides(specs, settings), "cpu")


def only_group(name, seeds=(0,)):
    (group,) = resolve(name, seeds).groups
    return group


def first_runs(name):
    """By arm, the run that is trained, as it will run."""
    return {words: finished(specs)[0] for words, specs in only_group(name).arms.items()}


@pytest.mark.parametrize("name", NAMES)
def test_an_ablation_says_what_it_compares(name):
    specs = resolve(name, range(3))
    assert isinstance(specs, Ablation)
    ids = {spec.run_id for spec in finished(specs)}
    for group in groups_of(specs, finished):
        words, *variants = group.arms
        assert words.startswith(FULL)
        assert variants
        assert all(set(runs) <= ids for runs in group.arms.values())
        assert {len(runs) for runs in group.arms.values()} <= {3, 6}
    for spec in finished(specs):
        size = 32 if spec.model.endswith("32") else 8
        method_of(spec.method).check(spec, PRESETS.get(spec.model).build(), size)


def test_all_digits_recipes_hold_the_same_full_method():
    assert len({first_runs(name)[FULL].run_id for name in DIGITS}) == 1
    trained = {s.run_id for name in DIGITS for s in finished(resolve(name, range(3))) if s.method == "ds_net"}
    assert len(trained) == 3 * (1 + 3 + 3 + 3 + 5 + 1)


EXPECTED = {
    "ablation_distillation": [{"distillation": kind} for kind in ("none", "inplace", "ensemble_bootstrap")],
    "ablation_sandwich": [{"random_widths": count} for count in (0, 1, 4)],
    "ablation_bn": [{"recalibrate": False}, {"calibration_images": 10}, {"calibration_images": 40}],
    "ablation_gate": [
        {"sgs_weight": 0.0},
        {"hard_samples": "give_up"},
        {"gate_head": "scalar"},
        {"gate_trunk": None},  # the default: shared
        {"model": "ds_mobilenet_plain_micro8"},
    ],
    "ablation_routing": [{"routing": ((0, 1, 2, 3), (0, 3), (0, 1, 2), (1, 3))}],
}


@pytest.mark.parametrize("name", DIGITS)
def test_a_variant_differs_from_the_full_method_in_one_technique(name):
    full, *variants = first_runs(name).values()
    assert len(variants) == len(EXPECTED[name])
    for variant, expected in zip(variants, EXPECTED[name], strict=True):
        keys = full.options.keys() | variant.options.keys()
        changed = {k: variant.options.get(k) for k in keys if variant.options.get(k) != full.options.get(k)}
        others = {f.name for f in fields(full) if getattr(full, f.name) != getattr(variant, f.name)} - {"options"}
        assert changed | {key: getattr(variant, key) for key in others} == expected


@pytest.mark.parametrize("name", STAGE_ONE)
def test_variants_of_stage_one_are_judged_by_their_sub_networks_too(name):
    for specs in only_group(name).arms.values():
        run, control = specs
        assert (control.method, control.init_from) == ("fixed_choice", run.run_id)


@pytest.mark.parametrize("name", ["ablation_gate", "ablation_routing"])
def test_gates_are_compared_by_their_dynamic_points_and_have_both_controls(name):
    specs = resolve(name, (0,))
    full, *variants = only_group(name).arms.values()
    for run, *judged in (full, *variants):
        own_network = run == full[0] or run.model != full[0].model
        assert [spec.method for spec in judged] == ["fixed_choice"] * own_network
        assert {s.method for s in specs if s.init_from == run.run_id} == {"random_gate", "fixed_choice"}


@pytest.mark.parametrize("name", NAMES)
def test_settings_reach_every_arm_and_the_names_of_its_runs(name):
    specs = resolve(name, (0,))

    def finish(some):
        return finished(some, epochs="1")

    after = {spec.run_id: spec for spec in finish(specs)}
    groups = groups_of(specs, finish)
    assert len(groups) == len(specs.groups)
    assert {spec.train.epochs for spec in after.values()} == {1}
    assert {run for group in groups for runs in group.arms.values() for run in runs} <= after.keys()


def test_a_variant_that_a_setting_has_made_the_full_method_is_none():
    specs = resolve("ablation_sandwich", (0,))
    assert groups_of(specs, lambda some: finished(some, random_widths="3")) == []
    (group,) = groups_of(resolve("ablation_gate", (0,)), lambda some: finished(some, sgs_weight="0.5"))
    assert "no SGS" not in group.arms
    assert "scalar head" in group.arms


def test_the_reference_of_the_routing_spaces_is_a_point_of_the_full_method():
    from bench.methods.ds_net import point_name, routing_spaces

    full = first_runs("ablation_routing")[FULL]
    spaces = routing_spaces(PRESETS.get(full.model).build(), method_of("ds_net").options(full))
    assert only_group("ablation_routing").reference in {point_name(space) for space in spaces}
