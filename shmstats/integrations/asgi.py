"""Statistics of the requests to any ASGI application, by a middleware.

    app.add_middleware(ShmStatsMiddleware)  # Starlette, FastAPI
    app = ShmStatsMiddleware(app)           # any

A request is over when the last part of its response has been sent, or else when the application returns; what it
does in the background after that is no part of it. If the client leaves before, and the server says so
(``http.disconnect``, OSError from ``send``, a cancelled task), the status is 499, and what the application raises is
not counted. A websocket is counted when it is closed. ``lifespan`` is passed on; after its shutdown the process leaves
the block, for uvicorn ends its workers by a signal, and nothing that is to be done at exit is done then.

The route is what Starlette and FastAPI leave in the scope: see `_Routes`. A Django application tells it by
`shmstats.integrations.wsgi.django_route`, any other can put it into ``scope["shmstats.route"]``, or ``route`` is
given, a function of the scope.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from time import perf_counter
from typing import Any, Protocol

from ._requests import (
    CLIENT_LEFT,
    OWN,
    RECORDED,
    ROUTE,
    UNKNOWN,
    UNMATCHED,
    Cut,
    RequestMetrics,
    check_callable,
    declared_size,
)

__all__ = ["ShmStatsMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

#: What a server answers where it has no response from the application, or to a websocket that was not accepted.
#: What stands for the method of a websocket among the requests that are being served.
_WEBSOCKET = "WEBSOCKET"

_SERVER_ERROR, _FORBIDDEN, _SWITCHING_PROTOCOLS = 500, 403, 101


class ShmStatsMiddleware:
    """Records the requests to an ASGI application.

    Args:
        app: the application.
        route: tells the route of a request from its scope, after the response; None for what the module's head says.
        labelnames: names of further labels.
        label_values: tells their values from the scope, likewise, in that order.
        exclude: paths and routes that are not recorded; ``*`` at the end of one stands for anything.
        category: of the metrics.
        buckets: upper bounds of the latency histogram in ms.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is not allowed.
    """

    def __init__(
        self,
        app: Application,
        *,
        route: Callable[[Scope], str] | None = None,
        labelnames: Sequence[str] = (),
        label_values: Callable[[Scope], Sequence[str]] | None = None,
        exclude: Iterable[str] = (),
        category: str = "http",
        buckets: Sequence[float] | None = None,
    ) -> None:
        check_callable("app", app)
        if route is not None:
            check_callable("route", route)
        self._app = app
        self._route = route
        self.requests = RequestMetrics(
            category=category,
            labelnames=labelnames,
            label_values=label_values,
            exclude=exclude,
            buckets=buckets,
        )

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
        paths, prefixes = self.requests.paths, self.requests.prefixes
        if not paths and not prefixes:
            return False
        path: str = scope.get("path", "")
        root = scope.get("root_path", "")
        if root and path.startswith(f"{root}/"):
            path = path[len(root) :]
        return path in paths or path.startswith(prefixes)

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
            self.requests.tell("the route of a request could not be had", error)
            return UNMATCHED


class Ledger(Protocol):
    """What is asked about a request, and told what it came to; see `RequestMetrics`."""

    def labels_of(self, request: Any, /) -> tuple[str, ...]:
        """Return the values of further labels."""

    def count_exception(self, route: str, error: BaseException, /) -> None:
        """Count an exception that the application did not handle."""

    def finish(
        self,
        method: str,
        route: str,
        status: str | int | Cut,
        labels: tuple[str, ...],
        began: float,
        received: int,
        sent: int,
        /,
    ) -> None:
        """Record a request that is over."""


class Middleware(Protocol):
    """What stands around an application, and has its calls recorded."""

    @property
    def requests(self) -> Ledger:
        """Where they are recorded."""

    def route_of(self, scope: Scope, path: str, root_path: str, /) -> str:
        """Tell the route of a request."""


class _Call:
    """A call of the application: what a request and a websocket have in common."""

    __slots__ = ("_middleware", "_path", "_receive", "_root_path", "_scope", "_send", "_status")

    def __init__(self, middleware: Middleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._path = scope.get("path", "")
        self._root_path = scope.get("root_path", "")
        self._status: int | None = None

    def _route(self) -> str:
        return self._middleware.route_of(self._scope, self._path, self._root_path)

    def _labels(self) -> tuple[str, ...]:
        return self._middleware.requests.labels_of(self._scope)

    def _count_exception(self, error: BaseException) -> None:
        self._middleware.requests.count_exception(self._route(), error)


class Exchange(_Call):
    """A request that is being answered."""

    __slots__ = ("_began", "_ending", "_headers", "_left", "_over", "_received", "_sent")

    def __init__(self, middleware: Middleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._began = perf_counter()
        super().__init__(middleware, scope, receive, send)
        self._received = 0
        self._sent = 0
        self._headers: Iterable[tuple[bytes, bytes]] = ()
        self._left = False  # the client has, before it had the whole response
        self._ending = False  # the last part of the response is with the server
        self._over = False

    async def receive(self) -> Message:
        """Be the application's ``receive``."""
        message = await self._receive()
        kind = message["type"]
        if kind == "http.request":
            self._received += len(message.get("body") or b"")
        elif kind == "http.disconnect" and not self._ending:
            self._left = True
        return message

    async def send(self, message: Message) -> None:
        """Be the application's ``send``."""
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
            self._finish(CLIENT_LEFT if self._left else self._status or _SERVER_ERROR)

    def end(self) -> None:
        """Note that the application has returned."""
        if self._over:
            return
        if self._left:
            self._finish(CLIENT_LEFT)
        else:
            self._finish(_SERVER_ERROR if self._status is None else Cut(self._status))

    def fail(self, error: BaseException) -> None:
        """Note that the application raised."""
        if isinstance(error, asyncio.CancelledError):
            self._left = True
        if not self._left or self._over:
            self._count_exception(error)
        self.end()

    def _finish(self, status: int | str | Cut) -> None:
        self._over = True
        method = self._scope.get("method", "")
        self._middleware.requests.finish(
            method, self._route(), status, self._labels(), self._began, self._received,
            0 if method == "HEAD" else self._sent,
        )  # fmt: skip

    def _declared_length(self) -> int:
        """The length of a file that the server is to send."""
        for name, value in self._headers:
            if name.lower() == b"content-length":
                return declared_size(value.decode("latin-1"))
        return UNKNOWN


