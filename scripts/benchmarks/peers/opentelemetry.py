"""OpenTelemetry's SDK, without an exporter. It counts in one process only: it shares nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import serving
from .serving import DURATIONS, NAMES, CallLoop, Loops, empty, empty_durations, empty_names


def _meter() -> Any:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    return MeterProvider(metric_readers=[InMemoryMetricReader()]).get_meter("bench")


def make_inc() -> tuple[CallLoop, CallLoop]:
    """``counter.add(1)``."""
    counter = _meter().create_counter("handle")

    def loop(calls: int) -> None:
        each = counter
        for _ in range(calls):
            each.add(1)

    return loop, empty


def make_labels() -> tuple[CallLoop, CallLoop]:
    """``counter.add(1, {...})`` with a thousand sets of attributes in turn."""
    counter = _meter().create_counter("labelled")

    def loop(calls: int) -> None:
        each = counter
        for _ in range(calls // len(NAMES)):
            for category, metric in NAMES:
                each.add(1, {"category": category, "metric": metric})

    loop(len(NAMES))
    return loop, empty_names


def make_observe() -> tuple[CallLoop, CallLoop]:
    """``histogram.record``, with its own buckets."""
    histogram = _meter().create_histogram("observed", unit="ms")

    def loop(calls: int) -> None:
        each = histogram
        for _ in range(calls // len(DURATIONS)):
            for duration in DURATIONS:
                each.record(duration)

    return loop, empty_durations


def prepare() -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Make the operations."""
    import opentelemetry.sdk.metrics  # noqa: F401 - to say at once if it is not there

    loops = Loops({"inc": make_inc, "labels": make_labels, "observe": make_observe})
    return serving.versions_of("opentelemetry-sdk"), {**loops.operations}


if __name__ == "__main__":
    serving.serve(prepare)
