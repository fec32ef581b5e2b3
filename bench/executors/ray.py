"""All runs as Ray tasks, on this machine or a cluster. Only this file and those named `ray_...` beside it import ray.

Ray carries work to free cores and starts it again when a worker dies. It remembers nothing of ours: the
store says what is left to do, and results go through it, never through the driver's memory.
"""

import atexit
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.provenance import code_digest
from bench.core.registry import load_plugin
from bench.core.spec import RunSpec
from bench.core.store import PHASES, Store
from bench.executors.attempt import FAILED, Outcome, record_failure, sentence, settle
from bench.executors.pace import note_file, noted
from bench.executors.plan import Job, PhaseRunner, Plan, Progress, Summary
from bench.executors.ray_group import check_cores, group_attempt
from bench.executors.ray_session import session
from bench.executors.reach import Place, answers
from bench.executors.sharing import guarded_attempt, node_problem, shared_token

POLL_S = 2.0  # how often to look at postponed runs, and the longest silence towards `progress`
RETRIES = 3  # of a task whose worker process died; Python exceptions are never retried
CANCEL_S = 5.0  # what a cancelled task gets to put its lease back before it is killed
ANSWER_S = 120.0  # how long a machine of the cluster may take to start its first worker
LOST_S = 8.0  # how long it may be silent while runs go on
MEMORY_BYTES = 2 * 2**30  # what a run declares where the caller does not say: a worker with torch holds 0.8 GiB alone


def run_all(
    specs: Iterable[RunSpec],
    store_root: str | Path,
    data_root: str | Path | None,
    progress: Progress | None = None,
    *,
    address: str | None = None,
    plugins: Sequence[str] = (),
    run: PhaseRunner | None = None,
    poll_s: float = POLL_S,
    memory_bytes: int = MEMORY_BYTES,
) -> Summary:
    """Does every phase of `specs` that the store lacks, as tasks of `spec.threads` cores, `memory_bytes` and a GPU
    where a spec asks for one. A profile has all cores of a machine, so nothing else of the cluster runs beside it.

    Joins the cluster at `address`, or the Ray this process is in already, or starts one on this machine that no
    other process can join, and stops it at the end. The other arguments and what is raised are those of
    `serial.run_all`; also UserError when no cluster answers, none of its machines has a GPU that a spec asks for, a
    machine does not see `store_root` or holds other code, or the cluster's head or this machine's daemon is lost. On a
    cluster, `store_root`, `data_root` and `plugins` are paths that every machine sees. What counts as done is what the
    store holds here, not what a worker says.
    """
    root, data = Path(store_root).absolute(), Path(data_root).absolute() if data_root else None
    files = [str(Path(plugin).absolute()) for plugin in plugins]
    for file in files:
        load_plugin(file)
    plan = Plan(specs, Store(root))
    tell = progress or (lambda message, done, total: None)
    if not plan.finished:
        with session(address), shared_token(root) as token:
            check_nodes(root, token)
            _drive(plan, _Tasks(plan, root, data, files, run, token, memory_bytes), tell, poll_s)
    tell(str(plan.summary()), plan.done, plan.total)
    return plan.summary()


def _drive(plan: Plan, tasks: "_Tasks", tell: Progress, poll_s: float) -> None:
    """Starts what may start and settles what ends, until nothing is left."""
    try:
        while not plan.finished:
            while tasks.have_room() and (job := plan.next(time.monotonic())):
                tasks.start(job)
            tell(", ".join(tasks.told()) or "waiting", plan.done, plan.total)
            for job, outcome in tasks.ended(poll_s):
                settle(plan, job, outcome, tell, poll_s)
    finally:
        tasks.cancel()


