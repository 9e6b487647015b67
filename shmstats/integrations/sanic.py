"""Statistics of the requests to a Sanic application, by its middleware.

    SanicRequests(app)

The route is the template of the URI. A request has finished when its response is ready, after which Sanic sends it.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from ._requests import UNKNOWN, UNMATCHED, RequestRecorder, declared_size

__all__ = ["SanicRequests"]


class SanicRequests:
    """Records the requests to a Sanic application.

    Args:
        app: the application.
        options: ``labelnames``, ``label_values`` (from the request), ``exclude``, ``category`` and ``buckets``, as for
            `shmstats.integrations.asgi.ShmStatsMiddleware`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is not allowed.
    """

    def __init__(self, app: Any, **options: Any) -> None:
        self.requests = RequestRecorder(**options)
        app.on_request(self.begin, priority=1000)  # before the application's own
        app.on_response(self.end)
        app.signal("http.lifecycle.exception")(self.note_exception)

    async def begin(self, request: Any) -> None:
        """A request has come."""
        if not self.requests.excludes(request.path):
            request.ctx.shmstats = perf_counter(), self.requests.begin(request.method, request.path)

    async def end(self, request: Any, response: Any) -> None:
        """Record a request whose response is ready, once."""
        requests = self.requests
        began, entry = getattr(request.ctx, "shmstats", (None, None))
        if began is None:
            return
        request.ctx.shmstats = None, None
        requests.serving.end(entry)
        received = declared_size(request.headers.get("content-length", "0"))
        body = getattr(response, "body", None)
        sent = UNKNOWN if body is None else 0 if request.method == "HEAD" else len(body)
        labels = requests.labels_of(request)
        requests.finish(request.method, _route_of(request), response.status, labels, began, received, sent)

    async def note_exception(self, request: Any, exception: BaseException, **_: Any) -> None:
        """Count an exception that is not a response."""
        if not hasattr(exception, "status_code"):
            self.requests.count_exception(_route_of(request), exception)


def _route_of(request: Any) -> str:
    return request.uri_template or UNMATCHED
