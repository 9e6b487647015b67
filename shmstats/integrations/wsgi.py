"""Statistics of the requests to any WSGI application: ``application = ShmStatsMiddleware(application)``.

WSGI has no routes. For a Flask application the middleware finds its URL rules; a Django application sets
them by `django_route`; any other sets ``environ["shmstats.route"]``, or the argument ``route`` is a function of the
environment. Routes must be templates: each path would be a new series. Responses are passed on unchanged.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..core import CORE
from ._requests import CLIENT_LEFT, SERVER_ERROR, UNKNOWN, Cut, Middleware, declared_size
from ._routes import FalconRoute, django_route, pyramid_route, route_in_environ
from ._serving import text_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment  # noqa: F401 - named in a text

if TYPE_CHECKING or CORE != "C" or importlib.util.find_spec("._exchange", __package__) is None:
    from ._exchange_py import PlainExchange, PlainMiddleware
else:
    from ._exchange import PlainExchange, PlainMiddleware

__all__ = ["FalconRoute", "ShmStatsMiddleware", "django_route", "pyramid_route"]


class ShmStatsMiddleware(PlainMiddleware, Middleware["WSGIApplication", "WSGIEnvironment"]):
    """Records the requests to a WSGI application."""

    _find_route = staticmethod(route_in_environ)

    def rule_of(self, error: BaseException) -> Any:
        """Return the URL rule of a request without a response."""
        return None

    def labels_of(self, environ: WSGIEnvironment) -> tuple[str, ...]:
        """Return the values of a request's further labels."""
        return self.requests.labels_of(environ)

    def count_exception(self, environ: WSGIEnvironment, rule: Any, error: BaseException) -> None:
        """Count an exception of the application."""
        self.requests.count_exception(self.route_of(environ, rule), error)


class WsgiExchange(PlainExchange):
    """A request that is being served, in all cases."""

    __slots__ = ()

    def around_other(self, response: Iterable[bytes]) -> Iterable[bytes]:
        """Return the response that the server gets instead of one that is not a plain iterator."""
        wrapper = self.environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type) and isinstance(response, wrapper):
            return self._around_file(response)
        if hasattr(response, "__len__"):
            self.__class__ = _SizedExchange
            return self
        if not hasattr(response, "__iter__") and not hasattr(response, "__getitem__"):
            self.finish(self.status)  # a sign between the application and its server (gunicorn has one)
            return response
        return self

    def write(self, data: bytes) -> object:
        """The result of ``start_response``: pass a part of the body to the server."""
        result = self.server_write(data)
        self.sent += len(data)
        return result

    def note(self) -> None:
        """Show other processes that this request is being served."""
        environ, serving = self.environ, self.requests.serving
        path = text_of(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))
        self.entry = serving.note(environ.get("REQUEST_METHOD", ""), path)

    def fail(self, error: BaseException) -> None:
        """The application has raised. A server that has sent nothing yet answers 500."""
        if not self.over:
            if self.rule is None:
                self.rule = self.middleware.rule_of(error)
            self.middleware.count_exception(self.environ, self.rule, error)
            self.finish(Cut(self.status) if self.sent and self.status is not None else SERVER_ERROR)

    def tell(self, error: BaseException) -> None:
        """Log that the request could not be recorded."""
        self.requests.tell("a request was not recorded", error)

    def finish_early(self) -> None:
        """Record a request whose response the server closes before its end: it need not fetch a body that is not sent.

        An invalid status is the server's error to report.
        """
        status = self.status
        is_whole = (
            not isinstance(status, str)
            or self.environ.get("REQUEST_METHOD") == "HEAD"
            or status.startswith(("1", "204", "304"))
        )
        self.finish(status if is_whole else CLIENT_LEFT)

    def finish(self, status: str | Cut | None) -> None:
        """Record a finished request."""
        self.over = True
        middleware, environ, requests = self.middleware, self.environ, self.requests
        requests.serving.end(self.entry)
        method = environ.get("REQUEST_METHOD", "")
        length = environ.get("CONTENT_LENGTH")
        requests.finish(
            method,
            middleware.route_of(environ, self.rule),
            SERVER_ERROR if status is None else status,
            middleware.labels_of(environ) if requests.no_labels else (),
            self.began,
            declared_size(length) if length else UNKNOWN if "HTTP_TRANSFER_ENCODING" in environ else 0,
            0 if method == "HEAD" else self.sent,
        )

    def _around_file(self, response: Any) -> Iterable[bytes]:
        """Make a server's file wrapper report its end; the server recognises the wrapper only by its type."""
        length = next((value for name, value in self.headers or () if name.lower() == "content-length"), "")
        self.sent = declared_size(length)
        close = getattr(response, "close", None)

        def close_and_finish() -> None:
            if not self.over:
                self.finish(self.status)
            if close is not None:
                close()

        try:
            response.close = close_and_finish
        except AttributeError:
            self.finish(self.status)
        passed_on: Iterable[bytes] = response
        return passed_on


class _SizedExchange(WsgiExchange):
    """A request whose response has a length: servers use it for a body of one chunk."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.response)


WsgiExchange.sized = _SizedExchange
ShmStatsMiddleware.exchange = WsgiExchange
