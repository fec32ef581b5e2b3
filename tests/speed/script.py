"""What every benchmark script shares: its options, the printed conditions, and the JSON file.

A script is a generator of comparisons, wrapped once:

    def run(options: Options) -> Iterator[Comparison]:
        yield compare("batch 1", {...}, "static", {"view": at_most(1.05)}, options.time_limit_s)

    main = script("slicing", run)
"""

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.core.provenance import environment
from bench.profilers import allocator
from tests.speed.harness import Comparison


@dataclass(frozen=True)
class Options:
    """What a script is told: seconds of rounds for a comparison, threads, where real data lies (or None)."""

    time_limit_s: float
    threads: int
    data: Path | None


def script(name: str, run: Callable[[Options], Iterable[Comparison]]) -> Callable[[Sequence[str] | None], None]:
    """The `main` of a benchmark script: pins the allocator, sets the threads, runs, prints and writes.

    The JSON file holds {"script", "conditions", "comparisons": [Comparison.to_json()...]}.
    """

    def main(arguments: Sequence[str] | None = None) -> None:
        settings = parser(name).parse_args(arguments)
        allocator.pin()
        torch.set_num_threads(settings.threads)
        stated = conditions()
        print(f"# {name}")
        print("\n".join(f"{key}: {_words(value)}" for key, value in stated.items()), flush=True)
        comparisons = []
        for comparison in run(Options(settings.time_limit, settings.threads, settings.data)):
            print("\n" + comparison.table(), flush=True)
            comparisons.append(comparison.to_json())
        if settings.json:
            body = {"script": name, "conditions": stated, "comparisons": comparisons}
            settings.json.write_text(json.dumps(body, indent=1, allow_nan=False) + "\n")

    return main


def parser(name: str) -> argparse.ArgumentParser:
    """The options of a script, also understood by `python -m tests.speed`, which passes them on."""
    options = argparse.ArgumentParser(prog=f"python -m tests.speed.{name}")
    options.add_argument("--time-limit", type=float, default=60.0, help="seconds of rounds for each comparison")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument(
        "--data", type=Path, default=os.environ.get("SLICEBENCH_DATA") or None, help="default: $SLICEBENCH_DATA"
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    return options


def conditions() -> dict[str, Any]:
    """Under what the numbers of this process are measured; JSON values."""
    return environment(torch.get_num_threads()) | {"allocator_pinned": allocator.pinned()}


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
