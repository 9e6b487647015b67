"""Statistics of the requests to any ASGI application: ``app = ShmStatsMiddleware(app)``.

For Starlette and FastAPI use ``app.add_middleware(ShmStatsMiddleware)``: they leave the route in the scope
(`._routes`). A Django application sets it by `shmstats.integrations.wsgi.django_route`; any other sets
``scope["shmstats.route"]``, or the argument ``route`` is a function of the scope.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from time import perf_counter
from typing import Any

from ._requests import CLIENT_LEFT, RECORDED, SERVER_ERROR, UNKNOWN, Cut, Middleware, declared_size
from ._routes import FalconRoute, Scope, quart_route, route_in

__all__ = ["FalconRoute", "ShmStatsMiddleware", "quart_route"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

#: The method shown for a websocket among the requests being served.
_WEBSOCKET = "WEBSOCKET"

#: The status of the answer to a websocket that was accepted (101), and to one that was not, by the message.
_ANSWERS: dict[Any, int] = {"websocket.accept": 101, "websocket.close": 403}


class ShmStatsMiddleware(Middleware[Application, Scope]):
    """Records the requests to an ASGI application.

    A request has finished when the last part of its response has been sent, or else when the application returns; work
    in the background after that is not included. If the client leaves before, and the server reports it
    (``http.disconnect``, OSError from ``send``, a cancelled task), the status is 499, and the application's exception
    is not counted. A websocket is counted when it is closed. ``lifespan`` is passed on; after its shutdown the process
    leaves the block, because uvicorn ends its workers by a signal, without exit functions.
    """

    _find_route = staticmethod(route_in)

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
        exchange = (Exchange if kind == "http" else _Websocket)(self, scope, receive, send)
        entry = requests.begin(scope.get("method", _WEBSOCKET), scope.get("path", ""), kind == "websocket")
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
        path: str = scope.get("path", "")
        root = scope.get("root_path", "")
        if root and path.startswith(f"{root}/"):
            path = path[len(root) :]
        return self.requests.excludes(path)


class _Call:
    """A call of the application: the common part of a request and a websocket."""

    __slots__ = ("_middleware", "_path", "_receive", "_root_path", "_scope", "_send", "_status")

    def __init__(self, middleware: Any, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._path = scope.get("path", "")
        self._root_path = scope.get("root_path", "")
        self._status: int | None = None

    def _route(self) -> str:
        route: str = self._middleware.route_of(self._scope, self._path, self._root_path)
        return route

    def _count_exception(self, error: BaseException) -> None:
        self._middleware.requests.count_exception(self._route(), error)


class Exchange(_Call):
    """A request that is being served: messages are passed on, and recorded at the end.

    gunicorn's hooks (`._gunicorn_asgi`) use it too; they record less.
    """

    __slots__ = ("_began", "_ending", "_headers", "_left", "_over", "_received", "_sent")

    def __init__(self, middleware: Any, scope: Scope, receive: Receive, send: Send) -> None:
        self._began = perf_counter()
        super().__init__(middleware, scope, receive, send)
        self._received = 0
        self._sent = 0
        self._headers: Iterable[tuple[bytes, bytes]] = ()
        self._left = False  # whether the client left before it had the whole response
        self._ending = False  # whether the server has the last part of the response
        self._over = False

    async def receive(self) -> Message:
        """The application's ``receive``."""
        message = await self._receive()
        kind = message["type"]
        if kind == "http.request":
            self._received += len(message.get("body") or b"")
        elif kind == "http.disconnect" and not self._ending:
            self._left = True
        return message

    async def send(self, message: Message) -> None:
        """The application's ``send``."""
        kind = message.get("type")
        if kind == "http.response.body":
            self._sent += len(message.get("body") or b"")
            self._ending = not message.get("more_body", False)
        elif kind == "http.response.start":
            self._status = message.get("status")
            self._headers = message.get("headers") or ()
        elif kind == "http.response.pathsend":
            self._sent = self._declared_length()
            self._ending = True
        try:
            await self._send(message)
        except OSError:
            self._left = True
            raise
        if self._ending and not self._over:
            self._finish(CLIENT_LEFT if self._left else self._status or SERVER_ERROR)

    def end(self) -> None:
        """The application has returned."""
        if self._over:
            return
        if self._left:
            self._finish(CLIENT_LEFT)
        else:
            self._finish(SERVER_ERROR if self._status is None else Cut(self._status))

    def fail(self, error: BaseException) -> None:
        """The application has raised."""
        if isinstance(error, asyncio.CancelledError):
            self._left = True
        if not self._left or self._over:
            self._count_exception(error)
        self.end()

    def _finish(self, status: int | str | Cut) -> None:
        self._over = True
        self._record(self._scope.get("method", ""), status)

    def _record(self, method: str, status: int | str | Cut) -> None:
        """Record the finished request."""
        requests = self._middleware.requests
        sent = 0 if method == "HEAD" else self._sent
        labels = requests.labels_of(self._scope)
        requests.finish(method, self._route(), status, labels, self._began, self._received, sent)

    def _declared_length(self) -> int:
        """The length of a file that the server will send."""
        for name, value in self._headers:
            if name.lower() == b"content-length":
                return declared_size(value.decode("latin-1"))
        return UNKNOWN


class _Websocket(_Call):
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
            self._status = message.get("status") if kind == "websocket.http.response.start" else _ANSWERS.get(kind)
        return self._send(message)

    def end(self) -> None:
        """The application has returned."""
        requests = self._middleware.requests
        status = SERVER_ERROR if self._status is None else str(self._status)
        requests.finish_websocket(self._route(), status, requests.labels_of(self._scope))

    def fail(self, error: BaseException) -> None:
        """The application has raised."""
        if not isinstance(error, asyncio.CancelledError):
            self._count_exception(error)
        self.end()
