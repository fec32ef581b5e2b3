"""What a person reads while a run works: steps, images a second, the time that is left."""

from pathlib import Path

import pytest

from bench.executors.pace import Pace, note, note_file, noted


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_speed_and_time_left_count_from_where_a_training_went_on(clock):
    said: list[str] = []
    pace = Pace(said.append, images=128)
    for step in range(1001, 1011):
        pace("supernet", step, 4001)
        clock[0] += 1.0
    assert said[0] == "supernet 1,001 of 4,001"
    assert said[-1] == "supernet 1,009 of 4,001, 128 images/s, 50 min left"
    assert len(said) == 5  # one of two seconds


def test_each_training_has_its_own_speed_and_the_last_step_is_told(clock):
    said: list[str] = []
    pace = Pace(said.append)
    pace("eval", 1, 2)
    clock[0] += 0.5
    pace("eval", 2, 2)
    pace("profile", 1, 9)
    assert said == ["eval 1 of 2", "eval 2 of 2, 0 s left", "profile 1 of 9"]


def test_a_note_is_read_by_the_driver_and_a_disk_that_refuses_is_no_failure(tmp_path: Path):
    file = note_file(tmp_path, ".driver.0123.tmp", "ds_net-0", "train")
    assert noted(file) == ""
    note(file)("here")
    assert noted(file) == "here"
    note(tmp_path / "missing" / "file")("nobody hears it")
