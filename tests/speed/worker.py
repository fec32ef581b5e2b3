"""A candidate in a process of its own, for what only a process can have, such as an unpinned allocator.

The worker imports the step, runs it when asked and answers with its own measured milliseconds, so it takes its turn in
interleaved rounds like any other candidate.
"""

import contextlib
import multiprocessing
import traceback
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import torch

from bench.profilers import allocator
from bench.profilers.latency import LATENCY


class Worker(contextlib.AbstractContextManager):
    """Parent's end: starts the process, makes its step ready, and measures the step on request.

    `target` ("package.module:function") is called there with `arguments` and returns the step.
    """

    def __init__(self, target: str, arguments: dict[str, Any], *, threads: int, pin: bool):
        spawn = multiprocessing.get_context("spawn")  # a fork would inherit this process's allocator
        self._pipe, other_end = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(other_end, target, arguments, threads, pin), daemon=True)
        self._process.start()
        other_end.close()
        self._answer()

    def __call__(self) -> float:
        """Run the step once; returns its milliseconds, measured over there."""
        self._ask(again=True)
        return self._answer()

    def close(self) -> None:
        """End the process; safe to call twice."""
        if not self._pipe.closed:
            self._ask(again=False)
            self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, again: bool) -> None:
        with contextlib.suppress(BrokenPipeError):  # the process is gone, which the missing answer says
            self._pipe.send(again)

    def _answer(self) -> float:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self.close()
            raise RuntimeError(f"the benchmark worker ended with exit code {self._process.exitcode}") from None
        if isinstance(answer, str):
            self.close()
            raise RuntimeError(f"the benchmark worker failed:\n{answer}")
        return answer


def serve(pipe: Connection, target: str, arguments: dict[str, Any], threads: int, pin: bool) -> None:
    """Worker's end: says 0.0 when the step is ready, then its milliseconds as often as asked; a trace if it fails."""
    try:
        if pin:
            allocator.pin()
        torch.set_num_threads(threads)
        module, _, function = target.partition(":")
        sample = LATENCY.sampler(getattr(import_module(module), function)(**arguments), lambda: None)
        pipe.send(0.0)
        while pipe.recv():
            pipe.send(sample())
    except Exception:
        pipe.send(traceback.format_exc())
