"""One profile at a time on a machine, whoever starts it: a lock that the kernel frees when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

NAME = "slicebench-profile.lock"
PATIENCE_S = 600.0
"""After so long a profile is taken all the same: the load is measured, and its record says that others were there."""
POLL_S = 0.5


@contextlib.contextmanager
def alone_on_this_machine(patience_s: float = PATIENCE_S, folder: Path | None = None) -> Iterator[bool]:
    """Wait until no other process of this machine is in such a block; yields whether that came about in time.

    The lock is a file in `folder`, by default the system's temporary directory, that all users share: nothing is
    written to it, so it need not be writable for them, and a link in its place is not followed.
    """
    descriptor = _opened((folder or Path(tempfile.gettempdir())) / NAME)
    if descriptor is None:
        yield False
        return
    try:
        deadline = time.monotonic() + patience_s
        while not (taken := _taken(descriptor)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        yield taken
    finally:
        os.close(descriptor)  # which frees the lock


def _opened(file: Path) -> int | None:
    """The lock file, made where it is not there; None where something else stands in its place."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    for more in (0, os.O_CREAT | os.O_EXCL, 0):  # the system may refuse O_CREAT for a file of another user
        with contextlib.suppress(OSError):
            descriptor = os.open(file, flags | more, 0o644)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
    return None


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
