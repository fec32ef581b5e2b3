"""One ONNX file that routes a batch inside itself: as grouped inference, weights once, in the engine alone."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from routed_points import exit_point, pictures, routed_point
from small_runs import small_net, small_spec
from torch import Tensor, nn

from bench import cli
from bench.core.errors import UserError
from bench.core.store import Store
from bench.data.dataset import Dataset
from bench.export import onnx_file
from bench.export.agreement import CLOSE
from bench.export.proof import executed, multiply_adds
from bench.export.routed import claims, load_routed, write_routed
from bench.export.windows import Window, stored_once, window_in
from bench.points import OperatingPoint
from bench.runs.phases import run_phase
from bench.runs.run import open_run, points_of
from bench.slicing.extract import extract, folded
from bench.slicing.parts import gated_parts

ONNX = importlib.util.find_spec("onnxruntime") is not None and importlib.util.find_spec("onnxscript") is not None
needs_onnx = pytest.mark.skipif(not ONNX, reason="the extra onnx is not installed")
FAMILIES = ["ds_mobilenet_micro8", "ds_resnet_micro8", "ds_vit_micro8"]
SCRIPT = Path(__file__).parent.parent / "docs" / "run_dynamic.py"


class Written(NamedTuple):
    """A point and its file."""

    point: OperatingPoint
    path: Path


@pytest.fixture(scope="module", params=[*FAMILIES, "exits"])
def written(request, tmp_path_factory) -> Written:
    point = exit_point() if request.param == "exits" else routed_point(request.param)
    path = tmp_path_factory.mktemp("routed") / "net.onnx"
    write_routed(path, point, pictures(2), {"point": point.name})
    return Written(point, path)


def agrees(point: OperatingPoint, path: Path, x: Tensor) -> Tensor:
    """Compare the file with grouped inference; returns the route."""
    output, route = load_routed(path)(x)
    wanted = point(x)
    same = (route == wanted.route).all(1)
    assert same.numel() == len(x)
    assert (point.margins(x)[~same] < CLOSE).all()
    torch.testing.assert_close(output[same], wanted.output[same], rtol=1e-5, atol=1e-5)
    return route


@pytest.mark.slow
@needs_onnx
@torch.no_grad()
def test_the_file_is_grouped_inference_at_every_batch_size(written):
    taken = [agrees(written.point, written.path, pictures(64)[-count:]) for count in (1, 7, 64)]
    for column in taken[-1].unbind(1):
        assert len(column.unique()) > 1  # images spread at every decision
    alone = [agrees(written.point, written.path, image[None]) for image in pictures(64)[:7]]
    assert torch.cat(alone).tolist() == agrees(written.point, written.path, pictures(64)[:7]).tolist()


@pytest.mark.slow
@needs_onnx
@torch.no_grad()
def test_the_engine_executes_what_is_claimed_and_only_the_branches_that_images_took(written):
    stated = claims(written.point)
    for x in (pictures(64), pictures(64)[:1], pictures(64)[:7]):
        nodes, route = executed(written.path, x), written.point(x).route
        madds = sum(nodes.values())
        assert madds == written.point.madds(route).sum().item()
        assert madds == sum(stated["-".join(map(str, row))] for row in route.tolist())
        ran = {re.split("[:/]", node)[0] for node, cost in nodes.items() if cost}
        assert ran == {part.name for part in parts_run(written.point, route)}


def parts_run(point: OperatingPoint, route: Tensor) -> list:
    """The parts on the way of any of these images."""
    parts = {part.name: part for part in point.parts()}
    passed = []
    for row in route.tolist():
        part = next(iter(parts.values()))
        while True:
            passed.append(part)
            if part.column is None:
                break
            decision = part.values.index(row[part.column]) if row[part.column] in part.values else 1
            following = part.following[decision]
            if following is None:
                break
            part = parts[following]
    return passed


def stored(path: Path) -> int:
    """Bytes of the weights of a file."""
    import onnx

    return sum(len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer)


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("written", FAMILIES, indirect=True)  # parts of a network with exits share no weights
def test_weights_stand_once(written, tmp_path):
    point = written.point
    widest = extract(point.supernet, point.supernet.space.routed([options[-1] for options in point.routing]))
    onnx_file.write(tmp_path / "widest.onnx", folded(widest), pictures(2), ("output",), {})
    gates = 4 * sum(tensor.numel() for tensor in (*point.gates.parameters(), *point.gates.buffers()))
    assert stored(written.path) <= 1.02 * stored(tmp_path / "widest.onnx") + gates
    if point.supernet.space.prefix_statistics:  # with several gates, what the nodes say weighs more than these networks
        assert written.path.stat().st_size <= 1.02 * (tmp_path / "widest.onnx").stat().st_size + gates


@pytest.mark.slow
@needs_onnx
def test_what_does_not_fit_is_refused_by_the_engine(written):
    import onnxruntime

    session = onnxruntime.InferenceSession(written.path, providers=["CPUExecutionProvider"])
    x = pictures(3).numpy()
    with pytest.raises(Exception, match=r"invalid dimensions for input: input(.|\n)*index: 2 Got: 9 Expected: 8"):
        session.run(None, {"input": np.zeros((3, 1, 9, 8), np.float32)})
    with pytest.raises(Exception, match="Unexpected input data type"):
        session.run(None, {"input": x.astype(np.float64)})


def test_every_route_has_a_part_and_parts_meet_where_grouping_does():
    for model in FAMILIES:
        point = routed_point(model, None)
        parts = point.parts()
        names = [part.name for part in parts]
        assert len(set(names)) == len(names)
        for index, part in enumerate(parts):
            assert all(name is None or names.index(name) > index for name in part.following)
        options = len(point.routing[0])
        ends = [part for part in parts if part.gives == ("output",)]
        assert options <= len(ends) <= options**2
    (only,) = gated_parts(small_net(), nn.ModuleList(), (), 8)[:1]
    assert only.following == (None,)


def test_a_tensor_that_is_part_of_another_is_not_stored():
    whole = np.arange(8 * 6 * 5 * 5, dtype=np.float32).reshape(8, 6, 5, 5)
    assert window_in(whole, whole[:4, :2]) == (0, 0, 0, 0)
    assert window_in(whole, whole[:4, :2, 1:4, 1:4]) == (0, 0, 1, 1)
    assert window_in(whole, whole[1:4]) is None
    assert window_in(whole, whole[:4].astype(np.float64)) is None
    assert window_in(whole[:4], whole) is None
    tensors = {"small": whole[:4, :3], "whole": whole, "again": whole.copy(), "short": whole[:1, :1, 2:3, 2:3]}
    windows = stored_once(tensors)
    assert windows["small"] == windows["small"]._replace(stored="whole", starts=(0, 0, 0, 0))
    assert windows["again"].stored == windows["whole"].stored == "whole"
    assert windows["short"] == Window("short", (0, 0, 0, 0))  # four bytes: to slice them would take more


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "madds"),
    [
        ("Conv", [[2, 8, 5, 5], [16, 4, 3, 3]], [2, 16, 5, 5], 2 * 16 * 25 * 36),
        ("Gemm", [[2, 8], [10, 8], [10]], [2, 10], 160),
        ("MatMul", [[2, 3, 5, 8], [2, 3, 8, 5]], [2, 3, 5, 5], 2 * 3 * 5 * 5 * 8),
        ("Relu", [[2, 8]], [2, 8], 0),
    ],
)
def test_multiply_adds_of_a_node(operator, inputs, output, madds):
    assert multiply_adds(operator, inputs, output) == madds


def test_a_product_that_is_not_counted_is_an_error():
    with pytest.raises(UserError, match="Einsum"):
        multiply_adds("Einsum", [[2, 8], [8, 3]], [2, 3])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[str, Path]:
    """A trained `ds_net` run."""
    results, spec = tmp_path_factory.mktemp("results"), small_spec("ds_net")
    run_phase(spec, "train", results, None)
    return spec.run_id, results


def pixels(x: Tensor, data: Dataset) -> np.ndarray:
    """The images before they were normalised."""
    rule = data.validation.normalisation  # type: ignore[attr-defined]
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (rule.mean, rule.std))
    return (x.numpy() * std + mean) * np.float32(rule.peak)


@pytest.mark.slow
@needs_onnx
def test_the_script_of_the_docs_runs_a_point_without_this_package(run, tmp_path, capsys):
    run_id, results = run
    out = tmp_path / "net.onnx"
    arguments = ["export", run_id, "--point", "dynamic1-3", "--out", str(out), "--results", str(results)]
    assert cli.exit_code(arguments) == 0
    assert "same top-1 on 200 of 200 images" in capsys.readouterr().out
    opened = open_run(Store(results, writable=False), run_id, None)
    x = pictures(40)
    np.save(tmp_path / "images.npy", pixels(x, opened.data))
    command = [sys.executable, "-I", "-X", "importtime", str(SCRIPT), str(out), "images.npy"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if line.startswith("import time")}
    assert "onnxruntime" in imported
    assert not {"torch", "bench", "onnx"} & imported
    (point,) = (point for point in points_of(opened) if point.name == "dynamic1-3")
    with torch.no_grad():
        wanted = point(x)
    lines = [
        f"{opened.data.classes[scores.argmax()]} {route} {madds}"
        for scores, (route,), madds in zip(
            wanted.output, wanted.route.tolist(), point.madds(wanted.route).tolist(), strict=True
        )
    ]
    assert ran.stdout.splitlines() == lines
    assert str(Path(torch.__file__).parent).encode() not in out.read_bytes()
    assert sum(1 for line in SCRIPT.read_text().splitlines() if line.strip()) <= 15


@pytest.mark.parametrize(
    ("point", "form", "reason"),
    [
        ("dynamic1-3", "safetensors", "export dynamic1-3 as onnx or pt2"),
        ("dynamic1-4", "onnx", "did you mean 'dynamic1-3'"),
        ("dynamic1-4", "pt2", "unknown point"),
    ],
)
@needs_onnx
def test_a_mistake_about_a_point_is_one_sentence(point, form, reason, run, tmp_path, capsys):
    run_id, results = run
    arguments = ["--point", point, "--format", form, "--out", str(tmp_path / "net"), "--results", str(results)]
    assert cli.exit_code(["export", run_id, *arguments]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_metadata_state_the_cost_of_every_route():
    point = routed_point("ds_vit_micro8")
    stated = json.loads(json.dumps(claims(point)))
    assert len(stated) == 2 ** len(point.routing)
    assert stated["-".join("0" * len(point.routing))] == min(stated.values())