def check_nodes(root: Path, token: str) -> None:
    """Ask every machine of the cluster, before anything trains.

    Raises:
        UserError: one of them cannot do the driver's runs.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask: Any = ray.remote(num_cpus=0, max_retries=1)(node_problem)
    nodes = list(_alive_nodes().values())
    if len(nodes) == 1 and nodes[0]["NodeID"] == ray.get_runtime_context().get_node_id():
        return  # this machine itself
    code = code_digest()
    asked = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            root, token, code
        ): node["NodeManagerAddress"]
        for node in nodes
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    for reference in silent:
        raise UserError(f"the machine {asked[reference]} of the cluster does not answer within {ANSWER_S:g} s")
    for reference in answered:
        if problem := ray.get(reference):
            raise UserError(f"the machine {asked[reference]} of the cluster cannot do these runs: {problem}")


class _Tasks:
    """The phases that Ray has in hand."""

    # fmt: off
    def __init__(
        self, plan: Plan, root: Path, data: Path | None, plugins: list[str], run: PhaseRunner | None, token: str,
        memory_bytes: int,
    ):
        # fmt: on
        import ray

        self._ray = ray
        self._plan, self._root = plan, root
        self._checked, self._arguments = (token, code_digest()), (root, data, plugins, run)
        remote: Any = ray.remote(max_retries=RETRIES, retry_exceptions=False)
        self._task, self._group = remote(guarded_attempt), remote(group_attempt)
        self._jobs: dict[Any, Job] = {}
        self._nodes, self._lifelines = _alive_nodes(), _lifelines()
        resources = [node["Resources"] for node in self._nodes.values()]
        self._cores = sum(each.get("CPU", 0) for each in resources)
        with_gpu = [each for each in resources if each.get("GPU", 0)]
        self._largest = {  # cores of the largest machine for a device
            device: max((each.get("CPU", 0) for each in machines), default=0)
            for device, machines in (("cpu", resources), ("cuda", with_gpu))
        }
        self._memory = min(memory_bytes, int(max(each.get("memory", 0) for each in resources)))
        wants_gpu = [spec.run_id for spec in plan.specs.values() if spec.device == "cuda"]
        if wants_gpu and not with_gpu:
            raise UserError(f"{wants_gpu[0]} asks for a CUDA device, and Ray knows of no machine with one")
        check_cores(plan.specs.values(), self._cores, self._largest)

    def start(self, job: Job) -> None:
        # Ray gives a task OMP_NUM_THREADS = num_cpus; run_phase sets torch's own threads.
        spec = self._plan.specs[job.run_id]
        gpus = 1 if spec.device == "cuda" else 0
        if spec.processes(job.phase) > 1:  # which have their own cores
            task = self._group.options(name=str(job), num_cpus=0)
        else:
            task = self._task.options(name=str(job), num_cpus=self._cpus(job), num_gpus=gpus, memory=self._memory)
        self._jobs[task.remote(*self._checked, spec, job.phase, *self._arguments)] = job

    def have_room(self) -> bool:
        """Twice the cluster: what waits makes an autoscaler add machines, yet early runs end early."""
        specs = self._plan.specs
        asked = sum(self._cpus(job) * specs[job.run_id].processes(job.phase) for job in self._jobs.values())
        return asked < 2 * self._cores

    def told(self) -> list[str]:
        """Each job that Ray has, with what it says of where it is; those that say nothing come last."""
        token, _ = self._checked
        said = [(noted(note_file(self._root, token, *job)), str(job)) for job in self._jobs.values()]
        return [f"{job}: {text}" if text else job for text, job in sorted(said, key=lambda one: not one[0])]

    def ended(self, timeout_s: float) -> Iterator[tuple[Job, Outcome]]:
        """The jobs that ended within `timeout_s`, with how."""
        if not self._jobs:
            time.sleep(timeout_s)
            return
        done, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=timeout_s)
        self._look_at_the_cluster()
        for reference in done:
            job = self._jobs.pop(reference)
            yield job, self._outcome(reference, job)

    def cancel(self) -> None:
        """Ends every task: first by an interrupt, which lets it release its lease, then by force."""
        pending = list(self._jobs)
        for force in (False, True):
            for reference in pending:
                self._ray.cancel(reference, force=force)
            if pending:
                _, pending = self._ray.wait(pending, num_returns=len(pending), timeout=CANCEL_S)
        self._jobs.clear()

    def _outcome(self, reference: Any, job: Job) -> Outcome:
        from ray.exceptions import RayError

        try:
            return self._ray.get(reference)
        except RayError as error:  # of the system: `attempt` lets none of ours through
            record_failure(self._root, job.run_id, job.phase, error)
            return Outcome(FAILED, sentence(error))

    def _look_at_the_cluster(self) -> None:
        """Learn what is left of the cluster before the outcomes of tasks are believed, which fail when it does.

        Raises:
            UserError: its head or the daemon of this machine is lost. Ray would wait for a minute and end the process.
        """
        if lost := self._head_or_daemon_lost():
            self._jobs.clear()  # nobody is there who could cancel them
            atexit.unregister(self._ray.shutdown)
            raise ClusterLost(
                f"{lost} was lost, which is no failure of a run: what is complete is kept, and the same command goes "
                "on from there once Ray is up again"
            )
        nodes = _alive_nodes()
        for name in self._nodes.keys() - nodes.keys():
            machine = self._nodes[name]["NodeManagerAddress"]
            warnings.warn(
                f"the machine {machine} of the cluster was lost; its runs start again elsewhere", stacklevel=1
            )
        self._nodes = nodes
        self._cores = sum(node["Resources"].get("CPU", 0) for node in nodes.values())

    def _head_or_daemon_lost(self) -> str:
        """What of the cluster does not answer any more, in words; "" where all does."""
        deadline = time.monotonic() + LOST_S
        while True:
            lost = [words for words, place in self._lifelines.items() if not answers(place)]
            if not lost or time.monotonic() > deadline:
                return lost[0] if lost else ""
            time.sleep(0.5)

    def _cpus(self, job: Job) -> float:
        """A task with more threads than any machine has cores gets a whole one: it would wait for ever. So does a
        profile, so that it is alone there."""
        spec = self._plan.specs[job.run_id]
        largest = self._largest[spec.device]
        return largest if job.phase == PHASES[2] else min(spec.threads, largest)


class ClusterLost(UserError):
    """The cluster that the runs were on is gone."""


def _alive_nodes() -> dict[str, dict[str, Any]]:
    """What Ray knows of each machine that is part of the cluster now, by its name there."""
    import ray

    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def _lifelines() -> dict[str, Place]:
    """Where what this driver cannot do without listens, by what it is: a host and a port, or a socket's path."""
    import ray
    from ray._private.worker import global_worker

    node: Any = global_worker.node
    address = ray.get_runtime_context().gcs_address
    host, _, port = address.rpartition(":")
    return {
        f"the head of the Ray cluster at {address}": (host, int(port)),
        "the Ray daemon of this machine (its raylet, killed for memory perhaps)": node.raylet_socket_name,
    }
