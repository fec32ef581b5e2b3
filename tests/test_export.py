"""Exported files compute what the view computes and run without this package; those that do not are not kept."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import CPU, Trained, digits, small_net, small_spec

from bench import cli
from bench.core.errors import UserError
from bench.core.store import Store
from bench.export import export_run, load_plain, onnx_file
from bench.export.agreement import batches, compare
from bench.export.job import FORMATS
from bench.export.source import Plain, find
from bench.methods import Run
from bench.points import Prediction, RoutedPoint
from bench.runs.phases import run_phase
from bench.runs.run import open_run

ONNX = importlib.util.find_spec("onnxruntime") is not None and importlib.util.find_spec("onnxscript") is not None
needs_onnx = pytest.mark.skipif(not ONNX, reason="the extra onnx is not installed")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def runs(results) -> dict[str, str]:
    """The run_id of a trained run of each of some methods."""
    ids = {}
    for method in ("ds_net", "us_net", "pruning", "uniform"):
        spec = small_spec(method)
        run_phase(spec, "train", results, None)
        ids[method] = spec.run_id
    child = small_spec("random_gate", Trained(small_spec("ds_net"), results))
    run_phase(child, "train", results, None)
    return ids | {"random_gate": child.run_id}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return next(iter(digits().validation.batches(40, CPU))).x


def opened(run_id: str, results: Path) -> Run:
    return open_run(Store(results, writable=False), run_id, None)


def view_of(run_id: str, choice: str, results: Path) -> Plain:
    source = find(opened(run_id, results), choice)
    assert isinstance(source, Plain)
    return source


def command(*arguments: object) -> int:
    return cli.exit_code([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("method", "choice"),
    [("ds_net", "0"), ("ds_net", "largest"), ("us_net", "width0.25"), ("pruning", "l1@0.5"), ("uniform", "3")],
)
def test_safetensors_are_rebuilt_to_the_same_network(method, choice, runs, results, images, tmp_path):
    out = tmp_path / "net.safetensors"
    done = export_run(runs[method], choice, "safetensors", out, results)
    assert done.agreement.same_top1 == done.agreement.images == 200
    with torch.no_grad():
        wanted = view_of(runs[method], choice, results).reference(images).output
        torch.testing.assert_close(load_plain(out)(images), wanted, rtol=1e-4, atol=1e-5)
    assert list(tmp_path.iterdir()) == [out]


def test_a_choice_that_is_spelled_out_is_that_choice(runs, results):
    run = opened(runs["ds_net"], results)
    for choice in small_net().space.named:
        found = find(run, str(choice))
        assert isinstance(found, Plain)
        assert found.base == choice


@pytest.mark.slow
def test_pt2_runs_any_batch(runs, results, images, tmp_path):
    out = tmp_path / "net.pt2"
    export_run(runs["ds_net"], "1", "pt2", out, results)
    network = torch.export.load(out).module()
    wanted = view_of(runs["ds_net"], "1", results).reference(images).output
    for count in (1, 3, 40):
        torch.testing.assert_close(network(images[:count]), wanted[:count], rtol=1e-4, atol=1e-5)
    assert str(Path(torch.__file__).parent).encode() not in out.read_bytes()


@pytest.mark.slow
@needs_onnx
def test_onnx_runs_in_plain_onnxruntime(runs, results, images, tmp_path):
    import onnxruntime

    out = tmp_path / "net.onnx"
    export_run(runs["pruning"], "l1@0.5", "onnx", out, results)
    session = onnxruntime.InferenceSession(out)
    wanted = view_of(runs["pruning"], "l1@0.5", results).reference(images).output.detach().numpy()
    for count in (1, 3, 40):
        (found,) = session.run(None, {"input": images[:count].contiguous().numpy()})
        np.testing.assert_allclose(found, wanted[:count], rtol=1e-4, atol=1e-5)
    about = json.loads(session.get_modelmeta().custom_metadata_map["slicebench"])
    assert about["run_id"] == runs["pruning"]
    assert str(Path(torch.__file__).parent).encode() not in out.read_bytes()


def prediction(output: torch.Tensor, route: int = 0) -> Prediction:
    return Prediction(output, torch.full((len(output), 1), route))


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (lambda x: prediction(x * 1.01), "differs from the view"),
        (lambda x: prediction(x / 0), "differs from the view by nan"),
        (lambda x: prediction(x[:, :2]), "gives"),
        (lambda x: prediction(x, route=1), "routes 1 of 1 images unlike the view"),
    ],
)
def test_what_does_not_agree_is_refused(found, reason):
    with pytest.raises(UserError, match=reason):
        compare(found, prediction, torch.arange(12.0).reshape(4, 3) * 0 + torch.tensor([0.0, 1.0, 2.0]), "the file")


def test_the_comparison_meets_one_image_and_a_ragged_batch():
    assert [len(x) for x in batches(torch.zeros(200, 1))] == [1, 64, 64, 64, 7]
    assert [len(x) for x in batches(torch.zeros(1, 1))] == [1]


def test_a_file_that_does_not_agree_is_not_kept(runs, results, tmp_path, monkeypatch, capsys):
    out = tmp_path / "net.safetensors"
    out.write_text("what was there before")
    wrong = lambda path: lambda x: (load_plain(path)(x) + 1,)
    monkeypatch.setitem(FORMATS, "safetensors", replace_load(wrong))
    arguments = ["--choice", "0", "--format", "safetensors", "--out", out, "--results", results]
    assert command("export", runs["ds_net"], *arguments) == 2
    assert "differs from the view" in capsys.readouterr().err
    assert out.read_text() == "what was there before"
    assert list(tmp_path.iterdir()) == [out]


def replace_load(load):
    return FORMATS["safetensors"]._replace(load=load)


@needs_onnx
def test_a_routed_file_that_does_not_agree_is_not_kept(runs, results, tmp_path, monkeypatch):
    monkeypatch.setattr(RoutedPoint, "__call__", lambda self, x: prediction(torch.zeros(len(x), 10)))
    monkeypatch.setattr(RoutedPoint, "margins", lambda self, x: torch.full((len(x),), 0.01))
    monkeypatch.setattr("bench.export.job.write_routed", lambda path, *rest: path.touch())
    monkeypatch.setattr("bench.export.job.load_routed", lambda path: lambda x: prediction(torch.zeros(len(x), 10), 1))
    with pytest.raises(UserError, match="unlike the view"):
        export_run(runs["ds_net"], "dynamic1-3", "onnx", tmp_path / "net", results)
    assert list(tmp_path.iterdir()) == []


def test_a_decision_that_is_a_tie_may_fall_either_way():
    x = torch.arange(12.0).reshape(4, 3)
    other = lambda x: Prediction(x * 1.0, (x[:, :1] > 4).long())
    agreed = compare(other, prediction, x, "the file", lambda x: torch.full((len(x),), 1e-5))
    assert (agreed.rerouted, agreed.same_top1, agreed.difference) == (2, 2, 0)
    with pytest.raises(UserError, match="routes 2 of 3 images unlike"):
        compare(other, prediction, x, "the file", lambda x: torch.full((len(x),), 1e-3))


@pytest.mark.parametrize(
    ("method", "choice", "form", "reason"),
    [
        ("ds_net", "99", "pt2", "no sub-network 99"),
        ("ds_net", "largst", "pt2", "did you mean 'largest'"),
        ("ds_net", "dynamic", "pt2", "unknown choice"),  # there are two
        ("ds_net", "0", "onxx", "did you mean 'onnx'"),
        ("ds_net", "dynamic1-3", "safetensors", "holds one network without branches"),
        ("us_net", "3", "pt2", "trained no sub-network uniform3"),
        ("uniform", "1", "pt2", "trained no sub-network uniform1"),
        ("pruning", "largest", "pt2", "trained no sub-network"),
        pytest.param("random_gate", "dynamic1-3", "onnx", "not routed by a network", marks=needs_onnx),
    ],
)
def test_a_mistake_is_one_sentence(method, choice, form, reason, runs, results, tmp_path, capsys):
    out = tmp_path / "net"
    code = command("export", runs[method], "--choice", choice, "--format", form, "--out", out, "--results", results)
    error = capsys.readouterr().err
    assert code == 2
    assert reason in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def refused(run_id: str, results: Path, out: Path, form: str = "safetensors") -> str:
    with pytest.raises(UserError) as error:
        export_run(run_id, "0", form, out, results)
    return str(error.value)


def test_a_run_that_is_not_there_or_not_trained_is_not_trained_now(runs, results, tmp_path):
    spec = replace(small_spec("ds_net"), seed=7)
    assert "there is no run" in refused(spec.run_id, results, tmp_path / "net")
    other = tmp_path / "results"
    Store(other).open_run(spec)
    assert "has not been trained yet" in refused(spec.run_id, other, tmp_path / "net")
    assert [file.name for file in (other / "runs" / spec.run_id).iterdir()] == ["spec.json"]


def test_a_checkpoint_that_is_gone_or_changed_is_not_trained_again(tmp_path):
    spec = small_spec("uniform", options={"choices": [0]})
    run_phase(spec, "train", tmp_path, None)
    (file,) = (tmp_path / "runs" / spec.run_id / "checkpoints").glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "is not the one that" in refused(spec.run_id, tmp_path, tmp_path / "net")
    file.unlink()
    assert "is missing" in refused(spec.run_id, tmp_path, tmp_path / "net")
    assert not file.exists()


def test_a_missing_extra_is_said_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime.*slicebench\[onnx\]"):
        onnx_file.check_extra()
    with pytest.raises(UserError, match="onnx"):
        export_run("nothing-here", "0", "onnx", tmp_path / "net.onnx", tmp_path)


def test_a_place_that_cannot_be_written_is_said_before_any_work(runs, results, tmp_path):
    assert "there is no directory" in refused(runs["ds_net"], results, tmp_path / "nowhere" / "net")
    assert "is a directory" in refused(runs["ds_net"], results, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_file_is_not_a_network(tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a network exported by slicebench"):
        load_plain(tmp_path / "net.safetensors")


def test_a_network_that_an_exporter_refuses_is_one_sentence(runs, results, tmp_path, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("operator nonsense is unknown.\nmany lines follow")

    monkeypatch.setitem(FORMATS, "pt2", FORMATS["pt2"]._replace(write=fails))
    with pytest.raises(UserError, match=r"^uniform0 cannot be exported as pt2: operator nonsense is unknown$"):
        export_run(runs["ds_net"], "0", "pt2", tmp_path / "net.pt2", results)
    assert list(tmp_path.iterdir()) == []
