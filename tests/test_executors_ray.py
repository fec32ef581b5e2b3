"""The Ray executor: order, failures, killed workers, held runs, threads; and what a killed driver leaves."""

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_runs import attempts, fake_phase, family, timing
from ray_nodes import end

from bench.core.errors import UserError
from bench.core.lease import FILE, process_started
from bench.core.provenance import code_digest
from bench.core.spec import RunSpec
from bench.core.store import PHASES, Store
from bench.executors import serial, session
from bench.executors.attempt import RAN, Outcome
from bench.executors.plan import Job, Plan
from bench.executors.ray import RETRIES, _drive, run_all
from bench.executors.ray_session import LOOPBACK
from bench.executors.sharing import node_problem, shared_token

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


def _overlap(one: dict, two: dict) -> bool:
    return one["started"] < two["ended"] and two["started"] < one["ended"]


@pytest.mark.usefixtures("ray_session")
def test_everything_runs_once_in_other_processes(tmp_path: Path):
    control, _, parent = specs = family()
    said: list[tuple[str, int, int]] = []
    summary = run_all(specs, tmp_path, "/data", lambda *words: said.append(words), run=fake_phase)
    assert summary.ok
    assert len(summary.ran) == len(attempts(tmp_path)) == 9
    assert os.getpid() not in {pid for _, _, pid in attempts(tmp_path)}
    assert said[-1] == ("9 ran", 9, 9)
    assert timing(tmp_path, control, "train")["started"] >= timing(tmp_path, parent, "eval")["ended"]
    again = run_all(specs, tmp_path, "/data", run=fake_phase)
    assert len(again.complete) == len(attempts(tmp_path)) == 9


@pytest.mark.usefixtures("ray_session")
def test_results_are_those_of_the_serial_executor(tmp_path: Path):
    digests = []
    for name, execute in (("serial", serial.run_all), ("ray", run_all)):
        execute(family(), tmp_path / name, "/data", run=fake_phase)
        store = Store(tmp_path / name)
        digests.append([store.read(run, phase)["digest"] for run in store.runs() for phase in PHASES])
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 2  # two seeds: the fake's results differ


@pytest.mark.usefixtures("ray_session")
def test_runs_share_the_machine_and_profiles_have_it_alone(tmp_path: Path):
    specs = [RunSpec("net", "micro", seed=seed, options={"sleep": 0.5}) for seed in (0, 1)]
    assert run_all(specs, tmp_path, None, run=fake_phase).ok
    trains = [timing(tmp_path, spec, "train") for spec in specs]
    assert _overlap(*trains)
    assert [train["omp"] for train in trains] == ["1", "1"]
    profiles = [timing(tmp_path, spec, "profile") for spec in specs]
    assert not _overlap(*profiles)
    others = [timing(tmp_path, spec, phase) for spec in specs for phase in ("train", "eval")]
    assert min(p["started"] for p in profiles) >= max(o["ended"] for o in others)


@pytest.mark.usefixtures("ray_session")
def test_threads_are_cores(tmp_path: Path):
    """Two threads on two cores leave no room for another run; eight get the whole machine, and do run."""
    specs = [RunSpec("net", "micro", threads=threads, options={"sleep": 0.3}) for threads in (1, 2, 8)]
    assert run_all(specs, tmp_path, None, run=fake_phase).ok
    one, two, eight = (timing(tmp_path, spec, "train") for spec in specs)
    assert not _overlap(one, two)
    assert not _overlap(two, eight)
    assert not _overlap(one, eight)


@pytest.mark.usefixtures("ray_session")
def test_a_failure_is_recorded_and_the_others_go_on(tmp_path: Path):
    bad = RunSpec("net", "micro", options={"fail": "train"})
    child = RunSpec("control", "micro", init_from=bad.run_id)
    good = RunSpec("net", "micro", seed=1)
    summary = run_all([bad, child, good], tmp_path, None, run=fake_phase)
    assert summary.failed == {f"{bad.run_id}/train": "seed 0 cannot do train"}
    assert len(summary.skipped) == 5
    assert summary.ran == tuple(f"{good.run_id}/{phase}" for phase in PHASES)
    assert [line[:2] for line in attempts(tmp_path)].count([bad.run_id, "train"]) == 1  # ours are not retried
    assert Store(tmp_path).read_error(bad.run_id) is not None


