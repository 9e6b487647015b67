"""prometheus_client's metrics whose label sets are cleared and counted again: alone, or on a block."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

from . import serving

_ROUNDS = 10


def share(directory: str) -> None:
    """Create the metrics on a block."""
    import shmstats
    from shmstats.integrations.prometheus_client import install

    shmstats.init({"path": {"data": directory}})
    install()


@cache
def _touched(kind: str) -> tuple[Any, Callable[[Any], None]]:
    """Return a metric of a kind, or a gauge of a mode, and the operation on each of its children."""
    import prometheus_client

    kinds: dict[str, tuple[Any, Callable[[Any], None]]] = {
        "counter": (prometheus_client.Counter, lambda child: child.inc()),
        "histogram": (prometheus_client.Histogram, lambda child: child.observe(1)),
        "summary": (prometheus_client.Summary, lambda child: child.observe(1)),
    }
    make, touch = kinds.get(kind, (prometheus_client.Gauge, lambda child: child.set(1)))
    mode = {} if kind in kinds else {"multiprocess_mode": kind}
    return make(f"refilled_{kind}", "Counted by the benchmark.", ["who"], registry=None, **mode), touch


def refill(kind: str, number: int) -> float:
    """Clear a metric and count so many label sets once, some times; returns the ns of one time: of this
    thread, for what reads in the background once a second has nothing to do with how often this is done.
    """
    metric, touch = _touched(kind)
    values = [f"who-{i}" for i in range(number)]
    start = time.thread_time_ns()
    for _ in range(_ROUNDS):
        metric.clear()
        for value in values:
            touch(metric.labels(value))
    return (time.thread_time_ns() - start) / _ROUNDS


def prepare() -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Make the operations."""
    return serving.versions_of("prometheus-client"), {"share": share, "refill": refill}


if __name__ == "__main__":
    serving.serve(prepare)