class _Websocket(_Call):
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
        status = _SERVER_ERROR if self._status is None else self._status
        self._middleware.requests.finish_websocket(self._route(), status, self._labels())

    def fail(self, error: BaseException) -> None:
        """Note that the application raised."""
        if not isinstance(error, asyncio.CancelledError):
            self._count_exception(error)
        self.end()


# Routes of Starlette and FastAPI --------------------------------------------------------------
#
# A router puts the route that matched into the scope. That has the template within its own application only, and
# where an application is mounted in another ``root_path`` has grown by what the mount matched: text from the client.
# So the mounts that this text went through are looked for among the routes, for their templates.


def route_in(scope: Scope, path: str, root_path: str) -> str:
    """Tell the template of the route that is in the scope; "" where there is none.

    Args:
        scope: as the application has left it.
        path: of the scope, before.
        root_path: likewise.
    """
    told = scope.get(ROUTE)
    if told:
        return str(told)
    route = scope.get("route")
    if route is None and "endpoint" in scope:
        route = _route_of_endpoint(scope)
    mounted = scope.get("root_path", "")
    if mounted == root_path:
        return _template(scope, route)
    if _is_own(scope.get("endpoint")):
        return OWN
    if root_path and path.startswith(root_path):
        path = path[len(root_path) :]
    prefix = _prefix(getattr(scope.get("router"), "routes", ()), path, mounted[len(root_path) :]) or ""
    # Beyond the mount no route is known: none has matched, or the mounted application is not of this kind.
    if route is None or hasattr(route, "routes"):
        return f"{prefix}/{{path}}"
    return prefix + _template(scope, route)


def _template(scope: Scope, route: Any) -> str:
    """The template of a route within its application; "" for none."""
    context = _fastapi_context(scope)
    # From FastAPI 0.137 on a route does not know the prefixes of the routers that it was included by.
    if context is not None and context.original_route is route and context.path:
        return str(context.path)
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else ""


def _fastapi_context(scope: Scope) -> Any:
    fastapi = scope.get("fastapi")
    return fastapi.get("effective_route_context") if fastapi else None


def _route_of_endpoint(scope: Scope) -> Any:
    """The route of an endpoint, where there is only that in the scope.

    So it is with a Starlette before 1.0, and with its plain routes in routers that FastAPI has included.
    """
    endpoint = scope["endpoint"]
    routes = [
        *getattr(scope.get("app"), "routes", ()),
        getattr(_fastapi_context(scope), "starlette_route", None),
    ]
    found = [route for route in routes if getattr(route, "endpoint", None) is endpoint]
    if len(found) > 1:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        found = [route for route in found if route.path_regex.match(path)]
    return found[0] if found else None


def _prefix(routes: Iterable[Any], path: str, mounted: str) -> str | None:
    """The templates of the mounts that took ``mounted`` off the beginning of a path; None if they are not here."""
    for mount in _mounts(routes):
        regex = getattr(mount, "path_regex", None)
        if regex is None:  # a host, which takes nothing off
            inner = _prefix(mount.routes, path, mounted)
            if inner is not None:
                return inner
            continue
        match = regex.match(path)
        if match is None:
            continue
        rest = f"/{match['path']}"
        taken = path[: len(path) - len(rest)]
        if taken == mounted:
            return str(mount.path)
        if taken and mounted.startswith(f"{taken}/"):
            inner = _prefix(mount.routes, rest, mounted[len(taken) :])
            if inner is not None:
                return f"{mount.path}{inner}"
    return None


def _mounts(routes: Iterable[Any]) -> Iterator[Any]:
    """Mounts and hosts among routes, also those in routers that FastAPI (from 0.137 on) has included."""
    for route in routes:
        if hasattr(route, "routes"):
            yield route
        elif not hasattr(route, "path"):
            contexts = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
            if contexts is not None:
                yield from [each for each in contexts([route]) if hasattr(each.original_route, "routes")]


def _is_own(endpoint: Any) -> bool:
    """Whether what is mounted is the application with the statistics endpoints, in a wrapper for WSGI."""
    for _ in range(3):
        if endpoint is None:
            return False
        if getattr(endpoint, "import_name", None) == "shmstats":
            return True
        endpoint = getattr(endpoint, "app", None)
    return False
