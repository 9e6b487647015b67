"""The metrics of requests, declared at the first request: neither an import nor a master that forks must attach.

In the category ``http`` unless another is asked for::

    http_requests                counter    method, route, status
    http_request_duration        histogram  method, route            ms, shown in seconds
    http_request_size            histogram  method, route            bytes of the body
    http_response_size           histogram  method, route            bytes of the body
    http_exceptions              counter    route, type
    http_requests_in_progress    gauge      of each worker, summed, gone with the worker
    http_websockets              counter    route, status            only by the ASGI middleware
    http_websockets_in_progress  gauge      likewise

and in the category ``requests``, over all of them, the counters ``total``, ``success`` and ``failed``. The status is
not a label of the histograms: each of their series takes 1 to 2 KiB, and a status would multiply them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..registry import Registry
from ._failures import Failures


class RequestMetrics:
    """Declares the metrics of requests, and returns their series.

    Args:
        stats: the registry to count in.
        category: of the metrics.
        labelnames: of further labels.
        buckets: upper bounds of the latency histogram in ms; None for exponential ones.
        failures: logs failed declarations.

    Attributes:
        in_progress: the gauge of requests being served.
    """

    def __init__(
        self,
        stats: Registry,
        category: str,
        labelnames: Sequence[str],
        buckets: Sequence[float] | None,
        failures: Failures,
    ) -> None:
        self._stats = stats
        self._category = category
        self._labelnames = tuple(labelnames)
        self._failures = failures
        names = ("method", "route", *labelnames)
        self._declare("http_requests", "counter", "Finished requests.")
        took = "Time from a request's arrival to the end of its response, in seconds."
        self._declare("http_request_duration", "histogram", took, buckets=buckets)
        for metric, what in (("http_request_size", "requests"), ("http_response_size", "responses")):
            size = f"Size of the bodies of {what}, in bytes."
            self._declare(metric, "histogram", size, unit="bytes")
        self._declare("http_exceptions", "counter", "Exceptions that the application did not handle.")
        self._requests = stats.counter(category, "http_requests", labelnames=("status", *names))
        self._durations = stats.histogram(category, "http_request_duration", labelnames=names)
        self._request_sizes = stats.histogram(category, "http_request_size", labelnames=names)
        self._response_sizes = stats.histogram(category, "http_response_size", labelnames=names)
        self._exceptions = stats.counter(category, "http_exceptions", labelnames=("route", "type"))
        self._total = stats.counter("requests", "total")
        self._success = stats.counter("requests", "success")
        self._failed = stats.counter("requests", "failed")
        self.in_progress = self._gauge("http_requests_in_progress", "Requests being served.")

    def series(self, status: str, failed: bool, names: tuple[str, ...]) -> tuple[Callable[..., None], ...]:
        """Return the series of a request, as bound methods: three counters, then duration and sizes.

        Args:
            status: three digits.
            failed: whether the request failed.
            names: the values of the labels method, route and further ones.
        """
        return (
            self._requests.labels(status, *names).incr,
            self._total.incr,
            self._failed.incr if failed else self._success.incr,
            self._durations.labels(*names).observe,
            self._request_sizes.labels(*names).observe,
            self._response_sizes.labels(*names).observe,
        )

    def count_exception(self, route: str, kind: str) -> None:
        """Count an exception by its type."""
        self._exceptions.labels(route, kind).incr()

    def websockets(self) -> tuple[Any, Any]:
        """Return the counter of closed websockets, and the gauge of open ones."""
        self._declare("http_websockets", "counter", "Websockets that were closed.")
        names = ("route", "status", *self._labelnames)
        closed = self._stats.counter(self._category, "http_websockets", labelnames=names)
        return closed, self._gauge("http_websockets_in_progress", "Websockets that are open.")

    def _gauge(self, metric: str, help_: str) -> Any:
        self._declare(metric, "gauge", help_, mode="livesum")
        return self._stats.gauge(self._category, metric)

    def _declare(self, metric: str, kind: str, help_: str, **more: Any) -> None:
        """Declare a metric, without its label names, because a reload may add one."""
        self._failures.declare(self._stats, self._category, metric, kind, help_, **more)
