"""A folder for a local Ray that nobody else may enter, and what remains of one whose driver was killed."""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.core.errors import UserError
from bench.core.lease import process_started

PREFIX = "slicebench-"
LONGEST = 38
"""Characters of the folder's path: Ray's sockets lie 69 deeper, and the system takes paths of 107."""


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder of mode 0700 below the system's temporary directory (below /tmp where its path is too long for
    sockets), removed at the end. What dead drivers of this user left there is removed first.

    Raises:
        UserError: there is no place for it.
    """
    parent = _parent()
    _sweep(parent)
    name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(3)}"
    folder = parent / name
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise UserError(f"Ray needs a temporary directory, and {parent} cannot be written: {error.strerror}") from error
    try:
        (folder / "driver").write_text(f"{os.getpid()} {process_started(os.getpid())}")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _parent() -> Path:
    places = [Path(tempfile.gettempdir()), Path("/tmp")]
    longest = len(f"/{PREFIX}{2**22}-{'0' * 6}")
    fitting = [place for place in places if len(str(place)) + longest <= LONGEST and os.access(place, os.W_OK)]
    if not fitting:
        raise UserError(
            f"Ray needs a temporary directory that can be written and whose path has at most {LONGEST - longest} "
            f"characters, unlike {places[0]}; set TMPDIR to one, or use --executor serial"
        )
    return fitting[0]


def _sweep(parent: Path) -> None:
    """Remove the folders of this user whose driver is dead."""
    for folder in parent.glob(f"{PREFIX}*-*"):
        with contextlib.suppress(OSError, ValueError):
            about = folder.lstat()
            pid, started = (folder / "driver").read_text().split()
            ours = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid()
            if ours and process_started(int(pid)) != started:
                shutil.rmtree(folder, ignore_errors=True)
