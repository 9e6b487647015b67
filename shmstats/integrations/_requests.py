"""The common part of the WSGI and ASGI middlewares and the Flask extension: how a request is recorded.

A middleware calls `RequestRecorder.enter` when a request comes in, and `RequestRecorder.finish` once at its end. The
series are looked up once for each (method, route, status) and kept, as bound methods of handles. No text from a client
becomes a label value, and nothing here raises into the running application.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Generic, TypeVar

from .. import registry as registries
from ..checks import check_buckets, check_category, check_label_names, label_value
from ..frozen import NamedTuple
from ..once import Failures, lazy_property
from ._request_metrics import RequestMetrics
from ._serving import Serving

log = logging.getLogger("shmstats")

_Application = TypeVar("_Application")
_Request = TypeVar("_Request")

#: The route of a request without a known route.
UNMATCHED = "<unmatched>"

#: The route of the package's own endpoints, which are not recorded.
OWN = "<shmstats>"

#: The label of an unknown method, or of a status that is not a number of three digits.
OTHER = "OTHER"

#: The methods of RFC 9110 and RFC 5789, by name: others come from clients, who may send any text.
METHODS = {
    method: method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
}

#: The status of a request whose client went away before the response was complete, as nginx logs it.
CLIENT_LEFT = "499"

#: The status that a WSGI server answers if it has nothing from the application.
SERVER_ERROR = "500"

#: The key in a WSGI environment or ASGI scope of a request that is already being recorded.
RECORDED = "shmstats.recorded"

#: The key for the route of a request, which an application may set.
ROUTE = "shmstats.route"

#: Label names that the metrics already have.
_OWN_LABELS = ("method", "route", "status", "type")

#: This many answers without a route, and none with one, cause a warning.
_WITHOUT_ROUTE = 100

#: An unknown size.
UNKNOWN = -1

#: Largest size of a body that is believed: one wrong Content-Length would spoil the sum for good.
_CREDIBLE = 2**40

#: Most combinations of labels that are kept; beyond that, all are dropped and looked up again.
_KEPT = 10_000


class Cut(NamedTuple):
    """The status of a response that began successfully and was cut short by an error."""

    status: str | int


class RequestRecorder:
    """Records requests.

    Args:
        category: of the metrics.
        labelnames: of further labels.
        label_values: returns their values for a request (in the framework's form).
        exclude: routes and paths that are not recorded; a ``*`` at the end matches anything.
        buckets: upper bounds of the latency histogram in ms; None for exponential ones.

    Attributes:
        tell: logs a failure, once.
        serving: shows the requests being served.
        paths: paths that are not recorded.
        prefixes: prefixes of paths that are not recorded.
        series: the series of requests, by method, route, status and further labels; empty for those not recorded.
        no_labels: values of the further labels if they are unknown.

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
    ) -> None:
        self._category = check_category(category)
        self._labelnames = _own_labels(labelnames, label_values)
        self._label_values = label_values
        self.no_labels = ("",) * len(self._labelnames)
        self._buckets = None if buckets is None else check_buckets(buckets)
        self.serving = Serving()
        self.paths, self.prefixes = _split_excluded(exclude)
        self.tell = Failures().tell
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
        """Record a finished request.

        Args:
            method: as the client sent it.
            route: a template, or `UNMATCHED`.
            status: a number, or a text that begins with it.
            labels: values of the further labels.
            began: the result of ``perf_counter`` when it came in.
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
                self._metrics.exceptions.labels(route, _type_name(error)).incr()
        except Exception as failure:
            self.tell("an exception was not counted", failure)

    def begin(self, method: str, path: str, is_websocket: bool = False) -> int:
        """Count a request or a websocket as in progress, and show it; returns the argument for ``serving.end``."""
        try:
            if is_websocket:
                self._metrics.websockets[1].incr()
            else:
                self.enter()
        except Exception as error:
            self.tell("requests in progress are not counted", error)
        return self.serving.note(method, path)

    def finish_websocket(self, route: str, status: str | int, labels: tuple[str, ...]) -> None:
        """Record a closed websocket, with the status of the answer to its handshake."""
        try:
            closed, are_open = self._metrics.websockets
            are_open.decr()
            if not self._is_excluded(route):
                closed.labels(route, status_label(status), *labels).incr()
        except Exception as error:
            self.tell("a websocket was not recorded", error)

    def labels_of(self, request: Any) -> tuple[str, ...]:
        """Return the values of the further labels; empty ones if their function fails."""
        if self._label_values is None:
            return ()
        try:
            values = self._label_values(request)
            if isinstance(values, str) or len(values) != len(self._labelnames):
                raise ValueError(
                    f"label_values must return {len(self._labelnames)} texts"
                    f" ({', '.join(self._labelnames)}), not {values!r:.80}"
                )
            return tuple(map(label_value, values))
        except Exception as error:
            self.tell("the values of further labels could not be computed", error)
            return self.no_labels

    def close(self) -> None:
        """Leave the block; the next request attaches it again."""
        try:
            registries.stats.close()
        except Exception as error:
            self.tell("the block could not be left", error)

    # The first request ------------------------------------------------------------------------

    @lazy_property
    def _metrics(self) -> RequestMetrics:
        return RequestMetrics(self._category, self._labelnames, self._buckets)

    @lazy_property
    def enter(self) -> Callable[[], None]:
        """Must be called when a request comes in."""
        return self._metrics.in_progress.incr  # type: ignore[no-any-return]

    @lazy_property
    def leave(self) -> Callable[[], None]:
        """Undoes `enter`; `finish` does it too."""
        return self._metrics.in_progress.decr  # type: ignore[no-any-return]

    def _find_series(
        self, method: str, route: str, status: str | int | Cut, labels: tuple[str, ...]
    ) -> tuple[Callable[..., None], ...]:
        """Return and keep the series of such a request, empty for an excluded one."""
        series: tuple[Callable[..., None], ...] = ()
        if not self._is_excluded(route):
            text = status_label(status)
            failed = isinstance(status, Cut) or text >= "400"
            series = self._metrics.series(text, failed, (method, route, *labels))
            if route != UNMATCHED:
                self._knows_routes = True
            elif not failed and not self._knows_routes and self._without_route < _WITHOUT_ROUTE:
                series = (partial(self._count_without_route, series[0]), *series[1:])
        if len(self.series) >= _KEPT:
            self.series.clear()
        self.series[method, route, status, labels] = series
        return series

    def _count_without_route(self, count: Callable[[], None]) -> None:
        """Count an answer without a route; if no answer has one, log once what to do."""
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


class Middleware(Generic[_Application, _Request]):
    """Records the requests to an application, each identified by its environment (WSGI) or scope (ASGI).

    Args:
        app: the application.
        route: returns the route of a request, after the application has returned its response; None for the default
            described at the head of the module.
        labelnames: names of further labels.
        label_values: returns their values for a request, in that order.
        exclude: paths and routes that are not recorded; a ``*`` at the end matches anything.
        category: of the metrics.
        buckets: upper bounds of the latency histogram in ms; None for exponential ones.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is not allowed.
    """

    #: Finds the route that a framework has left; "" for none.
    _find_route: Callable[..., str]

    def __init__(
        self,
        app: _Application,
        *,
        route: Callable[[_Request], str] | None = None,
        labelnames: Sequence[str] = (),
        label_values: Callable[[_Request], Sequence[str]] | None = None,
        exclude: Iterable[str] = (),
        category: str = "http",
        buckets: Sequence[float] | None = None,
    ) -> None:
        _check_callable("app", app)
        if route is not None:
            _check_callable("route", route)
        self._app = app
        self._route = route
        self.requests = RequestRecorder(
            category=category, labelnames=labelnames, label_values=label_values, exclude=exclude, buckets=buckets
        )
        #: Series of requests whose labels need no function calls, as in `RequestRecorder.series`.
        self.plain_series = self.requests.series if route is None and not self.requests.no_labels else None

    def route_of(self, request: _Request, *clues: Any) -> str:
        """Return the route of a request.

        Args:
            request: its environment or scope, as the application has left it.
            clues: the further arguments of the function in `._routes` for it.
        """
        try:
            route = self._find_route(request, *clues) if self._route is None else self._route(request)
            return route or UNMATCHED
        except Exception as error:
            self.requests.tell("the route of a request could not be determined", error)
            return UNMATCHED


def _check_callable(what: str, value: object) -> None:
    """Check an argument that will be called.

    Raises:
        TypeError: it is not callable.
    """
    if not callable(value):
        raise TypeError(f"{what} must be callable, not {type(value).__name__} ({value!r:.80})")


def _split_excluded(exclude: Iterable[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Split the excluded texts into whole texts and prefixes.

    Raises:
        TypeError: it is not a sequence of str.
    """
    if isinstance(exclude, str) or not isinstance(exclude, Iterable):
        raise TypeError(f"exclude must be a sequence of str, not {type(exclude).__name__} ({exclude!r:.80})")
    whole, beginnings = set(), set()
    for text in exclude:
        if not isinstance(text, str):
            raise TypeError(f"exclude must be of str, not {type(text).__name__} ({text!r:.80})")
        if text.endswith("*"):
            beginnings.add(text.removesuffix("*"))
        else:
            whole.add(text)
    return frozenset(whole), tuple(sorted(beginnings))


def _own_labels(labelnames: Sequence[str], label_values: Callable[[Any], Sequence[str]] | None) -> tuple[str, ...]:
    """Return the names of further labels.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: only one of the two is given, or a name is not allowed.
    """
    if (label_values is None) != (not labelnames):
        raise ValueError("labelnames and label_values must be given together")
    if label_values is None:
        return ()
    _check_callable("label_values", label_values)
    names = check_label_names("labelnames", labelnames)
    taken = next((name for name in names if name in _OWN_LABELS), None)
    if taken is not None:
        raise ValueError(f"labelnames must not have {taken!r}: there is such a label already")
    return names


def declared_size(text: str) -> int:
    """Return the number in a header Content-Length; `UNKNOWN` if it is not a credible number."""
    try:
        size = int(text)
    except ValueError:
        return UNKNOWN
    return size if 0 <= size <= _CREDIBLE else UNKNOWN


def status_label(status: str | int | Cut) -> str:
    """Return the three digits of a status; `OTHER`, which sorts after all digits, if it has none."""
    text = str(status.status if isinstance(status, Cut) else status)[:3]
    return text if len(text) == 3 and text.isascii() and text.isdigit() else OTHER


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