@pytest.mark.usefixtures("ray_session")
def test_a_killed_worker_is_replaced_and_its_lease_taken_over(tmp_path: Path):
    spec = RunSpec("net", "micro", options={"kill": "train"})
    summary = run_all([spec], tmp_path, None, run=fake_phase)
    assert summary.ok
    train = [pid for _, phase, pid in attempts(tmp_path) if phase == "train"]
    assert len(train) == len(set(train)) == 2
    assert timing(tmp_path, spec, "train")["pid"] == train[1]
    assert not (Store(tmp_path).path(spec.run_id) / FILE).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_that_always_kills_its_worker_fails(tmp_path: Path):
    bad = RunSpec("net", "micro", options={"kill": "eval", "times": 99})
    good = RunSpec("net", "micro", seed=1)
    summary = run_all([bad, good], tmp_path, None, run=fake_phase)
    assert "WorkerCrashedError" in summary.failed[f"{bad.run_id}/eval"]
    assert len([line for line in attempts(tmp_path) if line[:2] == [bad.run_id, "eval"]]) == RETRIES + 1
    error = Store(tmp_path).read_error(bad.run_id)
    assert error is not None  # no worker lived to write it: the driver did
    assert error["phase"] == "eval"
    assert f"{good.run_id}/profile" in summary.ran


@pytest.mark.usefixtures("ray_session")
def test_a_run_that_is_held_is_waited_for(tmp_path: Path):
    spec = RunSpec("net", "micro")
    said: list[str] = []
    lease = Store(tmp_path).lease(spec.run_id)
    lease.__enter__()
    release = threading.Timer(0.6, lambda: lease.__exit__(None, None, None))
    release.start()
    summary = run_all([spec], tmp_path, None, lambda text, *_: said.append(text), run=fake_phase, poll_s=0.1)
    release.join()
    assert summary.ok
    assert len(attempts(tmp_path)) == 3
    assert any(f"process {os.getpid()}; waiting" in text for text in said)


@pytest.mark.usefixtures("ray_session")
def test_plugins_reach_the_workers(tmp_path: Path):
    plugin = tmp_path / "mine.py"
    plugin.write_text("import os, pathlib\npathlib.Path(__file__).with_name(f'loaded-{os.getpid()}').touch()\n")
    assert run_all([RunSpec("net", "micro")], tmp_path, None, run=fake_phase, plugins=[str(plugin)]).ok
    loaded = {int(file.name.partition("-")[2]) for file in tmp_path.glob("loaded-*")}
    assert {pid for _, _, pid in attempts(tmp_path)} <= loaded


@pytest.mark.usefixtures("ray_session")
def test_a_device_that_no_machine_has(tmp_path: Path):
    import ray

    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has one")
    spec = RunSpec("net", "micro", device="cuda")
    with pytest.raises(UserError, match=f"{spec.run_id} asks for a CUDA device, and Ray knows of no machine"):
        run_all([spec], tmp_path, None, run=fake_phase)
    assert attempts(tmp_path) == []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:6379"])
def test_a_cluster_that_does_not_answer(tmp_path: Path, address: str):
    with pytest.raises(UserError, match=f"no Ray cluster can be joined at {address}: "):
        run_all([RunSpec("net", "micro")], tmp_path, None, run=fake_phase, address=address)


