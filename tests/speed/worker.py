"""A candidate in a process of its own, for what only a process can have, such as an unpinned allocator.

The worker imports the step, runs it when asked and answers with its own measured seconds, so it takes its
turn in interleaved rounds like any other candidate. Requests and answers are lines of JSON on a pipe.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from types import TracebackType
from typing import Any, TextIO

import torch

from bench.profilers import allocator
from bench.profilers.latency import sampler


class Worker:
    """Parent's end: starts the process, makes its step ready, and times the step on request.

    `target` ("package.module:function") is called there with `arguments` (JSON values) and returns the step.
    """

    def __init__(self, target: str, arguments: dict[str, Any], *, threads: int, pin: bool):
        command = [sys.executable, "-m", "tests.speed.worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask({"target": target, "arguments": arguments, "threads": threads, "pin": pin})

    def time(self) -> float:
        """Seconds of one call of the step, measured over there."""
        return self._ask({})["seconds"]

    def close(self) -> None:
        """End the process; safe to call twice."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()  # the worker leaves at the end of its input
        if self._process.stdout:
            self._process.stdout.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the process is gone: the missing answer says so below
        answer = self._process.stdout.readline()
        if not answer:
            self.close()
            raise RuntimeError(f"the benchmark worker ended with exit code {self._process.returncode}")
        reply = json.loads(answer)
        if "error" in reply:
            self.close()
            raise RuntimeError(f"the benchmark worker failed:\n{reply['error']}")
        return reply


def serve(requests: TextIO, answers: TextIO) -> None:
    """Worker's end: the first request names the step, every later one runs it once."""
    try:
        time_step = _make(json.loads(requests.readline()))
        _answer(answers, {"ready": True})
        for _ in requests:
            _answer(answers, {"seconds": time_step()})
    except Exception:
        _answer(answers, {"error": traceback.format_exc()})


def _make(request: dict[str, Any]) -> Callable[[], float]:
    if request["pin"]:
        allocator.pin()
    torch.set_num_threads(request["threads"])
    module, _, function = request["target"].partition(":")
    return sampler(getattr(import_module(module), function)(**request["arguments"]))


def _answer(answers: TextIO, body: dict[str, Any]) -> None:
    answers.write(json.dumps(body) + "\n")
    answers.flush()


def main() -> None:
    """Serve on the pipe, with ordinary output moved to the error stream: a step may print."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, pipe)


if __name__ == "__main__":
    main()
