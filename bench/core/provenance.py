"""What a number was made with: versions, machine, load. No host name, user name or path."""

import functools
import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "slicebench", "torch", "torchvision", "timm", "numpy", "scikit-learn", "safetensors", "fvcore",
    "torch-pruning", "pillow", "ray",
)  # fmt: skip


def environment(threads: int | None = None) -> dict[str, Any]:
    """The environment of a phase, as JSON values. `threads` is what the run computes with.

    `load` is the 1-minute load average of the machine (processes), None where the system has none.
    """
    return {
        **_unchanging(),
        "cores": usable_cores(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


@functools.cache
def _unchanging() -> dict[str, Any]:
    return {
        "versions": {name: number for name in PACKAGES if (number := _version(name))},
        "python": platform.python_version(),
        "platform": " ".join(filter(None, (platform.system(), platform.machine(), *platform.libc_ver()))),
        "cpu": _cpu_model(),
        "gpus": _gpu_models(),
        "commit": _commit(),
        "dirty": _dirty(),
    }


@functools.cache
def code_digest() -> str:
    """SHA-256 (hex) of the source of `bench` and `baselines` as they lie on this machine: equal where the code is."""
    root = Path(__file__).parents[2]
    files = sorted(file for package in ("bench", "baselines") for file in (root / package).rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def usable_cores() -> int:
    """Cores this process may use: its affinity, and a container's quota (cgroup v2) where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return cores


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu_models() -> list[str]:
    """NVIDIA models as the driver lists them: `core` may not import torch to ask."""
    models = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = file.read_text().splitlines()
        models += [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]
    return models


def _git(*arguments: str) -> str | None:
    """What git says about the checkout this file lies in; None without git or a checkout."""
    here = Path(__file__).parent
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}  # as in hooks
    try:
        run = subprocess.run(
            ["git", "-C", str(here), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            env=clean,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def _commit() -> str | None:
    # An environment inside some other project's checkout must not lend us its commit.
    tracked = _git("ls-files", "--error-unmatch", Path(__file__).name)
    return _git("rev-parse", "HEAD") if tracked is not None else None


def _dirty() -> bool | None:
    """Whether the package's tracked files differ from the commit; None without one."""
    if _commit() is None:
        return None
    return bool(_git("status", "--porcelain", "--untracked-files=no", "--", ":/bench", ":/baselines"))
