"""Files that are either absent or whole, whatever kills the writer."""

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any, NoReturn

from bench.core.errors import UserError

TEMPORARY = ".*.tmp"  # what a killed writer may leave behind


def write_atomic(path: Path, content: bytes) -> None:
    """Puts `content` at `path` in one step: temporary file in the same folder, fsync, `os.replace`.

    Readers see the old file or the new one, never a part. What is no plain file stays what it is: a link is followed,
    and a device or a pipe is written to. Raises UserError when the disk refuses.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():
        _write_through(path, content)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder and below it. Raises OSError when the disk refuses."""
    for leftover in folder.rglob(TEMPORARY):
        leftover.unlink(missing_ok=True)


def _write_through(path: Path, content: bytes) -> None:
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of readable JSON. NaN and infinities are a ValueError: JSON has neither."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError, naming the file, when it is missing or damaged."""
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise damaged(path, "not a JSON object")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


class Damaged(UserError):
    """A file of the store that cannot be trusted, for a `reason`. Nothing is deleted: that is the user's choice."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} is damaged: {reason}; move it away and run again to make it anew")
        self.reason = reason


def damaged(path: Path, reason: str) -> Damaged:
    """The error for a file of the store that cannot be trusted; returned, so that `raise` stands where it is raised."""
    return Damaged(path, reason)


def sha256(file: Path) -> str:
    """Hex digest of a file. Raises UserError when it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
