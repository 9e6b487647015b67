"""Measures the requests to the ASGI application of a gunicorn worker.

What a request comes to is found out as the ASGI middleware does it, but recorded for `.gunicorn`: an application may
have that middleware as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._asgi_exchange import Application, Exchange, Receive, Scope, Send
from ._requests import Cut
from ._serving import Serving


class MeasuredApplication:
    """An ASGI application whose requests are measured; websockets and lifespan are passed on.

    Args:
        app: the application.
        begin: called when a request comes.
        finish: called once when it is over, with its method, its status, and what ``perf_counter`` said when it came.
        serving: notes what is being served.

    Attributes:
        requests: what an exchange tells.
    """

    def __init__(
        self,
        app: Application,
        begin: Callable[[], None],
        finish: Callable[[str, str | int | Cut, float], None],
        serving: Serving,
    ) -> None:
        self._app = app
        self._serving = serving
        self._begin = begin
        self.requests = _Ledger(finish)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(self, scope, receive, send)
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

    def route_of(self, scope: Scope, path: str, root_path: str) -> str:
        """Tell no route: gunicorn knows none."""
        return ""


class _Ledger:
    """Passes on of what a request came to what gunicorn's metrics have.

    Args:
        finish: as for `MeasuredApplication`.
    """

    def __init__(self, finish: Callable[[str, str | int | Cut, float], None]) -> None:
        self._finish = finish

    def labels_of(self, request: Any) -> tuple[str, ...]:
        """Tell no further labels."""
        return ()

    def count_exception(self, route: str, error: BaseException) -> None:
        """Leave exceptions to the application."""

    def finish(
        self,
        method: str,
        route: str,
        status: str | int | Cut,
        labels: tuple[str, ...],
        began: float,
        received: int,
        sent: int,
    ) -> None:
        """Pass on what a request came to."""
        self._finish(method, status, began)
