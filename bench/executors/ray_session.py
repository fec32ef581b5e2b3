"""A connection to Ray: to a cluster, to the Ray that this process is in, or to one of its own, closed to others."""

import contextlib
import functools
import logging
import os
import secrets
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from bench.core.errors import UserError
from bench.core.provenance import usable_cores
from bench.executors.attempt import sentence
from bench.executors.reach import knock
from bench.executors.session import private_folder

OBJECT_STORE_BYTES = 100 * 2**20  # results do not pass through it

# Read by Ray when it is imported and by the daemons it starts.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": "1",  # by default a task killed for memory is tried again for ever
    "RAY_worker_niceness": "0",  # by default workers yield to everything else, which would show in latencies
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # as 0: there Ray is of one machine and takes its loopback address


def _address_of_auto(address: str) -> str:
    """The address that `auto` stands for: $RAY_ADDRESS where it is set, else what Ray finds on this machine. Raises
    UserError where it finds nothing."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return os.environ.get("RAY_ADDRESS") or canonicalize_bootstrap_address(address) or address
    except (ConnectionError, ValueError, OSError) as error:
        raise UserError(f"no Ray cluster can be joined at {address}: {sentence(error)}") from error


@contextlib.contextmanager
def session(address: str | None) -> Iterator[None]:
    """A connection to Ray for the length of the `with` block."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    if address is not None:
        knock(_address_of_auto(address) if address == "auto" else address)
        with _connected(f"no Ray cluster can be joined at {address}", address=address):
            yield
    elif "ray" in sys.modules and sys.modules["ray"].is_initialized():  # by a notebook, a test: theirs to stop
        yield
    else:
        with (
            private_folder() as folder,
            _closed(),
            _connected(
                "a local Ray does not start",
                address="local",  # never one that happens to run on this machine, nor $RAY_ADDRESS
                num_cpus=usable_cores(),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                _temp_dir=str(folder / "ray"),
            ),
        ):
            yield


@contextlib.contextmanager
def _connected(failure: str, **how: Any) -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    import ray

    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **how)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{failure}: {sentence(error)}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's own handler ends the process in the middle of everything
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _closed() -> Iterator[None]:
    """The Ray that is started within the `with` block listens on the loopback interface alone, and has a random token:
    whoever does not hold it cannot join. Its daemons and workers inherit both, and nothing is written to the home
    directory.

    Ray reads them once, when it is imported: where that was before without a token, its session is open to those who
    reach its ports, and a warning says so. RAY_AUTH_MODE=disabled in the environment asks for that.
    """
    closed = {LOOPBACK: "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        closed = {LOOPBACK: "0"}
    elif "ray" in sys.modules and not _token_mode():
        warnings.warn("Ray was imported before RAY_AUTH_MODE=token was set: others can join its session", stacklevel=2)
        closed = {LOOPBACK: "0"}
    before = {key: os.environ.get(key) for key in closed}
    os.environ |= closed
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _token_mode() -> bool:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return is_token_auth_enabled()


@functools.cache
def _token() -> str:
    """One for the life of this process, since Ray reads it once."""
    return secrets.token_hex(32)
