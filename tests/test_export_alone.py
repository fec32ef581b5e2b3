"""An exported slice runs in plain onnxruntime without this package and without torch, and names the same classes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import small_spec

from bench.core.spec import DataSpec, RunSpec, TrainSpec
from bench.core.store import Store
from bench.data import load
from bench.export import export_run
from bench.export.source import Plain, find
from bench.runs.phases import run_phase
from bench.runs.run import open_run

ONNX = importlib.util.find_spec("onnxruntime") is not None and importlib.util.find_spec("onnxscript") is not None
DATA = Path(os.environ.get("SLICEBENCH_DATA", "/nowhere"))
CIFAR = any((DATA / folder).is_dir() for folder in ("cifar-10-batches-bin", "cifar-10-batches-py"))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ONNX, reason="the extra onnx is not installed")]

ALONE = """
import importlib.abc
import sys


class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("bench", "baselines", "torch"):
            raise ModuleNotFoundError(f"{name} is not to be imported here", name=name)


sys.meta_path.insert(0, Wall())

import numpy
import onnxruntime

network, images, result = sys.argv[1:]
session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
(output,) = session.run(None, {session.get_inputs()[0].name: numpy.load(images)})
numpy.save(result, output)
"""


def alone(network: Path, images: np.ndarray, folder: Path) -> np.ndarray:
    """What the file makes of images in a process that cannot import this package or torch."""
    np.save(folder / "images.npy", images)
    names = [str(network), "images.npy", "result.npy"]
    subprocess.run([sys.executable, "-I", "-c", ALONE, *names], cwd=folder, check=True)
    return np.load(folder / "result.npy")


def agrees(spec: RunSpec, choice: str, data: Path | None, folder: Path, classes: int) -> None:
    """The exported sub-network and its view on 200 images that are neither trained on nor in the test split; both name
    at least so many classes."""
    run_phase(spec, "train", folder / "results", data)
    export_run(spec.run_id, choice, "onnx", folder / "net.onnx", folder / "results", data)
    splits = load(spec.data, data)
    held = [batch.x for split in (splits.validation, splits.calibration) for batch in split.batches(200)]
    images = torch.cat(held)[:200].contiguous()
    assert len(images) == 200
    source = find(open_run(Store(folder / "results"), spec, data), choice)
    assert isinstance(source, Plain)
    with torch.no_grad():
        wanted = source.reference(images).output
    found = alone(folder / "net.onnx", images.numpy(), folder)
    assert found.argmax(1).tolist() == wanted.argmax(1).tolist()
    assert len(set(found.argmax(1))) >= classes  # a network that names one class for all agrees with any other such
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def trained_on_digits(method: str, lr: float, epochs: int, **fields: str) -> RunSpec:
    """As much training as tells some digits apart."""
    train = TrainSpec(epochs=epochs, batch_size=60, lr=lr, warmup_epochs=2)
    return small_spec(method, data=DataSpec(), train=train, **fields)


@pytest.mark.parametrize(("method", "choice"), [("ds_net", "0"), ("ds_net", "largest"), ("pruning", "l1@0.5")])
def test_a_slice_names_the_same_digits(method, choice, tmp_path):
    agrees(trained_on_digits(method, 0.15, 8), choice, None, tmp_path, classes=5)


@pytest.mark.parametrize(
    ("model", "choice", "lr", "epochs"),
    [("ds_vit_micro8", "0", 0.05, 10), ("ds_resnet_pp_micro8", "largest", 0.1, 14)],
)
def test_a_slice_of_other_families_names_the_same_digits(model, choice, lr, epochs, tmp_path):
    agrees(trained_on_digits("ds_net_pp", lr, epochs, model=model), choice, None, tmp_path, classes=5)


@pytest.mark.skipif(not CIFAR, reason="no CIFAR-10: SLICEBENCH_DATA names no directory with it")
@pytest.mark.parametrize("model", ["ds_mobilenet_micro32", "ds_vit_micro32"])
def test_a_slice_names_the_same_photographs(model, tmp_path):
    method = "ds_net" if model.startswith("ds_mobilenet") else "ds_net_pp"
    options = {"gate_epochs": 1}
    data, train = DataSpec("cifar10", "holdout", 512), TrainSpec(epochs=2, batch_size=64)
    agrees(small_spec(method, model=model, data=data, train=train, options=options), "0", DATA, tmp_path, classes=2)


def test_the_wall_keeps_this_package_out():
    code = ALONE.partition("import numpy")[0] + "import bench"
    refused = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert "bench is not to be imported here" in refused.stderr
