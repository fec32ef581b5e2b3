"""What a recipe compares: closed arms, finished one by one, written down once and read back."""

import json
from dataclasses import replace

import pytest

from bench.core.ablation import Ablation, Arms, Group, groups_of, read_ablations, write_ablation
from bench.core.errors import UserError
from bench.core.spec import RunSpec


def runs(seeds=(0, 1), **options):
    """A run and its control on every seed."""
    found = []
    for seed in seeds:
        run = RunSpec("net", "micro", options=options, seed=seed)
        found += [run, RunSpec("control", "micro", init_from=run.run_id, seed=seed)]
    return found


ARMS = Arms({"full": runs(), "narrow": runs(width=1), "wide": runs(width=9)})


def longer(specs):
    """Finishing that changes every run, and lets controls follow."""
    new, found = {}, []
    for spec in specs:
        after = replace(spec, threads=3, init_from=new.get(spec.init_from))
        new[spec.run_id] = after.run_id
        found.append(after)
    return found


def test_an_ablation_is_the_list_of_its_runs_each_once():
    other = RunSpec("net", "other")
    ablation = Ablation([ARMS, Arms({"full": runs(), "deep": runs(depth=2)})], [other, *runs()])
    assert len(ablation) == len({spec.run_id for spec in ablation}) == 4 * 4 + 1
    assert ablation[:4] == runs()
    assert ablation[-1] == other


def test_groups_name_the_runs_as_they_are_finished():
    (group,) = groups_of(Ablation([ARMS]), longer)
    assert list(group.arms) == ["full", "narrow", "wide"]
    finished = {spec.run_id for spec in longer(Ablation([ARMS]))}
    assert {run for arm in group.arms.values() for run in arm} == finished
    assert finished.isdisjoint(spec.run_id for spec in Ablation([ARMS]))


def test_an_arm_that_settings_made_equal_to_another_is_left_out():
    def narrow(specs):
        return [replace(spec, options={"width": 1}, init_from=None) for spec in specs]

    assert groups_of(Ablation([ARMS]), narrow) == []
    some = Arms({"full": runs(), "deep": runs(depth=2), "wide": runs(width=9)[:1]}, "point")

    def without_width(specs):
        kept = [{key: value for key, value in spec.options.items() if key != "width"} for spec in specs]
        return [replace(spec, options=options) for spec, options in zip(specs, kept, strict=True)]

    (group,) = groups_of(Ablation([some]), without_width)
    assert list(group.arms) == ["full", "deep"], "even where it holds fewer runs, without the controls"
    assert group.reference == "point"


def test_an_ordinary_recipe_compares_nothing(tmp_path):
    assert groups_of(runs(), longer) == []
    write_ablation(tmp_path, "plain", [])
    assert list(tmp_path.iterdir()) == []


GROUP = Group({"full": ["a-1", "a-2"], "other": ["b-1", "b-2"]}, None)


def test_what_is_written_is_read(tmp_path):
    second = Group({"full": ["c-1"], "other": ["d-1"]}, "dynamic0-1")
    write_ablation(tmp_path, "ablation_x", [GROUP])
    write_ablation(tmp_path, "some/file.py:ablation_y", [GROUP, second])
    assert read_ablations(tmp_path) == {"ablation_x": [GROUP], "ablation_y": [GROUP, second]}
    assert read_ablations(tmp_path / "nowhere") == {}


def test_more_seeds_are_the_same_comparison_and_other_runs_another(tmp_path):
    write_ablation(tmp_path, "x", [GROUP])
    more = Group({words: [*arm, "z-3"] for words, arm in GROUP.arms.items()}, None)
    write_ablation(tmp_path, "x", [more])
    assert read_ablations(tmp_path) == {"x": [more]}
    write_ablation(tmp_path, "x", [Group({**GROUP.arms, "third": ["e-1"]}, None)])
    assert len(read_ablations(tmp_path)["x"]) == 2


@pytest.mark.parametrize("body", [{}, {"recipe": "x"}, {"recipe": "x", "groups": [{"arms": 3, "reference": None}]}])
def test_a_damaged_file_is_one_sentence(tmp_path, body):
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations" / "x.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match=r"x\.json is damaged: it does not say what is compared") as caught:
        read_ablations(tmp_path)
    assert "\n" not in str(caught.value)
