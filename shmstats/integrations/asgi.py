"""Statistics of the requests to any ASGI application, by a middleware.

    app.add_middleware(ShmStatsMiddleware)  # Starlette, FastAPI
    app = ShmStatsMiddleware(app)           # any

A request is over when the last part of its response has been sent, or else when the application returns; what it
does in the background after that is no part of it. If the client leaves before, and the server says so
(``http.disconnect``, OSError from ``send``, a cancelled task), the status is 499, and what the application raises is
not counted. A websocket is counted when it is closed. ``lifespan`` is passed on; after its shutdown the process leaves
the block, for uvicorn ends its workers by a signal, and nothing that is to be done at exit is done then.

The route is what Starlette and FastAPI leave in the scope (`._routes`). A Django application tells it by
`shmstats.integrations.wsgi.django_route`, any other can put it into ``scope["shmstats.route"]``, or ``route`` is
given, a function of the scope.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from ._asgi_exchange import SERVER_ERROR, Application, Call, Exchange, Message, Receive, Scope, Send
from ._middleware import Middleware
from ._requests import RECORDED, UNMATCHED
from ._routes import FalconRoute, quart_route, route_in

__all__ = ["FalconRoute", "ShmStatsMiddleware", "quart_route"]

#: What stands for the method of a websocket among the requests that are being served.
_WEBSOCKET = "WEBSOCKET"

#: What a server answers to a websocket that was not accepted, and to one that was.
_FORBIDDEN, _SWITCHING_PROTOCOLS = 403, 101


class ShmStatsMiddleware(Middleware[Application, Scope]):
    """Records the requests to an ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, and record what comes of it unless another middleware does already."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, receive, self._leaving(send))
            return
        if (kind != "http" and kind != "websocket") or RECORDED in scope or self._is_excluded(scope):
            await self._app(scope, receive, send)
            return
        scope[RECORDED] = True
        requests = self.requests
        exchange: Exchange | _Websocket
        try:
            if kind == "http":
                exchange = Exchange(self, scope, receive, send)
                requests.enter()
            else:
                exchange = _Websocket(self, scope, receive, send)
                requests.enter_websocket()
        except Exception as error:
            requests.tell("requests in progress are not counted", error)
        entry = requests.serving.note(scope.get("method", _WEBSOCKET), scope.get("path", ""))
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.fail(error)
            raise
        finally:
            requests.serving.end(entry)
        exchange.end()

    def _leaving(self, send: Send) -> Send:
        """Leave the block, which flushes a buffer, once the application has been shut down."""

        async def send_and_leave(message: Message) -> None:
            await send(message)
            if message.get("type") in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                self.requests.close()

        return send_and_leave

    def _is_excluded(self, scope: Scope) -> bool:
        if not self.requests.paths and not self.requests.prefixes:
            return False
        path: str = scope.get("path", "")
        root = scope.get("root_path", "")
        if root and path.startswith(f"{root}/"):
            path = path[len(root) :]
        return self.requests.excludes(path)

    def route_of(self, scope: Scope, path: str, root_path: str) -> str:
        """Tell the route of a request.

        Args:
            scope: as the application has left it.
            path: of the scope, before.
            root_path: likewise.
        """
        try:
            if self._route is not None:
                return self._route(scope) or UNMATCHED
            return route_in(scope, path, root_path) or UNMATCHED
        except Exception as error:
            self.requests.tell("the route of a request could not be determined", error)
            return UNMATCHED


class _Websocket(Call):
    """A websocket that is open, or asked for."""

    __slots__ = ()

    _middleware: ShmStatsMiddleware

    @property
    def receive(self) -> Receive:
        """The application's ``receive``, which is the server's."""
        return self._receive

    def send(self, message: Message) -> Awaitable[None]:
        """Be the application's ``send``."""
        if self._status is None:
            kind = message.get("type")
            if kind == "websocket.accept":
                self._status = _SWITCHING_PROTOCOLS
            elif kind == "websocket.close":
                self._status = _FORBIDDEN
            elif kind == "websocket.http.response.start":
                self._status = message.get("status")
        return self._send(message)

    def end(self) -> None:
        """Note that the application has returned."""
        status = SERVER_ERROR if self._status is None else self._status
        self._middleware.requests.finish_websocket(self._route(), status, self._labels())

    def fail(self, error: BaseException) -> None:
        """Note that the application raised."""
        if not isinstance(error, asyncio.CancelledError):
            self._count_exception(error)
        self.end()
