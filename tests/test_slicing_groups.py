"""Batches that are split by a decision return to their rows, and a choice is read as it is spelled."""

import pytest
import torch

from bench.core.errors import UserError
from bench.models import PRESETS
from bench.slicing.groups import split, take, together


@pytest.mark.parametrize("decided", [[2, 0, 2, 1, 0], [1, 1, 1], [0, 1, 2]])
def test_results_return_to_their_rows(decided):
    x = torch.randn(len(decided), 3, 2, 2).contiguous(memory_format=torch.channels_last)
    groups = split(torch.tensor(decided))
    assert [option for option, _ in groups] == sorted(set(decided))
    whole = together([(option + 1) * take(x, rows) for option, rows in groups], [rows for _, rows in groups])
    assert torch.equal(whole, x * (torch.tensor(decided) + 1)[:, None, None, None])
    assert whole.is_contiguous(memory_format=torch.channels_last), "the layout of the groups"


def test_all_rows_are_no_copy():
    x = torch.randn(3, 2)
    assert take(x, torch.arange(3)) is x
    assert together([x], [torch.arange(3)]) is x


@pytest.mark.parametrize("name", ["ds_mobilenet_pp_micro8", "ds_vit_micro8", "us_resnet_micro8", "nested_vit_micro8"])
def test_a_choice_is_read_as_it_is_spelled(name):
    space = PRESETS.get(name).build().space
    for step, choice in enumerate(space.uniform_choices):
        assert space.parse(str(choice)) == choice
        assert space.parse(str(step)) == choice
    assert space.parse("largest") == space.parse(str(space.largest)) == space.largest


@pytest.mark.parametrize("text", ["", "wide", "0.", "0.x", "0..1", "+1.0", "0.01", "0 .1", "1_0.0", "-1.0"])
def test_what_spells_no_choice(text):
    with pytest.raises(ValueError, match=r"invalid literal|is not how a choice is spelled"):
        PRESETS.get("ds_mobilenet_micro8").build().space.parse(text)


@pytest.mark.parametrize(("text", "says"), [("9", "choices 0 to 3"), ("0.0", "covers 2 stages"), ("0.0.0.9.9", "9")])
def test_a_choice_that_the_space_does_not_have(text, says):
    with pytest.raises(UserError, match=says):
        PRESETS.get("ds_mobilenet_micro8").build().space.parse(text)
