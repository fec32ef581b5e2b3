"""The clock of a third party: MLPerf's load generator decides when to ask and keeps the time. Needs extra `loadgen`.

One sample of these meters is a whole run of LoadGen in performance mode, so candidates are interleaved in rounds as by
our own clock, and compared within a round. Scenarios are MLPerf's: "single stream" asks for one image as soon as the
last one is answered, and its figure is the median latency; "offline" asks for many images at once, which are run batch
by batch, and its figure is the time of a batch at the rate that it states. Which image comes next is the caller's:
batches in turn. Nothing here is an MLPerf submission: their rules ask for runs of minutes and their own networks.

Reddi et al. 2020, MLPerf inference benchmark, arXiv 1911.02549.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.core.errors import UserError
from bench.profilers.meter import Meter, Sample, Step, Synchronise

SECONDS = 0.5  # of one run; a round holds one of each candidate
QUERIES = 20  # at least, of a run that asks for single images
LINE = ":::MLLOG "


def check_extra() -> None:
    """Raise `UserError` where LoadGen is not installed."""
    try:
        import mlperf_loadgen  # noqa: F401
    except ImportError as error:
        raise UserError("LoadGen needs mlcommons-loadgen; install it with pip install 'slicebench[loadgen]'") from error


def single_stream(step: Step, wait: Synchronise) -> Sample:
    """Samples of the median latency of a call, in ms, of a network that runs one image a call."""
    settings = _settings("SingleStream")
    settings.min_query_count = QUERIES

    def sample() -> float:
        settings.single_stream_expected_latency_ns = max(1, int(1e9 * _quickest(step, wait) / 2))
        return (
            _run(settings, 1, lambda samples: _answered(samples, step, wait))["result_50.00_percentile_latency_ns"]
            / 1e6
        )

    return sample


def offline(batch: int) -> Callable[[Step, Synchronise], Sample]:
    """Samples of the time of a batch, in ms, at the rate at which batches of that size are worked off."""

    def sampler(step: Step, wait: Synchronise) -> Sample:
        settings = _settings("Offline")

        def sample() -> float:
            settings.offline_expected_qps = max(1.0, 1.1 * batch / _quickest(step, wait))

            def issue(samples: list[Any]) -> None:
                for start in range(0, len(samples), batch):
                    _answered(samples[start : start + batch], step, wait)

            return 1e3 * batch / _run(settings, batch, issue)["result_samples_per_second"]

        return sample

    return sampler


def meter(batch: int) -> Meter:
    """LoadGen's clock for calls of `batch` images: single stream for one image, offline for more.

    Raises:
        UserError: LoadGen is not installed.
    """
    check_extra()
    sampler = single_stream if batch == 1 else offline(batch)
    return Meter("loadgen", "ms", sampler, {"images_per_s": ("images/s", lambda ms, images: 1e3 * images / ms)})


def _settings(scenario: str) -> Any:
    import mlperf_loadgen

    settings = mlperf_loadgen.TestSettings()
    settings.scenario = getattr(mlperf_loadgen.TestScenario, scenario)
    settings.mode = mlperf_loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(1e3 * SECONDS)
    return settings


def _quickest(step: Step, wait: Synchronise) -> float:
    """Seconds of the quicker of two calls. LoadGen draws its queries beforehand, as many as this says it will need."""
    times = []
    for _ in range(2):
        wait()
        start = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)


def _answered(samples: list[Any], step: Step, wait: Synchronise) -> None:
    import mlperf_loadgen

    step()
    wait()
    mlperf_loadgen.QuerySamplesComplete([mlperf_loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in samples])


def _run(settings: Any, images: int, issue: Callable[[list[Any]], None]) -> dict[str, Any]:
    """What LoadGen says of one run, by its own keys. `images`: of the library that it believes to draw from.

    Raises:
        UserError: LoadGen gave no result.
    """
    import mlperf_loadgen

    with TemporaryDirectory() as folder:
        output = mlperf_loadgen.LogOutputSettings()
        output.outdir, output.copy_summary_to_stdout = folder, False
        logs = mlperf_loadgen.LogSettings()
        logs.log_output, logs.enable_trace = output, False
        system = mlperf_loadgen.ConstructSUT(issue, lambda: None)
        library = mlperf_loadgen.ConstructQSL(images, images, lambda indices: None, lambda indices: None)
        try:
            mlperf_loadgen.StartTestWithLogSettings(system, library, settings, logs)
        finally:
            mlperf_loadgen.DestroyQSL(library)
            mlperf_loadgen.DestroySUT(system)
        lines = (Path(folder) / "mlperf_log_detail.txt").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line.removeprefix(LINE)) for line in lines if line.startswith(LINE)]
    results = {entry["key"]: entry["value"] for entry in entries if entry["key"].startswith("result_")}
    if not results:
        raise UserError("LoadGen gave no result")
    return results
