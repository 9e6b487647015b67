"""mpmetrics, which has its metrics in shared memory too. It makes a labelled series slowly, so few are used."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from . import serving
from .serving import DURATIONS, NAMES, CallLoop, Loops, empty, empty_durations

SETS = 100


def make_inc() -> tuple[CallLoop, CallLoop]:
    """``inc()`` of a child with labels: a counter without labels is slower, because each call goes through a proxy."""
    from mpmetrics import Counter

    parent = Counter("handle", "Counted by the benchmark.", ["category"], registry=_Registry())
    counter = parent.labels("bench")

    def loop(calls: int) -> None:
        each = counter
        for _ in range(calls):
            each.inc()

    return loop, empty


def make_labels() -> tuple[CallLoop, CallLoop]:
    """``labels(category, metric).inc(1)`` with a hundred label sets in turn."""
    from mpmetrics import Counter

    counter = Counter("labelled", "Counted by the benchmark.", ["category", "metric"], registry=_Registry())
    some = NAMES[:SETS]

    def loop(calls: int) -> None:
        each = counter
        for _ in range(calls // SETS):
            for category, metric in some:
                each.labels(category, metric).inc(1)

    def without(calls: int) -> None:
        for _ in range(calls // SETS):
            for _category, _metric in some:
                pass

    loop(SETS)
    return loop, without


def make_observe() -> tuple[CallLoop, CallLoop]:
    """``observe`` of a child of a histogram with its own buckets."""
    from mpmetrics import Histogram

    parent = Histogram("observed", "Observed by the benchmark.", ["category"], registry=_Registry())
    histogram = parent.labels("bench")
    seconds = [duration / 1000 for duration in DURATIONS]

    def loop(calls: int) -> None:
        each = histogram
        for _ in range(calls // len(seconds)):
            for duration in seconds:
                each.observe(duration)

    return loop, empty_durations


def register(number: int) -> float:
    """Count this many new label sets once; return the ns of one."""
    from mpmetrics import Counter

    counter = Counter("registered", "Counted by the benchmark.", ["category", "metric"], registry=_Registry())
    start = time.perf_counter_ns()
    for category, metric in serving.names(number):
        counter.labels(category, metric).inc(1)
    return (time.perf_counter_ns() - start) / number


def _Registry() -> Any:  # noqa: N802 - it is one
    from prometheus_client import CollectorRegistry

    return CollectorRegistry()


def prepare() -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Make the operations."""
    import mpmetrics  # noqa: F401 - to say at once if it is not there

    loops = Loops({"inc": make_inc, "labels": make_labels, "observe": make_observe})
    return serving.versions_of("mpmetrics"), {"register": register, **loops.operations}


if __name__ == "__main__":
    serving.serve(prepare)
