"""Records: a metric has one unit, a value is finite, and the JSON form returns the record."""

import json
from dataclasses import replace

import pytest

from bench.core.errors import UserError
from bench.core.metrics import METRICS
from bench.core.record import Record, parse_record

RECORD = Record(
    "ds_net-1", "ds_net", "micro", "digits", "digits/official@1:test", "dynamic", 0, "top1", 0.9375, "fraction", 320,
    details={"correct": 300},
)  # fmt: skip


def test_json_form_returns_the_record():
    latency = replace(RECORD, metric="latency_ms", unit="ms/batch", value=3.5, form="view", details={"batch": 64})
    for record in (RECORD, latency):
        assert parse_record(json.loads(json.dumps(record.to_json()))) == record


def test_every_metric_has_a_unit_and_a_description():
    assert all(m.unit and m.title and len(m.text) > 10 and m.name == name for name, m in METRICS.items())


def test_unknown_metric():
    with pytest.raises(UserError, match="unknown metric 'top_1'; did you mean 'top1'"):
        replace(RECORD, metric="top_1")


def test_a_metric_of_a_meter_states_its_own_unit():
    """A meter may be a plugin's, which a reader does not have; its record is read all the same."""
    energy = replace(RECORD, metric="energy_mJ", unit="mJ/batch", details={"meter": "energy"})
    assert parse_record(json.loads(json.dumps(energy.to_json()))) == energy
    with pytest.raises(UserError, match="metric 'latency_ms' is measured in ms/batch, not in 'mJ/batch'"):
        replace(energy, metric="latency_ms")


def test_wrong_unit():
    with pytest.raises(UserError, match="metric 'top1' is measured in fraction, not in '%'"):
        replace(RECORD, unit="%")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_value_that_is_no_number(value: float):
    with pytest.raises(ValueError, match=r"top1 of ds_net-1/dynamic is (nan|inf), not a finite number"):
        replace(RECORD, value=value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": None}, "'n' cannot be None"),
        ({"value": "0.9"}, "'value' cannot be '0.9'"),
        ({"value": True}, "'value' cannot be True"),
        ({"details": []}, r"'details' cannot be \[\]"),
        ({"forn": "view"}, "unknown key in a record 'forn'; did you mean 'form'"),
    ],
)
def test_wrong_json(change: dict, message: str):
    with pytest.raises(UserError, match=message):
        parse_record(RECORD.to_json() | change)


def test_incomplete_json():
    raw = RECORD.to_json()
    del raw["split"]
    with pytest.raises(UserError, match="a record lacks its 'split'"):
        parse_record(raw)
    with pytest.raises(UserError, match="a record is an object, not list"):
        parse_record([])
