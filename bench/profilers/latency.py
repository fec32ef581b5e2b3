"""Latency: the wall time of a call, all work that it queued on the device included."""

import time

from bench.profilers.meter import Meter, growth

LATENCY = Meter(
    "latency",
    "ms",
    growth(lambda: 1e3 * time.perf_counter()),
    {"images_per_s": ("images/s", lambda ms, batch: 1e3 * batch / ms)},
)
