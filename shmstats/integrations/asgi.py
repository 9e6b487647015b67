"""Statistics of the requests to any ASGI application: ``app = ShmStatsMiddleware(app)``.

For Starlette and FastAPI use ``app.add_middleware(ShmStatsMiddleware)``: they leave the route in the scope
(`._routes`). A Django application sets it by `shmstats.integrations.wsgi.django_route`; any other sets
``scope["shmstats.route"]``, or the argument ``route`` is a function of the scope.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from ._asgi_exchange import SERVER_ERROR, Application, Call, Exchange, Message, Receive, Scope, Send
from ._middleware import Middleware
from ._requests import RECORDED, UNMATCHED
from ._routes import FalconRoute, quart_route, route_in

__all__ = ["FalconRoute", "ShmStatsMiddleware", "quart_route"]

#: The method shown for a websocket among the requests being served.
_WEBSOCKET = "WEBSOCKET"

#: The status of the answer to a websocket that was not accepted, and to one that was.
_FORBIDDEN, _SWITCHING_PROTOCOLS = 403, 101


class ShmStatsMiddleware(Middleware[Application, Scope]):
    """Records the requests to an ASGI application.

    A request has finished when the last part of its response has been sent, or else when the application returns; work
    in the background after that is not included. If the client leaves before, and the server reports it
    (``http.disconnect``, OSError from ``send``, a cancelled task), the status is 499, and the application's exception
    is not counted. A websocket is counted when it is closed. ``lifespan`` is passed on; after its shutdown the process
    leaves the block, because uvicorn ends its workers by a signal, without exit functions.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, and record the request unless another middleware does."""
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
        """Leave the block, which flushes a buffer, after the application's shutdown."""

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
        """Return the route of a request.

        Args:
            scope: as the application has left it.
            path: of the scope, before the application ran.
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
    """A websocket that is open, or requested."""

    __slots__ = ()

    _middleware: ShmStatsMiddleware

    @property
    def receive(self) -> Receive:
        """The application's ``receive``, which is the server's."""
        return self._receive

    def send(self, message: Message) -> Awaitable[None]:
        """The application's ``send``."""
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
        """The application has returned."""
        status = SERVER_ERROR if self._status is None else self._status
        self._middleware.requests.finish_websocket(self._route(), status, self._labels())

    def fail(self, error: BaseException) -> None:
        """The application has raised."""
        if not isinstance(error, asyncio.CancelledError):
            self._count_exception(error)
        self.end()
