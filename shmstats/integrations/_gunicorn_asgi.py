"""Measures the requests to the ASGI application of a gunicorn worker.

Requests are observed as by the ASGI middleware, but recorded for `.gunicorn`: an application may
have that middleware as well.
"""

from __future__ import annotations

from ._gunicorn_metrics import GunicornWorker, harmless
from ._requests import Cut, status_label
from ._routes import Scope
from .asgi import Application, Exchange, Receive, Send


class MeasuredApplication:
    """An ASGI application whose requests are measured; websockets and lifespan are passed on.

    Args:
        app: the application.
        worker: counts its requests.

    Attributes:
        finish: `GunicornWorker.finish`, which may fail without harm.
    """

    def __init__(self, app: Application, worker: GunicornWorker) -> None:
        self._app = app
        self._serving = worker.serving
        self._begin, self.finish = harmless(worker.begin), harmless(worker.finish)

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
