"""Measures the requests to the ASGI application of a gunicorn worker.

Requests are observed as by the ASGI middleware, but recorded for `.gunicorn`: an application may
have that middleware as well.
"""

from __future__ import annotations

from collections.abc import Callable

from ._requests import Cut, status_label
from ._routes import Scope
from ._serving import Serving
from .asgi import Application, Exchange, Receive, Send


class MeasuredApplication:
    """An ASGI application whose requests are measured; websockets and lifespan are passed on.

    Args:
        app: the application.
        begin: called when a request comes.
        finish: called once at its end, with its method, its status, and the result of ``perf_counter`` at its start.
        serving: shows the requests being served.

    Attributes:
        finish: as the argument.
    """

    def __init__(
        self,
        app: Application,
        begin: Callable[[], None],
        finish: Callable[[str, str, float], None],
        serving: Serving,
    ) -> None:
        self._app = app
        self._serving = serving
        self._begin = begin
        self.finish = finish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _MeasuredExchange(self, scope, receive, send)
        self._begin()
        entry = self._serving.note(scope["method"], scope["path"])
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.fail(error)
            raise
        finally:
            self._serving.end(entry)
        exchange.end()


class _MeasuredExchange(Exchange):
    """A request for gunicorn's metrics, which have method, status and time, but no routes and exceptions."""

    __slots__ = ()

    def _count_exception(self, error: BaseException) -> None:
        """Leave exceptions to the application."""

    def _record(self, method: str, status: int | str | Cut) -> None:
        self._middleware.finish(method, status_label(status), self._began)
