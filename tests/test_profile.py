"""`slicebench profile`: forms, the file it writes, and that a profile which was broken off goes on where it was."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import Interrupted, small_net

from bench.commands.costs import ALL_FORMS, Request, measured
from bench.commands.profile import profile_table
from bench.core.errors import UserError
from bench.export.engines import network_in_engine
from bench.profilers.timing import silent
from bench.slicing.extract import extract

DS = "ds_mobilenet_micro8"
ONNX = importlib.util.find_spec("onnxruntime") is not None and importlib.util.find_spec("onnxscript") is not None
needs_onnx = pytest.mark.skipif(not ONNX, reason="the extra onnx is not installed")
REQUEST = Request(DS, choices="0,1", batch="1,2,3", time_limit=0)


def interrupted_at(batch: int):
    def tell(what: str, done: int, total: int) -> None:
        if what.endswith(f"at batch {batch}"):
            raise Interrupted(what)

    return tell


def partials(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.partial"))


def samples(found: dict, batch: int) -> list[float]:
    return [timed["median_ms"] for row in found["subnetworks"] for timed in row["latency"] if timed["batch"] == batch]


def test_a_profile_that_was_broken_off_goes_on_where_it_was(tmp_path):
    file = tmp_path / "costs.json"
    with pytest.raises(Interrupted):
        measured(REQUEST, file, interrupted_at(3))
    (partial,) = partials(tmp_path)
    kept = json.loads(partial.read_text())
    assert (sorted(kept), file.exists()) == (["1", "2"], False)
    told = []
    found = measured(REQUEST, file, lambda what, *_: told.append(what))
    assert {what for what in told if what.startswith("timing")} == {f"timing {DS} at batch 3"}
    for batch in (1, 2):
        assert samples(found, batch) == [entry["latency"]["median_ms"] for entry in kept[str(batch)]]
    assert json.loads(file.read_text()) == found
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("change", [{"choices": "0"}, {"batch": "1,2"}, {"form": "view"}, {"model": f"{DS[:-1]}32"}])
def test_another_command_does_not_take_it_over(change, tmp_path):
    file = tmp_path / "costs.json"
    with pytest.raises(Interrupted):
        measured(REQUEST, file, interrupted_at(2))
    (partial,) = partials(tmp_path)
    before, told = partial.read_bytes(), []
    measured(replace(REQUEST, **change), file, lambda what, *_: told.append(what))
    assert any(what.endswith("at batch 1") for what in told)
    assert partials(tmp_path) == [partial]
    assert partial.read_bytes() == before


def test_other_versions_or_another_processor_do_not_take_it_over(monkeypatch):
    name = REQUEST.name()
    assert name == replace(REQUEST).name()
    monkeypatch.setattr("bench.core.provenance._cpu_model", lambda: "another")
    monkeypatch.setattr("bench.core.provenance._unchanging", _unchanging_anew())
    assert REQUEST.name() != name


def _unchanging_anew():
    from bench.core import provenance

    return provenance._unchanging.__wrapped__


def test_a_partial_file_that_is_damaged_is_named(tmp_path):
    file = tmp_path / "costs.json"
    partial = tmp_path / f"costs.json.{REQUEST.name()}.partial"
    partial.write_text("{")
    with pytest.raises(UserError, match=r"costs\.json\.\w+\.partial is damaged: not JSON"):
        measured(REQUEST, file, silent)


def test_without_a_file_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measured(REQUEST, None, silent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_profile_that_is_killed_goes_on_where_it_was(tmp_path):
    file = tmp_path / "costs.json"
    command = [sys.executable, "-m", "bench", "profile", DS, "--batch", "1,2048,4096", "--json", str(file)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not partials(tmp_path):
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    (partial,) = partials(tmp_path)
    kept = json.loads(partial.read_text())
    assert "1" in kept
    assert not file.exists()
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(file.read_text())
    assert samples(found, 1) == [entry["latency"]["median_ms"] for entry in kept["1"]]
    assert len(samples(found, 4096)) == len(samples(found, 1)) == 2 * len(found["subnetworks"])
    assert list(tmp_path.iterdir()) == [file]
    assert "latency: median of calls (" in said


@needs_onnx
@pytest.mark.slow
def test_the_form_onnx_is_the_exported_sub_network_beside_the_others(tmp_path):
    request = Request("ds_vit_micro8", choices="routable", time="spread:2", batch="1,3", form="onnx,view,extracted")
    found = measured(replace(request, time_limit=0), tmp_path / "costs.json", silent)
    timed = [row for row in found["subnetworks"] if row["latency"]]
    assert (len(found["subnetworks"]), len(timed)) == (256, 2)
    for row in timed:
        slots = [(entry["form"], entry["batch"], entry["n"]) for entry in row["latency"]]
        assert slots == [(form, batch, 5) for batch in (1, 3) for form in ("view", "extracted", "onnx")]
    table = profile_table(found).splitlines()
    assert "ms onnx b3" in table[1]
    assert "latency: median of calls (5 at batch 1, 5 at batch 3), " in table[-1]


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("model", [DS, "ds_vit_micro8", "ds_resnet_micro8"])
def test_a_session_computes_what_the_view_computes(model):
    net = small_net(model).eval()
    choice, x = net.space.smallest, torch.randn(3, 1, 8, 8)
    plain = extract(net, choice)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    session = network_in_engine(plain, x[:2], threads=1)
    with torch.inference_mode():
        torch.testing.assert_close(session(x), net(x, choice), rtol=1e-4, atol=1e-5)
    assert list(session.parameters()) == []
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())


def test_a_missing_extra_is_said_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"^ONNX needs onnxruntime; install it with pip install 'slicebench\[onnx\]'$"):
        measured(replace(REQUEST, form="view,onnx"), tmp_path / "costs.json", silent)
    measured(replace(REQUEST, form="view,onnx", batch=""), None, silent)  # nothing is timed, so nothing is needed


def test_an_exporter_that_fails_is_one_sentence(monkeypatch):
    def refuses(*_):
        raise ValueError("no such operator.\nmany lines follow")

    monkeypatch.setattr("bench.export.engines.InEngine", refuses)
    with pytest.raises(UserError, match=r"^uniform0 cannot be exported as onnx: no such operator$"):
        measured(replace(REQUEST, form="onnx"), None, silent)


def test_every_form_of_the_command_is_known():
    assert list(ALL_FORMS) == ["view", "extracted", "onnx", "openvino"]
