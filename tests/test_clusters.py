"""Clusters on this machine: what a driver says of a lost head, daemon or machine, and of an address that is none.

Each is made of daemons of its own, which the test ends; the runs are made up (`fake_runs.py`).
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from fake_runs import attempts, fake_phase

from bench.core.errors import UserError
from bench.core.lease import process_started
from bench.core.spec import RunSpec
from bench.core.store import PHASES, Store
from bench.executors import serial
from bench.executors.ray import run_all
from bench.profilers import exclusive

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]
DOCS = Path(__file__).parents[1] / "docs"
RAY = Path(sys.executable).with_name("ray")
SPECS = [RunSpec("net", "micro", seed=seed, options={"sleep": 4.0}) for seed in range(3)]
TIMEOUT_S = 240.0


def environment(home: Path) -> dict[str, str]:
    """This process's, with none of its settings of Ray."""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    quick = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
    return kept | quick | {"HOME": str(home), "RAY_AUTH_MODE": "disabled", "PYTHONPATH": paths}


class Cluster:
    """Daemons on this machine: the first node is the head."""

    def __init__(self, home: Path, folder: str) -> None:
        self.home, self.folder = home, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.nodes: list[subprocess.Popen] = []
        self.add(f"--head --port={self.port} --include-dashboard=false --temp-dir={folder}")
        until(lambda: listens(self.port))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add(self, how: str) -> None:
        words = f"{RAY} start --num-cpus=1 --object-store-memory=80000000 --disable-usage-stats --block {how}"
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        self.nodes.append(subprocess.Popen(shlex.split(words), env=environment(self.home), **quiet))

    def join(self) -> None:
        """One more node, seen by the head."""
        self.add(f"--address={self.address}")
        until(lambda: len(self.daemons("raylet", self.nodes[-1])) == 1)

    def daemons(self, name: str, node: subprocess.Popen) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [each for each in psutil.Process(node.pid).children(recursive=True) if each.name() == name]
        return []

    def close(self) -> None:
        for node in reversed(self.nodes):
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
        for process in psutil.process_iter(["cmdline"]):  # daemons lead sessions of their own
            if self.folder in " ".join(process.info["cmdline"] or []):
                with suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Cluster(tmp_path, folder)
        try:
            yield made
        finally:
            made.close()


def until(condition: Any) -> Any:
    deadline = time.monotonic() + TIMEOUT_S
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


def listens(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


DRIVER = """
import json, sys
from fake_runs import fake_phase
from bench import cli
from bench.core.errors import UserError
from bench.core.settings import parse_spec
from bench.executors.ray import run_all
import warnings
warnings.formatwarning = cli.formatted
specs = [parse_spec(raw) for raw in json.loads(sys.argv[3])]
try:
    print(run_all(specs, sys.argv[1], None, run=fake_phase, address=sys.argv[2], memory_bytes=10**8, poll_s=0.5))
except UserError as error:
    sys.exit(f"slicebench: {error}")
"""


@contextmanager
def driver(cluster: Cluster, results: Path) -> Iterator[subprocess.Popen]:
    specs = json.dumps([spec.to_json() for spec in SPECS])
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(results), cluster.address, specs],
        env=environment(cluster.home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def digests(results: Path) -> list[str]:
    store = Store(results)
    return [store.read(spec.run_id, phase)["digest"] for spec in SPECS for phase in PHASES]


def same_as_serial(results: Path, tmp_path: Path) -> bool:
    """A rerun here goes on from what is complete and ends with what nobody interrupted."""
    assert serial.run_all(SPECS, results, None, run=fake_phase).ok
    assert serial.run_all(SPECS, tmp_path / "whole", None, run=fake_phase).ok
    leases = [*results.glob("runs/*/lease.json"), *results.glob("runs/*/error.json"), *results.glob(".driver*")]
    return digests(results) == digests(tmp_path / "whole") and not leases


@pytest.mark.slow
@pytest.mark.parametrize(
    ("daemon", "sentence"),
    [
        ("gcs_server", "slicebench: the head of the Ray cluster at "),
        ("raylet", "slicebench: the "),  # Ray ends a head whose raylet is gone, and either may be seen first
    ],
)
def test_a_lost_head_or_daemon_is_a_sentence_and_not_a_failed_run(cluster, tmp_path, daemon, sentence):
    results = tmp_path / "results"
    with driver(cluster, results) as process:
        until(lambda: len(attempts(results)) >= 2 or process.poll() is not None)
        (lost,) = cluster.daemons(daemon, cluster.nodes[0])
        lost.kill()
        began = time.monotonic()
        output, errors = process.communicate(timeout=TIMEOUT_S)
    said = [line for line in errors.splitlines() if line.startswith("slicebench: ")]
    assert (process.returncode, len(said)) == (1, 1), (output, errors)
    assert said[0].startswith(sentence)
    assert "was lost, which is no failure of a run: what is complete is kept" in said[0]
    assert time.monotonic() - began < 60  # after that Ray ends the process by itself
    assert list(results.glob("runs/*/error.json")) == []
    cluster.close()
    for pid in {pid for _, _, pid in attempts(results)}:
        until(lambda pid=pid: process_started(pid) is None)
    assert same_as_serial(results, tmp_path)


@pytest.mark.slow
def test_the_runs_of_a_lost_machine_start_again_elsewhere(cluster, tmp_path):
    results = tmp_path / "results"
    cluster.join()
    with driver(cluster, results) as process:
        until(lambda: len({pid for _, _, pid in attempts(results)}) >= 2 or process.poll() is not None)
        os.killpg(cluster.nodes[1].pid, signal.SIGKILL)
        for each in cluster.daemons("raylet", cluster.nodes[1]):
            each.kill()
        output, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output.splitlines()[-1]) == (0, "9 ran"), errors  # after what Ray says of it
    lost = [line for line in errors.splitlines() if line.startswith("slicebench: ")]
    assert len(lost) == 1, errors
    assert "of the cluster was lost; its runs start again elsewhere" in lost[0]
    assert same_as_serial(results, tmp_path)


