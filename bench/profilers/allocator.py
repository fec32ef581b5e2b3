"""Pin the C allocator, so that a latency measures the network and not the page faults of its activations.

glibc serves large blocks with mmap and returns them at every free. A batch-64 network allocates 25 to 50 MB
an activation, so each layer faults fresh pages in again, which alone makes it 1.4 to 2.6 times slower. Two
`mallopt` settings end it for the life of the process, after the few calls in which the heap finds its size.
There is no way back, so pinning is a property of the process and is recorded beside every latency.
"""

import ctypes
import os
import sys

M_MMAP_MAX = -4
M_TRIM_THRESHOLD = -1
NEVER_TRIM = 2**31 - 1

_pinned: bool | None = None  # None until pin() has been tried in this process


def is_glibc() -> bool:
    """Whether this process runs on Linux with the GNU C library, the only one whose `mallopt` we know."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):  # musl does not know the name
        return False


def pin() -> bool:
    """Keep freed blocks in this process, once for its life; returns whether the allocator is pinned.

    Large blocks then come from the heap (`M_MMAP_MAX` = 0), whose free top is kept (`M_TRIM_THRESHOLD`). The
    resident set never shrinks afterwards. On anything but Linux with glibc nothing is done.
    """
    global _pinned
    if _pinned is None:
        _pinned = is_glibc() and _set(M_MMAP_MAX, 0) and _set(M_TRIM_THRESHOLD, NEVER_TRIM)
    return _pinned


def pinned() -> bool:
    """Whether `pin` has succeeded in this process."""
    return bool(_pinned)


def _set(parameter: int, value: int) -> bool:
    return ctypes.CDLL(None).mallopt(parameter, value) == 1
