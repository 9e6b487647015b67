"""The pages of OpenTelemetry's own Prometheus exporter, which shows only this process.

An instrument has at most 2,000 series by default, so they are spread over several. Times are processor time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from . import serving


class Exporter:
    """A meter, and the registry of prometheus_client from which its reader's pages are made."""

    def __init__(self) -> None:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from opentelemetry.sdk.metrics import MeterProvider
        from prometheus_client import CollectorRegistry

        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=self._registry)
        self._meter = MeterProvider(metric_readers=[reader]).get_meter("bench")

    def fill_plain(self, series: int) -> None:
        """Count series without labels."""
        for category, metric in serving.names(series):
            self._meter.create_counter(f"{category}_{metric}").add(1)

    def fill_labelled(self, series: int) -> None:
        """Count series with three labels, a thousand for each metric."""
        counters: dict[str, Any] = {}
        for number, (metric, labels) in enumerate(serving.label_sets(series)):
            if metric not in counters:
                counters[metric] = self._meter.create_counter(metric)
            counters[metric].add(number, labels)

    def fill_histograms(self, series: int) -> None:
        """Record durations in histograms with its own buckets, one for each route, a thousand for each metric."""
        for number in range(series):
            if not number % 1000:
                histogram = self._meter.create_histogram(f"metric{number // 1000}_duration")
            for duration in serving.route_durations(number):
                histogram.record(duration, {"route": f"/{number}"})

    def scrape(self) -> tuple[float, int]:
        """Make the page as prometheus_client's endpoint does; returns ns, and the number of series."""
        from prometheus_client import generate_latest

        start = time.process_time_ns()
        page = generate_latest(self._registry)
        return time.process_time_ns() - start, page.count(b"_total{") + page.count(b"_count{")


def prepare() -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Make the operations."""
    exporter = Exporter()
    return serving.versions_of("opentelemetry-exporter-prometheus", "opentelemetry-sdk", "prometheus-client"), {
        "plain": exporter.fill_plain,
        "labelled": exporter.fill_labelled,
        "histograms": exporter.fill_histograms,
        "scrape": exporter.scrape,
    }


if __name__ == "__main__":
    serving.serve(prepare)