# Addresses.


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Something that is no Ray, at a port."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.sendall(answer)
                    connection.recv(64)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_a_port_of_something_else_is_one_sentence_in_seconds(tmp_path: Path, answer: bytes):
    began = time.monotonic()
    with answering(answer) as port, pytest.raises(UserError, match=f"127.0.0.1:{port}: something else listens there"):
        run_all([RunSpec("net", "micro")], tmp_path, None, run=fake_phase, address=f"127.0.0.1:{port}")
    assert time.monotonic() - began < 30


def test_auto_with_a_dead_address_is_one_sentence_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    began = time.monotonic()
    with pytest.raises(UserError, match=f"no Ray cluster can be joined at 127.0.0.1:{port}: "):
        run_all([RunSpec("net", "micro")], tmp_path, None, run=fake_phase, address="auto")
    assert time.monotonic() - began < 30


# One profile at a time on a machine.


HOLDER = """
import sys
from pathlib import Path
from bench.profilers.exclusive import alone_on_this_machine
with alone_on_this_machine(folder=Path(sys.argv[1])) as alone:
    print(alone, flush=True)
    sys.stdin.read()
"""


def test_profiles_of_two_drivers_on_one_machine_exclude_each_other(tmp_path: Path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    with exclusive.alone_on_this_machine(0.2, tmp_path) as alone:
        assert not alone
    other.kill()  # the kernel frees what it held
    other.communicate()
    with exclusive.alone_on_this_machine(5.0, tmp_path) as alone:
        assert alone
    assert (tmp_path / exclusive.NAME).stat().st_mode & 0o777 == 0o644
    assert (tmp_path / exclusive.NAME).read_bytes() == b""


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path):
    (tmp_path / exclusive.NAME).symlink_to(tmp_path / "elsewhere")
    with exclusive.alone_on_this_machine(5.0, tmp_path) as alone:
        assert not alone
    assert not (tmp_path / "elsewhere").exists()


# What the documentation shows.


def test_the_files_of_the_documentation_are_what_they_are_for():
    launcher = yaml.safe_load((DOCS / "examples" / "ray_cluster.yaml").read_text())
    assert {"cluster_name", "provider", "auth", "available_node_types", "head_start_ray_commands"} <= launcher.keys()
    assert launcher["head_node_type"] in launcher["available_node_types"]
    kuberay = list(yaml.safe_load_all((DOCS / "examples" / "kuberay.yaml").read_text()))
    kinds = {body["kind"]: body for body in kuberay}
    cluster = kinds["RayCluster"]["spec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    claims = {claim["metadata"]["name"] for claim in kuberay if claim["kind"] == "PersistentVolumeClaim"}
    for group in groups:
        pod = group["template"]["spec"]
        assert {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]} <= claims
        mounts = {mount["mountPath"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert "/shared" in mounts  # results and data lie at one place on all machines
    for file in DOCS.glob("examples/*.yaml"):
        assert "not run here" in file.read_text().splitlines()[0]
    assert "RAY_AUTH_MODE=token" in (DOCS / "clusters.md").read_text()
