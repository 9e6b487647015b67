"""What the WSGI and ASGI middlewares and the Flask extension share: how a request is recorded.

A middleware calls `RequestRecorder.enter` when a request comes in, and `RequestRecorder.finish` once when it is over.
What that adds to is looked up once for each (method, route, status) and kept, as bound methods of handles.
Nothing that a client sends becomes a label value, and nothing here raises into the application, once it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from .. import registry as registries
from ..block.keys import MAX_TEXT_BYTES, check_text
from ..checks import RESERVED, check_buckets
from ..frozen import NamedTuple
from ._arguments import check_own_labels, split_excluded
from ._failures import Failures
from ._request_metrics import RequestMetrics
from ._serving import Serving

log = logging.getLogger("shmstats")

#: The route of a request that no route was found for.
UNMATCHED = "<unmatched>"

#: The route of the library's own endpoints, which are not recorded.
OWN = "<shmstats>"

#: What stands for a method that is not known, or a status that is not a number of three digits.
OTHER = "OTHER"

#: The methods of RFC 9110 and RFC 5789, by name: others come from clients, who may send any text.
METHODS = {
    method: method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
}

#: The status of a request whose client went away before the response was complete, as nginx logs it.
CLIENT_LEFT = "499"

#: What a WSGI server answers where it has nothing from the application.
SERVER_ERROR = "500"

#: The key in a WSGI environment or ASGI scope that marks a request as one that is recorded already.
RECORDED = "shmstats.recorded"

#: The key under which an application may say what the route of a request is.
ROUTE = "shmstats.route"

#: So many answers without a route, and none with one, are no accident.
_WITHOUT_ROUTE = 100

#: A size that was not found out.
UNKNOWN = -1

#: What a client may say that its body has, at most, to be believed: one wrong claim would spoil the sum for good.
_CREDIBLE = 2**40

#: Combinations of labels that are kept; where there are more, all are dropped and looked up again.
_KEPT = 10_000


class Cut(NamedTuple):
    """The status of a response that was begun well and then cut short by an error."""

    status: str | int


class RequestRecorder:
    """Records requests.

    Args:
        category: of the metrics.
        labelnames: of further labels.
        label_values: gives their values for what a framework calls a request.
        exclude: routes and paths that are not recorded; ``*`` at the end of one stands for anything.
        buckets: upper bounds of the latency histogram in ms; None for exponential ones.
        registry: where to count; None for the default registry.

    Attributes:
        enter: to be called when a request comes in.
        leave: undoes `enter`; `finish` does it too.
        serving: notes what is being served.
        paths: paths that are not recorded.
        prefixes: what paths that are not recorded begin with.
        series: what requests add to, by method, route, status and further labels; nothing for those not recorded.
        no_labels: values of the further labels where they are not known.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is not allowed.
    """

    def __init__(
        self,
        *,
        category: str = "http",
        labelnames: Sequence[str] = (),
        label_values: Callable[[Any], Sequence[str]] | None = None,
        exclude: Iterable[str] = (),
        buckets: Sequence[float] | None = None,
        registry: registries.Registry | None = None,
    ) -> None:
        if check_text("category", category) in RESERVED:
            raise ValueError(f"category must not be {category!r}, which is reserved")
        self._category = category
        self._labelnames = check_own_labels(labelnames, label_values)
        self._label_values = label_values
        self.no_labels = ("",) * len(self._labelnames)
        self._buckets = None if buckets is None else check_buckets(buckets)
        self._registry = registry
        self.serving = Serving(registry or registries.stats)
        self.paths, self.prefixes = split_excluded(exclude)
        self.enter: Callable[[], None] = self._first_enter
        self.leave: Callable[[], None] = _nothing
        self.enter_websocket: Callable[[], None] = self._first_enter_websocket
        self.leave_websocket: Callable[[], None] = _nothing
        self._metrics: RequestMetrics | None = None
        self._failures = Failures()
        self.series: dict[tuple[str, str, Any, tuple[str, ...]], tuple[Callable[..., None], ...]] = {}
        self._without_route = 0
        self._knows_routes = False

    def finish(
        self,
        method: str,
        route: str,
        status: str | int | Cut,
        labels: tuple[str, ...],
        began: float,
        received: int,
        sent: int,
    ) -> None:
        """Record a request that is over.

        Args:
            method: as the client sent it.
            route: a template, or `UNMATCHED`.
            status: a number, or a text that begins with it.
            labels: values of the further labels.
            began: what ``perf_counter`` said when it came in.
            received: bytes of the request's body, or `UNKNOWN`.
            sent: bytes of the response's body, or `UNKNOWN`.
        """
        try:
            key = (METHODS.get(method, OTHER), route, status, labels)
            series = self.series.get(key)
            if series is None:
                series = self._find_series(*key)
            if series:
                count, count_all, count_outcome, duration, request_size, response_size = series
                count()
                count_all()
                count_outcome()
                duration((perf_counter() - began) * 1000.0)
                if received >= 0:
                    request_size(received)
                if sent >= 0:
                    response_size(sent)
        except Exception as error:
            self.tell("a request was not recorded", error)
        try:
            self.leave()
        except Exception as error:
            self.tell("requests in progress are not counted", error)

    def count_exception(self, route: str, error: BaseException) -> None:
        """Count an exception that the application did not handle, by its type."""
        try:
            if not self._is_excluded(route):
                self._prepare().count_exception(_label(route), _label(_type_name(error)))
        except Exception as failure:
            self.tell("an exception was not counted", failure)

    def finish_websocket(self, route: str, status: str | int, labels: tuple[str, ...]) -> None:
        """Record a websocket that is closed; the status is what its handshake was answered with."""
        try:
            self.leave_websocket()
            if not self._is_excluded(route):
                self._websockets.labels(_label(route), status_label(status), *labels).incr()
        except Exception as error:
            self.tell("a websocket was not recorded", error)

    def labels_of(self, request: Any) -> tuple[str, ...]:
        """Ask for the values of the further labels; empty ones where that fails."""
        if self._label_values is None:
            return ()
        try:
            values = self._label_values(request)
            if isinstance(values, str) or len(values) != len(self._labelnames):
                raise ValueError(
                    f"label_values must return {len(self._labelnames)} texts"
                    f" ({', '.join(self._labelnames)}), not {values!r:.80}"
                )
            return tuple([_label(value) for value in values])
        except Exception as error:
            self.tell("the values of further labels could not be computed", error)
            return self.no_labels

    def close(self) -> None:
        """Leave the block; the next request attaches it again."""
        try:
            (self._registry or registries.stats).close()
        except Exception as error:
            self.tell("the block could not be left", error)

    def tell(self, what: str, error: BaseException) -> None:
        """Log something that failed, once."""
        self._failures.tell(what, error)

    # The first request ------------------------------------------------------------------------

    def _first_enter(self) -> None:
        self._prepare()
        self.enter()

    def _first_enter_websocket(self) -> None:
        self._websockets, gauge = self._prepare().websockets()
        self.leave_websocket = gauge.decr
        self.enter_websocket = gauge.incr
        gauge.incr()

    def _prepare(self) -> RequestMetrics:
        if self._metrics is None:
            stats = self._registry or registries.stats
            self._metrics = RequestMetrics(stats, self._category, self._labelnames, self._buckets, self._failures)
            self.enter, self.leave = self._metrics.in_progress.incr, self._metrics.in_progress.decr
        return self._metrics

    def _find_series(
        self, method: str, route: str, status: str | int | Cut, labels: tuple[str, ...]
    ) -> tuple[Callable[..., None], ...]:
        """Return what requests like this one add to, nothing for one that is excluded; keep it."""
        series: tuple[Callable[..., None], ...] = ()
        if not self._is_excluded(route):
            text = status_label(status)
            failed = isinstance(status, Cut) or text >= "400"
            series = self._prepare().series(text, failed, (method, _label(route), *labels))
            if route != UNMATCHED:
                self._knows_routes = True
            elif not failed and not self._knows_routes and self._without_route < _WITHOUT_ROUTE:
                series = (partial(self._count_without_route, series[0]), *series[1:])
        if len(self.series) >= _KEPT:
            self.series.clear()
        self.series[method, route, status, labels] = series
        return series

    def _count_without_route(self, count: Callable[[], None]) -> None:
        """Count an answer that has no route; where none has one, say once what to do."""
        count()
        self._without_route += 1
        if self._knows_routes or self._without_route >= _WITHOUT_ROUTE:
            self.series.clear()  # from now on they are counted directly
            if not self._knows_routes:
                log.warning(
                    "none of the first %d answers below 400 has a route: all are counted as %s. Tell the middleware the"
                    " route, by its argument route= or as %r in the environment or scope; docs/web-frameworks.md of the"
                    " package has the lines for your framework",
                    self._without_route,
                    UNMATCHED,
                    ROUTE,
                )

    def excludes(self, path: str) -> bool:
        """Tell whether requests to a path are not recorded."""
        return path in self.paths or path.startswith(self.prefixes)

    def _is_excluded(self, route: str) -> bool:
        return route == OWN or self.excludes(route)


def declared_size(text: str) -> int:
    """Return what a header Content-Length says; `UNKNOWN` where it says nothing that can be believed."""
    try:
        size = int(text)
    except ValueError:
        return UNKNOWN
    return size if 0 <= size <= _CREDIBLE else UNKNOWN


def status_label(status: str | int | Cut) -> str:
    """Return the three digits of a status; `OTHER`, which is greater than any of them, where there are none."""
    text = str(status.status if isinstance(status, Cut) else status)[:3]
    return text if len(text) == 3 and text.isascii() and text.isdigit() else OTHER


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _label(value: object) -> str:
    """Text that can be a label value: an application may give any, and it is to be counted all the same."""
    text = str(value).replace("\0", "\ufffd").encode(errors="replace")
    return text[:MAX_TEXT_BYTES].decode(errors="ignore")


def _nothing() -> None:
    """What there is to undo before the first request."""
