"""A run by two processes: under torchrun, and as a Ray Train group on two nodes; one of them killed in an epoch."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray_nodes import end, start_node
from test_executors_ray import without_ray

from bench.core.store import Store

pytestmark = pytest.mark.slow

RECIPE = '''
import os, signal
from dataclasses import replace
from pathlib import Path
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.runs import phases

opened = phases.open_run
marker = Path(__file__).with_name("died")


def open_run(*arguments, **how):
    """As it is, with a checkpoint after every step. Rank 1 ends in its sixth step, once, if it is to."""

    def progress(label, done, total):
        if done == 6 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    run = opened(*arguments, **how, checkpoint_s=0.0)
    return replace(run, progress=progress) if run.group.rank == 1 and os.environ.get("ONE_DIES") else run


phases.open_run = open_run


def recipe(seeds=(0,)):
    train, profile = TrainSpec(epochs=2, batch_size=60, lr=0.15, workers=2), ProfileSpec((1,), rounds=1, warmup=0)
    common = {"data": DataSpec(train_images=240), "train": train, "profile": profile}
    return [RunSpec("ds_net", "ds_mobilenet_micro8", options={"gate_epochs": 1}, **common)]
'''


def checkpoints(folder: Path, start: Sequence[str], *how: str, **environment: str) -> dict[str, bytes]:
    """What `slicebench run` of the recipe left."""
    (folder / "group.py").write_text(RECIPE)
    command = [*start, "run", "group.py:recipe", "--device", "cpu", "--results", "results", *how]
    done = subprocess.run(
        command,
        cwd=folder,
        env=without_ray(PYTHONPATH=os.pathsep.join(sys.path), OMP_NUM_THREADS="1", HOME=str(folder), **environment),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "phases: 3 ran" in done.stdout
    assert (folder / "died").exists() == ("ONE_DIES" in environment)
    (run_id,) = Store(folder / "results").runs()
    return {file.name: file.read_bytes() for file in (folder / "results/runs" / run_id / "checkpoints").iterdir()}


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "bench")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The checkpoints of a group that nothing happened to."""
    return checkpoints(tmp_path_factory.mktemp("whole"), TORCHRUN, "--executor", "serial")


def test_the_same_command_goes_on_after_a_killed_process_under_torchrun(whole, tmp_path):
    with pytest.raises(AssertionError, match="SIGKILL"):
        checkpoints(tmp_path, TORCHRUN, "--executor", "serial", ONE_DIES="1")
    assert list(tmp_path.glob("results/runs/*/checkpoints/supernet.partial.safetensors"))
    assert checkpoints(tmp_path, TORCHRUN, "--executor", "serial", ONE_DIES="1") == whole


@contextmanager
def two_nodes(environment: dict[str, str]) -> Iterator[str]:
    """The address of a Ray cluster of two nodes of one core each, on this machine."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        script = Path(sys.executable).with_name("ray")
        node = f"{script} start --num-cpus=1 --object-store-memory=80000000 --temp-dir={short} --disable-usage-stats"
        nodes: list[subprocess.Popen] = []
        try:
            for part in (f"--head --port={port} --include-dashboard=false", f"--address=127.0.0.1:{port}"):
                log = Path(short, f"node{len(nodes)}.log")
                nodes.append(start_node(f"{node} {part} --block", log, environment))
            yield f"127.0.0.1:{port}"
        finally:
            end(nodes)


def test_a_ray_train_group_on_two_nodes_goes_on_after_a_killed_process(whole, tmp_path):
    pytest.importorskip("ray.train", exc_type=ImportError)
    ray = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "ONE_DIES": "1"}
    paths = os.pathsep.join(sys.path)
    with two_nodes(without_ray(HOME=str(tmp_path), PYTHONPATH=paths, OMP_NUM_THREADS="1", **ray)) as address:
        left = checkpoints(tmp_path, (sys.executable, "-m", "bench"), "--address", address, **ray)
    assert left == whole
    assert list(tmp_path.glob("results/.group*")) == []
