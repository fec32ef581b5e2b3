"""Where a phase is, in words: its steps, how many images it does in a second, and how long it still takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

EVERY_S = 2.0


class Pace:
    """The progress callback of a phase. It speaks every two seconds at most, and of the first and the last step.

    Args:
        say: is told where the phase is. images: of a step; 0 where steps are no batches.
    """

    def __init__(self, say: Callable[[str], None], images: int = 0) -> None:
        self._say, self._images = say, images
        self._label, self._since, self._first, self._said = "", 0.0, 0, 0.0

    def __call__(self, label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if label != self._label:  # speed is that from here on, so that a resumed training has its own
            self._label, self._since, self._first, self._said = label, now, done, 0.0
        if done < total and now - self._said < EVERY_S:
            return
        self._said = now
        words, steps, seconds = [f"{label} {done:,} of {total:,}"], done - self._first, now - self._since
        if steps and seconds:
            if self._images:
                words.append(f"{steps * self._images / seconds:,.0f} images/s")
            words.append(f"{duration((total - done) * seconds / steps)} left")
        self._say(", ".join(words))


def duration(seconds: float) -> str:
    """A time to wait, in the largest unit of which there are two.

    >>> duration(90), duration(7000), duration(90000)
    ('90 s', '117 min', '25.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def note_file(root: Path, token: str, run_id: str, phase: str) -> Path:
    """Where a worker tells a driver of that token where its phase is; it goes when the driver ends."""
    return root / f"{token.removesuffix('.tmp')}.{run_id}.{phase}.tmp"


def note(file: Path) -> Callable[[str], None]:
    """What writes into a file; a disk that refuses keeps no run from going on."""

    def say(text: str) -> None:
        with contextlib.suppress(OSError):
            file.write_text(text)

    return say


def noted(file: Path) -> str:
    """What a worker said last; empty before it said anything."""
    try:
        return file.read_text()
    except OSError:
        return ""
