"""Statistics of the requests to an aiohttp application, by a middleware of its kind.

    app = web.Application(middlewares=[AiohttpMiddleware()])

The route is the canonical form of the resource. A request has finished when its handler has returned, after which
aiohttp sends the response. A request for a websocket is counted as one, when it is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from ._requests import CLIENT_LEFT, SERVER_ERROR, UNKNOWN, UNMATCHED, RequestRecorder

__all__ = ["AiohttpMiddleware"]


class AiohttpMiddleware:
    """Records the requests to an aiohttp application.

    Args:
        options: ``labelnames``, ``label_values`` (from the request), ``exclude``, ``category`` and ``buckets``, as for
            `shmstats.integrations.asgi.ShmStatsMiddleware`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is not allowed.
    """

    __middleware_version__ = 1  # tells aiohttp 3 that this is a middleware, not a factory

    def __init__(self, **options: Any) -> None:
        self.requests = RequestRecorder(**options)

    async def __call__(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Call the handler, and record the request."""
        requests = self.requests
        if requests.excludes(request.path):
            return await handler(request)
        is_websocket = request.headers.get("Upgrade", "").lower() == "websocket"
        began = perf_counter()
        entry = requests.begin(request.method, request.path, is_websocket)
        answer: Any = None
        status: str | int = SERVER_ERROR
        try:
            answer = await handler(request)
            status = answer.status
            return answer
        except asyncio.CancelledError:
            status = CLIENT_LEFT
            raise
        except Exception as error:
            if hasattr(error, "body_length"):  # an HTTPException, which is a response
                answer, status = error, error.status  # type: ignore[attr-defined]
            else:
                requests.count_exception(_route_of(request), error)
            raise
        finally:
            requests.serving.end(entry)
            route, labels = _route_of(request), requests.labels_of(request)
            if is_websocket:
                requests.finish_websocket(route, status, labels)
            else:
                sent = 0 if request.method == "HEAD" else _size_of(answer)
                requests.finish(request.method, route, status, labels, began, _received(request), sent)


def _route_of(request: Any) -> str:
    resource = request.match_info.route.resource
    return UNMATCHED if resource is None else resource.canonical


def _received(request: Any) -> int:
    if request.content_length is not None:
        return int(request.content_length)
    return UNKNOWN if request.can_read_body else 0


def _size_of(answer: Any) -> int:
    if answer is None:
        return UNKNOWN
    size = answer.body_length if answer.prepared else answer.content_length
    return UNKNOWN if size is None else int(size)
