"""What a run would cost: counted, and its hours reckoned from a few steps."""

from dataclasses import replace

import pytest
import torch
from small_runs import digits, run_of, small_spec
from voc_folder import make_set

from bench.core.spec import DataSpec, RunSpec, TrainSpec
from bench.methods import method_of
from bench.models import PRESETS
from bench.recipes.detection import detectors
from bench.runs.estimate import _Watch, estimate, estimates

SPEC = small_spec("uniform", options={"choices": [0, 3]}, train=TrainSpec(epochs=50, batch_size=32))


def test_costs_are_those_of_the_largest_network_and_a_whole_epoch():
    found = estimate(SPEC, digits())
    net = PRESETS.get(SPEC.model).build()
    assert found.madds == net.cost(net.space.largest, 8).madds
    assert found.images == 128


def test_hours_grow_with_the_steps():
    """All that is timed is a few steps: a hundred times the epochs take no longer to estimate, and count as such."""
    short, long = (replace(SPEC, train=replace(SPEC.train, epochs=epochs)) for epochs in (10, 10_000))
    one, other = (estimate(spec, digits()).hours for spec in (short, long))
    assert one is not None
    assert other is not None
    assert other > 100 * one


def test_seconds_are_steps_times_the_usual_time_of_one(monkeypatch):
    ends = iter([1.0, 3.0, 5.0, 105.0, 10.0, 10.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(ends))
    watch = _Watch()
    for done in (1, 2, 3, 4):
        watch("supernet", done, 100)
    for done in (1, 2):
        watch("gate0", done, 40)
    assert watch.seconds() == 100 * 2.0 + 40 * 0.5


def test_every_training_of_a_method_is_counted():
    """DS-Net trains a supernet and the gates of each budget; what the rehearsal skips is still in the totals."""
    spec = small_spec("ds_net", options={"routing": [[0, 1], [1, 2]], "gate_epochs": 3})
    found = estimates([spec, replace(spec, seed=1)], None)
    assert len(found) == 2
    first, second = found.values()
    assert first is second  # timed once
    assert first.hours is not None
    assert first.hours > 0


def test_a_control_trains_nothing():
    spec = RunSpec("random_gate", SPEC.model, SPEC.data, SPEC.train, init_from=SPEC.run_id)
    found = estimate(spec, digits())
    assert (found.hours, found.trains) == (None, False)


def test_what_cannot_run_here_is_not_timed():
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    found = estimate(replace(SPEC, device="cuda"), digits())
    assert (found.hours, found.trains) == (None, True)


def test_pretrained_weights_need_not_be_there_to_be_timed():
    hours = estimate(replace(SPEC, weights="timm:resnet50"), digits()).hours
    assert hours is not None
    assert hours > 0


def test_every_detector_that_trains_is_timed(tmp_path):
    make_set(tmp_path, train=16, val=4, test=2)
    data, train = DataSpec("voc", "painted", image_size=64), TrainSpec(epochs=2, batch_size=8, lr=0.01)
    specs = detectors(data, train, {"routing": ((0, 1, 2, 3),), "gate_epochs": 1}, widths=(0.25,), choices=(0,))
    found = estimates(specs, tmp_path)
    hours = {spec.method: found[spec.run_id].hours for spec in specs}
    assert [hours[control] for control in ("random_gate", "fixed_choice", "class_prior")] == [None, None, 0]
    for method in ("ds_net", "us_net", "uniform"):
        assert (hours[method] or 0) > 0, method


def test_a_rehearsal_ends_every_training_and_tells_the_steps_of_the_whole(tmp_path):
    told = []
    run = replace(run_of(SPEC, tmp_path, progress=lambda *said: told.append(said)), rehearsal=2)
    method_of(SPEC.method).train(run)
    steps = 50 * 4
    assert told == [(name, done, steps) for name in ("uniform0", "uniform3") for done in (1, 2)]


def test_processes_that_train_together_share_the_time(monkeypatch):
    monkeypatch.setattr("bench.runs.estimate._seconds", lambda *_: 7200.0)
    assert estimate(SPEC, digits()).hours == 2.0
    assert estimate(replace(SPEC, train=replace(SPEC.train, workers=4)), digits()).hours == 0.5


def test_a_batch_in_many_parts_can_be_timed():
    """Each part of the few images that are timed still has images to mix."""
    train = TrainSpec(epochs=2, batch_size=32, accumulate=8, mixup=0.5)
    spec = small_spec("uniform", options={"choices": [3]}, train=train)
    assert estimate(spec, digits()).hours
