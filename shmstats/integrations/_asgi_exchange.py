"""A request to an ASGI application while it is served: messages are passed on, and recorded at the end.

The middleware (`.asgi`) uses it, and gunicorn's hooks (`._gunicorn_asgi`), which record less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from time import perf_counter
from typing import Any

from ._requests import CLIENT_LEFT, UNKNOWN, Cut, declared_size

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

#: The status that a server answers if it has no response from the application.
SERVER_ERROR = 500


class Call:
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

    def _labels(self) -> tuple[str, ...]:
        labels: tuple[str, ...] = self._middleware.requests.labels_of(self._scope)
        return labels

    def _count_exception(self, error: BaseException) -> None:
        self._middleware.requests.count_exception(self._route(), error)


class Exchange(Call):
    """A request that is being served."""

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
        sent = 0 if method == "HEAD" else self._sent
        more = self._labels(), self._began, self._received, sent
        self._middleware.requests.finish(method, self._route(), status, *more)

    def _declared_length(self) -> int:
        """The length of a file that the server will send."""
        for name, value in self._headers:
            if name.lower() == b"content-length":
                return declared_size(value.decode("latin-1"))
        return UNKNOWN
