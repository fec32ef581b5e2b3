"""The points of a run by engine and by clock: what is timed, beside what, and what is refused."""

import json
import time

import pytest
import torch
from routed_points import exit_point, pictures, routed_point
from small_runs import small_spec
from torch import nn

from bench import cli
from bench.core.errors import UserError
from bench.core.store import Store
from bench.export.clocks import FULL, Asked, clocked, mean_madds
from bench.export.engines import ENGINES, point_in_engine
from bench.profilers import loadgen
from bench.profilers.meter import Conditions, Served, measure
from bench.runs.phases import run_phase
from bench.runs.run import open_run

IMAGES = torch.zeros(4, 1, 8, 8)


class Slow(nn.Module):
    """Takes a known time for each call."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.calls = seconds, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        assert torch.is_inference_mode_enabled()
        time.sleep(self.seconds)
        return x


@pytest.mark.parametrize(("batch", "seconds"), [(1, 0.004), (4, 0.02)])
def test_loadgen_measures_what_a_call_takes(batch, seconds, monkeypatch):
    pytest.importorskip("mlperf_loadgen")
    monkeypatch.setattr(loadgen, "SECONDS", 0.1)
    networks = {"slow": Slow(seconds), "slower": Slow(3 * seconds)}
    served = {name: Served(network, [IMAGES[:batch]]) for name, network in networks.items()}
    timed = measure(loadgen.meter(batch), served, Conditions(batch=batch, warmup=0, rounds=2))
    for name, network in networks.items():
        assert timed[name].median >= 0.8 * 1e3 * network.seconds
        assert network.calls > 4
    assert timed["slower"].median > 1.5 * timed["slow"].median
    assert timed["slow"].metrics().keys() == {"loadgen_ms", "images_per_s"}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["ds_mobilenet_micro8", "exits"])
@torch.no_grad()
def test_an_engine_runs_a_dynamic_point_as_grouped_inference_does(engine, kind):
    point = exit_point() if kind == "exits" else routed_point(kind)
    network = point_in_engine(point, pictures(2), engine, 1)
    for x in (pictures(16), pictures(1)):
        torch.testing.assert_close(network(x), point(x).output, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[str, Store]:
    store = Store(tmp_path_factory.mktemp("results"))
    spec = small_spec("ds_net", options={"routing": ((0, 3),), "gate_epochs": 1})
    for phase in ("train", "eval"):
        run_phase(spec, phase, store.root, None)
    return spec.run_id, store


@pytest.mark.slow
def test_a_run_is_timed_beside_its_full_network(run, monkeypatch):
    monkeypatch.setattr(loadgen, "SECONDS", 0.05)
    run_id, store = run
    opened = open_run(store, run_id, None)
    rows = clocked(opened, Asked(forms=("extracted", "onnx"), batches=(2,), clocks=("own", "loadgen"), rounds=6))
    slots = [(row["clock"], row["form"], row["point"]) for row in rows]
    assert len(set(slots)) == len(rows) == 2 * 2 * 2
    for row in rows:
        if row["point"] == FULL:
            assert (row["ratio"], row["madds_ratio"]) == (1, 1)
            continue
        assert 0 < row["madds_ratio"] <= 1.01
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
        assert (row["n"], row["batch"]) == (6, 2)


def test_the_cost_of_timed_images_is_the_mean_of_their_claims():
    point = routed_point("ds_mobilenet_micro8")
    batches = [pictures(32)[:16], pictures(32)[16:]]
    with torch.no_grad():
        claimed = point.madds(point(pictures(32)).route)
    assert mean_madds(point, batches) == claimed.double().mean().item()
    assert claimed.unique().numel() > 1


def test_the_command_prints_a_table_and_writes_all_of_it(run, tmp_path, capsys):
    run_id, store = run
    out = tmp_path / "times.json"
    words = ["profile", run_id, "--results", str(store.root), "--form", "view", "--batch", "2", "--rounds", "2"]
    assert cli.exit_code([*words, "--json", str(out)]) == 0
    table = capsys.readouterr().out
    assert FULL in table
    assert "median of 2 rounds" in table
    written = json.loads(out.read_text())
    assert written["run_id"] == run_id
    assert {row["form"] for row in written["rows"]} == {"view"}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--form", "onxx"], "unknown form 'onxx'; did you mean 'onnx'?"),
        (["--clock", "mine"], "unknown clock 'mine'"),
        (["--point", "dynamic0-4"], "did you mean 'dynamic0-3'"),
        (["--scenario", "offline"], "--scenario is of LoadGen; add --clock loadgen"),
        (["--clock", "loadgen", "--scenario", "singlestream", "--batch", "8"], "singlestream asks for one image"),
        (["--batch", "0"], "--batch takes whole numbers from 1"),
        (["--choices", "0"], "--choices says nothing about a run; leave it out"),
        (["--explain"], "--explain says nothing about a run; leave it out"),
    ],
)
def test_a_mistake_is_one_sentence(words, reason, run, capsys):
    run_id, store = run
    assert cli.exit_code(["profile", run_id, "--results", str(store.root), "--form", "view", *words]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--clock", "loadgen"], "--clock is of a trained run, and there is no run ds_mobilenet_micro8 in results"),
        (["--explain", "--form", "onnx"], "--form says nothing about what --explain measures; leave it out"),
        (["--figure", "why.png"], "--figure is drawn of what --explain measures; add it"),
    ],
)
def test_an_option_without_effect_is_refused(words, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.exit_code(["profile", "ds_mobilenet_micro8", *words]) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mlperf_loadgen", None)
    with pytest.raises(UserError, match=r"pip install 'slicebench\[loadgen\]'"):
        Asked(clocks=("loadgen",)).check()
