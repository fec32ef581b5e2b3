"""A claim on one run, so that two drivers on one store do not repeat its work.

A lease is `lease.json` in the run's folder, created exclusively, renewed by a heartbeat, gone when the work
ends. One left behind by a dead process of this machine is taken over at once, any other when it expires. The
clocks of machines that share a store must agree to well within the time to live.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.files import remove_leftovers, write_json

TTL_S = 60.0  # time to live without a heartbeat; one is sent every quarter of it
FILE = "lease.json"


class Busy(Exception):
    """Another live process works on this run. Wait and look again."""

    def __init__(self, run_id: str, holder: str):
        super().__init__(run_id, holder)  # both, so that it survives pickling
        self.run_id = run_id
        self.holder = holder

    def __str__(self) -> str:
        return f"{self.run_id} is being worked on by {self.holder}"


@contextlib.contextmanager
def lease(folder: Path, ttl_s: float = TTL_S) -> Iterator[None]:
    """Holds the claim on the run in `folder` (which must exist) for the length of the `with` block.

    Raises Busy when a live process holds it, UserError when the disk refuses. Temporary files of killed
    writers are swept away on entry.
    """
    token = secrets.token_hex(8)
    try:
        _acquire(folder, token, ttl_s)
    except OSError as error:
        raise UserError(f"cannot claim the run in {folder}: {error.strerror or error}") from error
    stop = threading.Event()
    beat = threading.Thread(target=_renew, args=(folder, token, ttl_s, stop), name="lease", daemon=True)
    try:
        remove_leftovers(folder)
        beat.start()
        yield
    finally:
        stop.set()
        if beat.ident is not None:
            beat.join()
        _release(folder, token)


def _acquire(folder: Path, token: str, ttl_s: float) -> None:
    path = folder / FILE
    with _guard(folder):
        if path.exists():
            _refuse_if_live(path, ttl_s)
            path.unlink()
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:  # only where the file system has no locks
            raise Busy(folder.name, "another process") from None
        with open(descriptor, "w") as file:
            json.dump(_claim(token, ttl_s), file)


def _claim(token: str, ttl_s: float) -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": this_host(),
        "pid": pid,
        "started": process_started(pid),
        "token": token,
        "expires": time.time() + ttl_s,
    }


def _refuse_if_live(path: Path, ttl_s: float) -> None:
    """Raises Busy unless the lease has expired or its process is dead."""
    claim = _read(path)
    if claim is None:  # torn: its writer died in the middle, or sits on a file system without locks
        if time.time() < min(_written(path), time.time()) + ttl_s:
            raise Busy(path.parent.name, "another process")
        return
    here = claim["host"] == this_host()
    alive = not here or (claim["started"] is not None and process_started(claim["pid"]) == claim["started"])
    # Whatever it says: a heartbeat writes it anew, so it is not older than its time to live. A clock that is ahead
    # cannot hold a run for longer.
    if alive and time.time() < min(claim["expires"], time.time() + ttl_s, _written(path) + ttl_s):
        raise Busy(path.parent.name, f"process {claim['pid']}" if here else "another machine")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        claim = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError, OverflowError):
        return None
    if not isinstance(claim, dict):
        return None
    kinds = {"host": str, "pid": int, "started": str | None, "token": str, "expires": int | float}
    complete = all(key in claim and isinstance(claim[key], kind) for key, kind in kinds.items())
    return claim if complete and math.isfinite(claim["expires"]) else None


def _written(path: Path) -> float:
    """When a file was written, by the clock of its file system; long ago where it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _renew(folder: Path, token: str, ttl_s: float, stop: threading.Event) -> None:
    """The heartbeat. Ends when the lease is someone else's: this process slept past its expiry."""
    while not stop.wait(ttl_s / 4):
        # A full or absent disk for one beat is not the end of the run.
        with contextlib.suppress(Exception), _guard(folder):
            claim = _read(folder / FILE)
            if claim is not None and claim["token"] != token:
                return
            write_json(folder / FILE, _claim(token, ttl_s))


def _release(folder: Path, token: str) -> None:
    with contextlib.suppress(OSError), _guard(folder):
        claim = _read(folder / FILE)
        if claim is not None and claim["token"] == token:
            (folder / FILE).unlink()


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """One process at a time inspects and changes the lease: without it, two may take over the same dead one.

    The kernel frees the lock when its holder dies.
    """
    with open(folder / ".lease.lock", "ab") as file:
        with contextlib.suppress(OSError):  # no locks here: exclusive creation alone must do
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def this_host() -> str:
    """What process ids are unique within: machine, boot and pid namespace, as a hash (no host name is
    kept).
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def process_started(pid: int) -> str | None:
    """When process `pid` started, in the kernel's own units; None when it is dead (a zombie is dead).

    A pid alone is not enough: the system gives the number of a dead process to a new one.
    """
    if Path("/proc/self/stat").exists():
        try:
            # The command may hold spaces and brackets; the fields after its last bracket are plain.
            after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if after[0] in "ZX" else after[19]
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
