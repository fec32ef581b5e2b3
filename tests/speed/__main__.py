"""`make bench`: every benchmark script, each in a fresh process, then all verdicts together.

    python -m tests.speed [SCRIPT ...] [--time-limit S] [--threads N] [--data DIR] [--json FILE]

A missed goal is a result, not a failure: the exit status is 1 only when a script failed.
"""

import json
import pkgutil
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from tests.speed.script import parser

MACHINERY = {"__main__", "harness", "script", "worker"}


def main() -> int:
    """Run the named scripts, or all of them; returns the exit status."""
    options = parser("")
    options.prog = "python -m tests.speed"
    options.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"default: {' '.join(scripts())}")
    arguments = options.parse_args()
    unknown = sorted(set(arguments.scripts) - set(scripts()))
    if unknown:
        options.error(f"no script is named {', '.join(unknown)}; there are {', '.join(scripts())}")
    results, failed = [], []
    for name in arguments.scripts or scripts():
        result = run_script(name, arguments)
        if result is None:
            failed.append(name)
        else:
            results.append(result)
        print(flush=True)
    print(summary(results, failed))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    return 1 if failed else 0


def scripts() -> list[str]:
    """The benchmark scripts beside this file, by name."""
    here = str(Path(__file__).parent)
    return sorted(module.name for module in pkgutil.iter_modules([here]) if module.name not in MACHINERY)


def run_script(name: str, arguments: Namespace) -> dict[str, Any] | None:
    """Run one script in a process of its own; returns its JSON, or None when it failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.json"
        command = [sys.executable, "-m", f"tests.speed.{name}", "--json", str(file)]
        command += ["--time-limit", str(arguments.time_limit), "--threads", str(arguments.threads)]
        command += ["--data", str(arguments.data)] if arguments.data else []
        status = subprocess.run(command, check=False).returncode
        return json.loads(file.read_text()) if status == 0 and file.exists() else None


def summary(results: list[dict[str, Any]], failed: list[str]) -> str:
    """One line a goal, then the counts; scripts that failed are named."""
    lines, counts = [], dict.fromkeys(("met", "missed", "undecided"), 0)
    for result in results:
        for comparison in result["comparisons"]:
            for row in comparison["rows"]:
                if goal := row["goal"]:
                    counts[row["verdict"]] += 1
                    what = f"{result['script']}: {comparison['name']}: {row['name']} {row['ratio']['median']:.3f}"
                    lines.append(f"{row['verdict']:9}  {what}, goal {goal['text']}")
    lines.append(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    lines += [f"failed: {name}" for name in failed]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
