"""What networks cost: multiply-adds, memory, and whatever a meter measures of a call (`meter.py`)."""

from bench.core.registry import Registry

METERS = Registry(
    "meter",
    {
        "latency": "bench.profilers.latency:LATENCY",
    },
    "slicebench.meters",
)
