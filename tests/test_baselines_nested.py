"""The schemes of nested transformers: their sub-networks by hand, what a step trains, who teaches whom."""

import random
from collections import Counter

import pytest
import torch
from small_runs import small_spec, trained_points

from baselines.nested_rules import SCHEMES, all_jointly, one_at_random, progressively
from baselines.nested_transformer import NestedViT, NestedViTOptions, choices_of
from bench.core.errors import UserError
from bench.models import PRESETS
from bench.training.joint import Lesson


@pytest.fixture(scope="module")
def space():
    return PRESETS.get("nested_vit_micro8").build().space


def widths(space, choice):
    """(embedding, leading, heads and MLP of every block), as numbers."""
    blocks = {tuple(space.width(choice, stage, d) for d in ("heads", "mlp")) for stage in range(1, len(space.stages))}
    return space.width(choice, 0, "embedding"), space.width(choice, 0, "leading"), *blocks


SUBNETWORKS = {
    "matformer": [(64, 1, (4, 32)), (64, 1, (4, 64)), (64, 1, (4, 96)), (64, 1, (4, 128))],
    "hydravit": [(16, 1, (1, 32)), (32, 1, (2, 64)), (48, 1, (3, 96)), (64, 1, (4, 128))],
    "scala": [(16, 1, (1, 32)), (32, 0, (2, 64)), (48, 0, (3, 96)), (64, 1, (4, 128))],
}


@pytest.mark.parametrize("scheme", SUBNETWORKS)
def test_the_sub_networks_of_a_scheme(space, scheme):
    choices = choices_of(space, NestedViTOptions(scheme))
    assert [widths(space, choice) for choice in choices] == SUBNETWORKS[scheme]
    assert all(space.check(choice) for choice in choices)


def test_bounds_and_granularity(space):
    """The smallest of those that are trained is isolated, whichever it is."""
    scala = choices_of(space, NestedViTOptions("scala", (3, 1, 2)))
    assert [widths(space, choice)[:2] for choice in scala] == [(32, 1), (48, 0), (64, 1)]
    assert len(choices_of(space, NestedViTOptions("scala", (2,)))) == 1
    with pytest.raises(UserError, match="no sub-network 4: this space has choices 0 to 3"):
        choices_of(space, NestedViTOptions("matformer", (0, 4)))
    with pytest.raises(UserError, match=r"alone of nested_vit must be below 1, not 1\.0"):
        small_spec("nested_vit", options={"alone": 1.0})


LETTERS: list = list("abcdefg")  # rules do not look into the choices


def test_matformer_trains_all_on_the_labels():
    assert all_jointly(LETTERS, 0.0, 0.5, random.Random(0)) == [Lesson(letter) for letter in LETTERS]


def test_hydravit_trains_one_at_random_on_the_labels():
    drawn = [one_at_random(LETTERS, 0.0, 0.5, random.Random(seed)) for seed in range(700)]
    assert {len(lessons) for lessons in drawn} == {1}
    counts = Counter(lesson.choice for (lesson,) in drawn)
    assert counts.keys() == set(LETTERS)
    assert min(counts.values()) > 60
    assert all((lesson.labels, lesson.teacher) == (1.0, None) for (lesson,) in drawn)


@pytest.mark.parametrize(
    ("count", "upper", "lower"),
    [
        (7, "def", "bc"),  # widths 0.25 to 1 by 0.125: the official code draws 0.625 to 0.875, and 0.375 or 0.5
        (4, "c", "b"),
        (3, "b", ""),
        (2, "", ""),
    ],
)
def test_scala_trains_four_each_taught_by_the_next_wider(count, upper, lower):
    choices, drawn = LETTERS[:count], []
    for seed in range(200):
        lessons = progressively(choices, 0.5, 0.1, random.Random(seed))
        assert lessons[0] == Lesson(choices[-1])
        assert [lesson.teacher for lesson in lessons[1:]] == list(range(len(lessons) - 1)), "by the one before"
        assert all(lesson.labels == 1.0 for lesson in lessons), "noisy calibration"
        drawn.append([lesson.choice for lesson in lessons])
    halves = [half for half in (upper, lower) if half]
    assert all((d[0], d[-1], len(d)) == (choices[-1], "a", 2 + len(halves)) for d in drawn)
    for place, half in enumerate(halves, 1):
        assert {d[place] for d in drawn} == set(half)


def test_scala_trains_the_full_network_alone_at_first():
    alone = [len(progressively(LETTERS, step / 10, 0.2, random.Random(0))) == 1 for step in range(10)]
    assert alone == [True, True, *[False] * 8]
    assert progressively(LETTERS[:1], 0.9, 0.0, random.Random(0)) == [Lesson("a")]


@pytest.mark.parametrize(
    ("scheme", "names"),
    [
        ("matformer", ["mlp32", "mlp128"]),
        ("hydravit", ["heads1", "heads4"]),
        ("scala", ["width0.25", "width1"]),
    ],
)
def test_points_are_named_by_what_the_scheme_slices(scheme, names, tmp_path):
    spec = small_spec("nested_vit", options={"scheme": scheme, "rungs": [0, 3]})
    points = trained_points(spec, tmp_path)
    assert [point.name for point in points] == names
    madds = [int(point.madds(torch.zeros(1, 0))) for point in points]
    assert madds[0] < madds[1]
    assert SCHEMES[scheme].paper in NestedViT.paper
