"""The short form of `make chaos`: one store, three kills."""

from pathlib import Path

import pytest

from tests.chaos import run


@pytest.mark.slow
@pytest.mark.ray
def test_random_kills_change_no_table_and_leave_nothing(tmp_path: Path):
    made = run(tmp_path, kills=3, seed=1, limit_s=300.0)
    assert made.kills.total() >= 1
    assert made.rounds == 1
