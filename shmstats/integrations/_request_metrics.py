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
from functools import partial
from typing import Any

from .. import registry as registries
from ..once import lazy_property


def made(
    category: str, kind: str, metric: str, help_: str, labelnames: Sequence[str] | None = None, **more: Any
) -> Any:
    """Declare a metric, and return its handle. The label names are not declared, because a reload may add one.

    Args:
        category: of the metric.
        kind: ``"counter"``, ``"gauge"`` or ``"histogram"``.
        metric: of the category.
        help_: a sentence for people.
        labelnames: of its series; with some, the result is a metric with labels.
        more: as for `shmstats.registry.Registry.declare`.
    """
    registries.stats.declare(category, metric, kind=kind, help=help_, **more)
    return getattr(registries.stats, kind)(category, metric, labelnames=labelnames)


class RequestMetrics:
    """Declares the metrics of requests, and returns their series.

    Args:
        category: of the metrics.
        labelnames: of further labels.
        buckets: upper bounds of the latency histogram in ms; None for exponential ones.

    Attributes:
        exceptions: the counter of unhandled exceptions, by route and type.
        in_progress: the gauge of requests being served.
    """

    def __init__(
        self,
        category: str,
        labelnames: Sequence[str],
        buckets: Sequence[float] | None,
    ) -> None:
        self._made = partial(made, category)
        self._labelnames = tuple(labelnames)
        names = ("method", "route", *labelnames)
        took = "Time from a request's arrival to the end of its response, in seconds."
        size = "Size of the bodies of {}, in bytes."
        raised = "Exceptions that the application did not handle."
        self._requests = self._made("counter", "http_requests", "Finished requests.", ("status", *names))
        self._durations = self._made("histogram", "http_request_duration", took, names, buckets=buckets)
        self._request_sizes, self._response_sizes = (
            self._made("histogram", metric, size.format(what), names, unit="bytes")
            for metric, what in (("http_request_size", "requests"), ("http_response_size", "responses"))
        )
        self.exceptions = self._made("counter", "http_exceptions", raised, ("route", "type"))
        self._total = registries.stats.counter("requests", "total")
        self._success = registries.stats.counter("requests", "success")
        self._failed = registries.stats.counter("requests", "failed")
        self.in_progress = self._made("gauge", "http_requests_in_progress", "Requests being served.", mode="livesum")

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

    @lazy_property
    def websockets(self) -> tuple[Any, Any]:
        """The counter of closed websockets, and the gauge of open ones, which are declared on first use."""
        names = ("route", "status", *self._labelnames)
        return (
            self._made("counter", "http_websockets", "Websockets that were closed.", names),
            self._made("gauge", "http_websockets_in_progress", "Websockets that are open.", mode="livesum"),
        )