def test_ray_does_not_start_when_all_is_complete(tmp_path: Path):
    spec = RunSpec("net", "micro")
    serial.run_all([spec], tmp_path, None, run=fake_phase)
    code = (
        "import sys\nfrom bench.core.spec import RunSpec\nfrom bench.executors.ray import run_all\n"
        f"print(run_all([RunSpec('net', 'micro')], {str(tmp_path)!r}, None), 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3 complete already False\n"


DRIVER = """
import sys
from fake_runs import fake_phase
from bench.core.spec import RunSpec
from bench.executors.ray import run_all
specs = [RunSpec("net", "micro", seed=seed, options={"sleep": float(sys.argv[2])}) for seed in (0, 1)]
try:
    print(run_all(specs, sys.argv[1], None, run=fake_phase))
except KeyboardInterrupt:
    sys.exit("interrupted")
"""


def heed_ctrl_c() -> None:
    """As in a terminal, also where the tests run in the background: what runs there ignores Ctrl-C, and hands it on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def driver(root: Path, sleep_s: float) -> Iterator[subprocess.Popen]:
    """Another process that runs two specs on a local Ray of its own; left as soon as both hold their leases."""
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"HOME": str(root), "PYTHONPATH": paths}
    command = [sys.executable, "-c", DRIVER, str(root), str(sleep_s)]
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    ) as process:
        deadline = time.monotonic() + 60
        while len(attempts(root)) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
        process.kill()


def _workers_die(root: Path) -> None:
    pids = {pid for _, _, pid in attempts(root)}
    deadline = time.monotonic() + 20
    while any(process_started(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_driver_takes_its_workers_along(tmp_path: Path):
    with driver(tmp_path, sleep_s=60) as process:
        process.kill()
        process.wait()
        _workers_die(tmp_path)  # they may release their leases before they die, or leave them behind
    specs = [RunSpec("net", "micro", seed=seed, options={"sleep": 60.0}) for seed in (0, 1)]
    for spec in specs:  # taken over at once: the leases would last for a minute yet
        with Store(tmp_path).lease(spec.run_id):
            pass


@pytest.mark.slow
def test_ctrl_c_releases_everything(tmp_path: Path):
    with driver(tmp_path, sleep_s=60) as process:
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: daemons are in the group too
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert errors.strip().splitlines()[-1] == "interrupted", (output, errors)
        _workers_die(tmp_path)
    assert list(tmp_path.glob(f"runs/*/{FILE}")) == []
    assert list(tmp_path.glob("runs/*/error.json")) == []


@pytest.mark.slow
def test_a_local_ray_is_started_and_stopped(tmp_path: Path):
    with driver(tmp_path, sleep_s=0.1) as process:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output) == (0, "6 ran\n"), errors
        assert errors == ""
        _workers_die(tmp_path)


SESSION = """
import sys
from bench.executors.ray_session import session
with session(None):
    import ray
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
STRANGER = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR")
print(ray.get(ray.remote(lambda: "executed").remote(), timeout=20))
"""


def without_ray(**more: str) -> dict[str, str]:
    """This process's environment, with none of its settings of Ray."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | more


@pytest.mark.slow
@pytest.mark.parametrize("secret", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}])
def test_a_stranger_who_knows_the_address_cannot_join(tmp_path: Path, secret: dict[str, str]):
    home = tmp_path / "home"
    home.mkdir()
    owner = subprocess.Popen(
        [sys.executable, "-c", SESSION],
        env=without_ray(HOME=str(home)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert owner.stdout is not None
        address = owner.stdout.readline().strip()
        (folder,) = Path(tempfile.gettempdir()).glob(f"slicebench-{owner.pid}-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        stranger = subprocess.run(
            [sys.executable, "-c", STRANGER, address],
            env=without_ray(HOME=str(tmp_path), **{LOOPBACK: "0"}, **secret),  # else it does not even reach the port
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert stranger.returncode != 0
        assert "executed" not in stranger.stdout
    finally:
        owner.communicate(timeout=60)
    assert not folder.exists()
    assert list(home.iterdir()) == []


LISTENING = """
from bench.executors.ray_session import session
with session(None):
    import psutil, ray
    ray.get(ray.remote(lambda: None).remote())
    session = [psutil.Process(), *psutil.Process().children(recursive=True)]
    for process in session:
        for connection in process.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN:
                print(process.name(), connection.laddr.ip)
"""


@pytest.mark.slow
def test_a_local_session_listens_on_the_loopback_interface_alone(tmp_path: Path):
    code = [sys.executable, "-c", LISTENING]
    said = subprocess.run(code, env=without_ray(HOME=str(tmp_path)), capture_output=True, text=True, check=True)
    listening = [line.split() for line in said.stdout.splitlines()]
    assert {"gcs_server", "raylet"} <= {name for name, *_ in listening}
    assert {address for *_, address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_what_dead_drivers_left_is_removed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(session, "LONGEST", 500)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {"dead": f"slicebench-{dead.pid}-abc", "living": f"slicebench-{os.getpid()}-abc", "other": "slicebench-x-y"}
    for name, pid in zip(names.values(), (dead.pid, os.getpid(), "no number"), strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "driver").write_text(f"{pid} {process_started(os.getpid())}")
    with session.private_folder() as folder:
        assert folder.parent == tmp_path
        assert {path.name for path in tmp_path.iterdir()} == {names["living"], names["other"], folder.name}
    assert not folder.exists()


def test_a_temporary_directory_whose_path_is_too_long_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    long = tmp_path / "slurm_jobdir" / "1355700.batch.example" / "job.t0016"
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with session.private_folder() as folder:
        assert folder.parent == Path("/tmp")
    monkeypatch.setattr(session, "LONGEST", 10)
    with pytest.raises(UserError, match="Ray needs a temporary directory that can be written and whose path"):
        session.private_folder().__enter__()


def test_a_worker_that_does_not_see_the_results_or_holds_other_code(tmp_path: Path):
    with shared_token(tmp_path) as token:
        assert node_problem(tmp_path, token, code_digest()) == ""
        assert "does not see the results directory" in node_problem(tmp_path / "elsewhere", token, code_digest())
        assert "another version of slicebench" in node_problem(tmp_path, token, "0" * 64)
        (tmp_path / ".driver.killed.tmp").write_text((tmp_path / token).read_text() + "0")  # started at another time
        with shared_token(tmp_path) as other:
            assert {file.name for file in tmp_path.iterdir()} == {token, other}
    assert list(tmp_path.iterdir()) == []


class Liars:
    """Workers that say they are done at once, on storage that the driver does not see."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def have_room(self) -> bool:
        return True

    def start(self, job: Job) -> None:
        self.jobs.append(job)

    def told(self) -> list[str]:
        return list(map(str, self.jobs))

    def ended(self, timeout_s: float) -> list[tuple[Job, Outcome]]:
        done, self.jobs = self.jobs, []
        return [(job, Outcome(RAN)) for job in done]

    def cancel(self) -> None:
        assert not self.jobs


def test_the_driver_believes_its_own_store(tmp_path: Path):
    plan = Plan([RunSpec("net", "micro")], Store(tmp_path))
    _drive(plan, Liars(), lambda *said: None, 0.1)  # type: ignore[arg-type]
    (why,) = plan.summary().failed.values()
    assert why == f"a worker says that it is done, but {tmp_path} here does not hold it"
    assert len(plan.summary().skipped) == 2


@pytest.mark.slow
def test_a_cluster_without_shared_storage_is_refused_before_anything_trains(tmp_path: Path):
    """Two nodes on this machine, the second one in a mount namespace of its own that hides the results directory."""
    results, script = tmp_path / "results", Path(sys.executable).with_name("ray")
    results.mkdir()
    environment = without_ray(HOME=str(tmp_path), RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    hidden = f"mount -t tmpfs none {results}"
    if subprocess.run(["unshare", "-m", "sh", "-c", hidden], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        node = f"{script} start --num-cpus=1 --object-store-memory=80000000 --temp-dir={short} --disable-usage-stats"
        head = f"{node} --head --port={port} --include-dashboard=false --block"
        quiet: dict[str, Any] = {"env": environment, "stdout": subprocess.DEVNULL, "start_new_session": True}
        nodes = [subprocess.Popen(shlex.split(head), **quiet)]
        try:
            wait_for_port(port)
            joining = f"{hidden} && exec {node} --address=127.0.0.1:{port} --block"
            nodes.append(subprocess.Popen(["unshare", "-m", "sh", "-c", joining], **quiet))
            code = TWO_NODES.format(results=str(results), port=port)
            done = subprocess.run(
                [sys.executable, "-c", code],
                env=environment | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
            assert "refused: the machine " in done.stdout, (done.stdout, done.stderr)
            assert f"it does not see the results directory {results} of the driver" in done.stdout
            assert attempts(results) == []
        finally:
            end(nodes)


TWO_NODES = """
import time, ray
ray.init(address="127.0.0.1:{port}", logging_level="ERROR", log_to_driver=False)
deadline = time.monotonic() + 90
while sum(node["Alive"] for node in ray.nodes()) < 2:
    assert time.monotonic() < deadline
    time.sleep(0.2)
from fake_runs import fake_phase
from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.executors.ray import run_all
try:
    print(run_all([RunSpec("net", "micro")], {results!r}, None, run=fake_phase))
except UserError as error:
    print("refused:", error)
"""


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
