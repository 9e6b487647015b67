"""Histograms of bounded error of other libraries, none of which is shared by processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import serving
from .serving import DURATIONS, CallLoop, Loops, empty_durations


def _observing(observe: Callable[[float], object], values: list[Any]) -> tuple[CallLoop, CallLoop]:
    def loop(calls: int) -> None:
        each = observe
        for _ in range(calls // len(values)):
            for value in values:
                each(value)

    loop(len(values))
    return loop, empty_durations


def make_exponential() -> tuple[CallLoop, CallLoop]:
    """OpenTelemetry's exponential histogram, of 160 buckets, whose scale follows the values."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View

    views = [View(instrument_name="observed", aggregation=ExponentialBucketHistogramAggregation())]
    meter = MeterProvider(metric_readers=[InMemoryMetricReader()], views=views).get_meter("bench")
    return _observing(meter.create_histogram("observed", unit="ms").record, DURATIONS)


def make_ddsketch() -> tuple[CallLoop, CallLoop]:
    """A DDSketch of 5 %."""
    from ddsketch import DDSketch

    return _observing(DDSketch(0.05).add, DURATIONS)


def make_hdrhistogram() -> tuple[CallLoop, CallLoop]:
    """An HdrHistogram of integers with two digits, from 1 µs to a minute."""
    from hdrh.histogram import HdrHistogram

    return _observing(HdrHistogram(1, 60_000_000, 2).record_value, [round(1000 * ms) for ms in DURATIONS])


def prepare() -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Make the operations."""
    import ddsketch  # noqa: F401 - to say at once if it is not there
    import hdrh  # noqa: F401 - likewise

    loops = Loops({"exponential": make_exponential, "ddsketch": make_ddsketch, "hdrhistogram": make_hdrhistogram})
    return serving.versions_of("opentelemetry-sdk", "ddsketch", "hdrhistogram"), {**loops.operations}


if __name__ == "__main__":
    serving.serve(prepare)
