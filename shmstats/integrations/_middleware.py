"""The arguments of the WSGI and the ASGI middleware."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from ._requests import RequestRecorder, check_callable

_Application = TypeVar("_Application")
_Request = TypeVar("_Request")


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
        check_callable("app", app)
        if route is not None:
            check_callable("route", route)
        self._app = app
        self._route = route
        self.requests = RequestRecorder(
            category=category, labelnames=labelnames, label_values=label_values, exclude=exclude, buckets=buckets
        )
        #: Series of requests whose labels need no function calls, as in `RequestRecorder.series`.
        self.plain_series = self.requests.series if route is None and not self.requests.no_labels else None
