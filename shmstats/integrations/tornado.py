"""Statistics of the requests to a Tornado application, by its log function.

    app = Application(handlers, log_function=TornadoRequests())

Tornado has no templates of routes: the route is the class of the handler. Requests whose client has left, and requests
in progress, are not recorded.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from ._requests import UNMATCHED, RequestRecorder, declared_size

__all__ = ["TornadoRequests"]


class TornadoRequests:
    """Records the requests to a Tornado application.

    Args:
        options: ``labelnames``, ``label_values`` (from the handler), ``exclude``, ``category`` and ``buckets``, as for
            `shmstats.integrations.asgi.ShmStatsMiddleware`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is not allowed.
    """

    def __init__(self, **options: Any) -> None:
        self.requests = RequestRecorder(**options)

    def __call__(self, handler: Any) -> None:
        """Record a finished request. As the log function itself, also log it as Tornado does."""
        settings = handler.application.settings
        if settings.get("log_function") is self:
            del settings["log_function"]
            try:
                handler.application.log_request(handler)
            finally:
                settings["log_function"] = self
        request, requests = handler.request, self.requests
        if requests.excludes(request.path):
            return
        sent = 0 if request.method == "HEAD" else declared_size(handler._headers.get("Content-Length", ""))
        began = perf_counter() - request.request_time()
        labels = requests.labels_of(handler)
        requests.enter()
        requests.finish(
            request.method, _route_of(handler), handler.get_status(), labels, began, len(request.body or b""), sent
        )


def _route_of(handler: Any) -> str:
    kind = type(handler)
    return UNMATCHED if (kind.__module__, kind.__name__) == ("tornado.web", "ErrorHandler") else kind.__qualname__
