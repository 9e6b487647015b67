"""prometheus_client in multiprocess mode: its directory is in ``$PROMETHEUS_MULTIPROC_DIR``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from . import serving
from .serving import DURATIONS, NAMES, CallLoop, Loops, empty, empty_durations, empty_names


def _counter(name: str, labels: tuple[str, ...] = ()) -> Any:
    from prometheus_client import Counter

    return Counter(name, "Counted by the benchmark.", labels, registry=None)


def make_inc() -> tuple[CallLoop, CallLoop]:
    """``inc()`` of a counter without labels."""
    counter = _counter("handle")

    def loop(calls: int) -> None:
        each = counter
        for _ in range(calls):
            each.inc()

    return loop, empty


def make_labels() -> tuple[CallLoop, CallLoop]:
    """``labels(category, metric).inc(1)`` with a thousand label sets in turn."""
    counter = _counter("labelled", ("category", "metric"))

    def loop(calls: int) -> None:
        each = counter
        for _ in range(calls // len(NAMES)):
            for category, metric in NAMES:
                each.labels(category, metric).inc(1)

    loop(len(NAMES))
    return loop, empty_names


def make_observe() -> tuple[CallLoop, CallLoop]:
    """``Histogram.observe`` with its default buckets, which are fewer than ours."""
    from prometheus_client import Histogram

    histogram = Histogram("observed", "Observed by the benchmark.", registry=None)
    seconds = [duration / 1000 for duration in DURATIONS]

    def loop(calls: int) -> None:
        each = histogram
        for _ in range(calls // len(seconds)):
            for duration in seconds:
                each.observe(duration)

    return loop, empty_durations


def register(number: int) -> float:
    """Count this many new label sets once; return the ns of one."""
    counter = _counter("registered", ("category", "metric"))
    some = serving.names(number)
    start = time.perf_counter_ns()
    for category, metric in some:
        counter.labels(category, metric).inc(1)
    return (time.perf_counter_ns() - start) / number


class Workers:
    """Workers that count, and the cost of a scrape in this process, which does not count."""

    def __init__(self) -> None:
        self._counter = _counter("populated", ("category", "metric"))
        self._population = serving.Population(self._count)

    def _count(self, some: list[tuple[str, str]]) -> None:
        for category, metric in some:
            self._counter.labels(category, metric).inc(1)

    def scrape(self) -> tuple[float, int]:
        """Make the page as the multiprocess collector does; returns ns, and the number of samples."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        start = time.perf_counter_ns()
        registry = CollectorRegistry()
        collect: Any = MultiProcessCollector
        collect(registry)
        page = generate_latest(registry)
        taken = time.perf_counter_ns() - start
        return taken, sum(line.startswith(b"populated_total{") for line in page.splitlines())

    def size(self) -> int:
        """Return the bytes behind the files."""
        return serving.files_size(os.environ["PROMETHEUS_MULTIPROC_DIR"])

    @property
    def operations(self) -> dict[str, Callable[..., Any]]:
        """The operations of the process with them."""
        return {
            "populate": self._population.add,
            "replace": self._population.replace,
            "finish": self._population.finish,
            "scrape": self.scrape,
            "size": self.size,
        }


def prepare() -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Make the operations."""
    from prometheus_client import values

    assert os.environ["PROMETHEUS_MULTIPROC_DIR"]
    assert values.ValueClass.__name__ == "MmapedValue", "not in multiprocess mode"
    loops = Loops({"inc": make_inc, "labels": make_labels, "observe": make_observe})
    return serving.versions_of("prometheus-client"), {
        "register": register,
        **loops.operations,
        **Workers().operations,
    }


if __name__ == "__main__":
    serving.serve(prepare)
