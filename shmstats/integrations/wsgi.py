"""Statistics of the requests to any WSGI application, by a middleware around it.

    application = ShmStatsMiddleware(application)

WSGI knows no routes. Where the application is a Flask one the middleware finds its URL rules; a Django application
tells them by `django_route`; any other can put the route of a request into ``environ["shmstats.route"]``, or
``route`` is given, a function of the environment. It must return templates: a path would be a series each.

A request is over when its response is exhausted, which a server does before it closes it, or else when it is
closed. A response that is closed early was not wanted any more: the client has left, and the status is 499. The
environment, the response's status, headers and chunks are passed on as they are, the iterable within one that counts.
A file that the server is to send by itself (``wsgi.file_wrapper``) is passed on untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ._arguments import check_callable
from ._requests import (
    CLIENT_LEFT,
    RECORDED,
    ROUTE,
    UNKNOWN,
    UNMATCHED,
    Cut,
    RequestRecorder,
    declared_size,
)
from ._routes import django_route, flask_route
from ._serving import LEFT, NOT_NOTED, text_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["ShmStatsMiddleware", "django_route"]

#: What an answer is where a server has none from the application.
_SERVER_ERROR = "500"


class ShmStatsMiddleware:
    """Records the requests to a WSGI application.

    Args:
        app: the application.
        route: tells the route of a request from its environment, after the application has returned its response;
            None for what the module's head says.
        labelnames: names of further labels.
        label_values: tells their values from the environment, likewise, in that order.
        exclude: paths and routes that are not recorded; ``*`` at the end of one stands for anything.
        category: of the metrics.
        buckets: upper bounds of the latency histogram in ms.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is not allowed.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        route: Callable[[WSGIEnvironment], str] | None = None,
        labelnames: Sequence[str] = (),
        label_values: Callable[[WSGIEnvironment], Sequence[str]] | None = None,
        exclude: Iterable[str] = (),
        category: str = "http",
        buckets: Sequence[float] | None = None,
    ) -> None:
        check_callable("app", app)
        if route is not None:
            check_callable("route", route)
        self._app = app
        self._route = route
        self.requests = RequestRecorder(
            category=category,
            labelnames=labelnames,
            label_values=label_values,
            exclude=exclude,
            buckets=buckets,
        )

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Call the application, and record what comes of it unless another middleware does already."""
        requests = self.requests
        path = environ.get("PATH_INFO", "")
        if RECORDED in environ or path in requests.paths or (requests.prefixes and path.startswith(requests.prefixes)):
            return self._app(environ, start_response)
        environ[RECORDED] = True
        exchange = WsgiExchange(self, environ, start_response)
        try:
            exchange.note(path)
            requests.enter()
        except Exception as error:
            requests.tell("requests in progress are not counted", error)
        try:
            response = self._app(environ, exchange.start)
        except BaseException as error:
            exchange.fail(error)
            raise
        return exchange.around(response)

    def route_of(self, environ: WSGIEnvironment, rule: Any) -> str:
        """Tell the route of a request.

        Args:
            environ: its environment, as the application has left it.
            rule: the URL rule of Flask that matched, or None.
        """
        try:
            if self._route is not None:
                return self._route(environ) or UNMATCHED
            told = environ.get(ROUTE)
            return str(told) if told else flask_route(rule)
        except Exception as error:
            self.requests.tell("the route of a request could not be had", error)
            return UNMATCHED

    def rule_of(self, error: BaseException) -> Any:
        """Tell the URL rule of a request that came to no response."""
        return None

    def labels_of(self, environ: WSGIEnvironment) -> tuple[str, ...]:
        """Tell the values of a request's further labels."""
        return self.requests.labels_of(environ)

    def count_exception(self, environ: WSGIEnvironment, rule: Any, error: BaseException) -> None:
        """Count what the application raised."""
        self.requests.count_exception(self.route_of(environ, rule), error)


class WsgiExchange:
    """A request that is being answered: passes status and chunks on and notes what is to be recorded."""

    _status: str | None = None
    _headers: Sequence[tuple[str, str]] = ()
    _rule: Any = None  # of Flask
    _chunks: Iterator[bytes] | None = None
    _sent = 0
    _over = False
    _entry = NOT_NOTED

    def __init__(self, middleware: ShmStatsMiddleware, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self._began = perf_counter()
        self._middleware = middleware
        self._environ = environ
        self._start_response = start_response

    def note(self, path: str) -> None:
        """Note for others that this is being served."""
        serving, method = self._middleware.requests.serving, self._environ.get("REQUEST_METHOD", "")
        path = text_of(self._environ.get("SCRIPT_NAME", "") + path)
        entry = serving.begin(method, path)
        self._entry = serving.again(method, path) if entry == LEFT else entry

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        """Be the application's ``start_response``."""
        if exc_info is None:
            self._write = self._start_response(status, headers)
        else:
            self._write = self._start_response(status, headers, exc_info)
        self._status = status
        self._headers = headers
        request = self._environ.get("werkzeug.request")
        if request is not None:  # Flask takes it away again at the end of its context, and that is soon
            self._rule = getattr(request, "url_rule", None)
        return self.write

    def write(self, data: bytes) -> object:
        """Be what ``start_response`` returns."""
        result = self._write(data)
        self._sent += len(data)
        return result

    def around(self, response: Iterable[bytes]) -> Iterable[bytes]:
        """Return what the server is to get in the place of a response."""
        self._response = response
        wrapper = self._environ.get("wsgi.file_wrapper")
        if wrapper is not None and isinstance(wrapper, type) and isinstance(response, wrapper):
            return self._around_file(response)
        if hasattr(response, "__next__"):
            return self
        if hasattr(response, "__len__"):
            return _SizedResponse(self, response)
        if not hasattr(response, "__iter__") and not hasattr(response, "__getitem__"):
            self._finish(self._status)  # a sign between this application and its server, gunicorn's for one
            return response
        return self

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._response:
                if isinstance(chunk, bytes):  # what else it is, the server will say
                    self._sent += len(chunk)
                yield chunk
        except GeneratorExit:
            raise  # the server stops in the middle, and closes
        except BaseException as error:
            self.fail(error)
            raise
        if not self._over:
            self._finish(self._status)

    def __next__(self) -> bytes:
        """Give the next chunk to one who takes the response for an iterator, which WSGI does not promise."""
        if self._chunks is None:
            self._chunks = iter(self)
        return next(self._chunks)

    def close(self) -> None:
        """Be closed by the server: close the application's response."""
        if not self._over:
            self._finish(self._status if self._has_no_body() else CLIENT_LEFT)
        close = getattr(self._response, "close", None)
        if close is not None:
            close()

    def fail(self, error: BaseException) -> None:
        """Note that the application raised. A server answers 500 as long as it has sent nothing."""
        if not self._over:
            if self._rule is None:
                self._rule = self._middleware.rule_of(error)
            self._middleware.count_exception(self._environ, self._rule, error)
            self._finish(Cut(self._status) if self._sent and self._status is not None else _SERVER_ERROR)

    def _has_no_body(self) -> bool:
        """Whether there is nothing that a server must fetch: a status that is missing is its error to report."""
        status = self._status
        if status is None or self._environ.get("REQUEST_METHOD") == "HEAD":
            return True
        return status.startswith(("1", "204", "304"))

    def _finish(self, status: str | Cut | None) -> None:
        self._over = True
        middleware, environ = self._middleware, self._environ
        requests = middleware.requests
        requests.serving.end(self._entry)
        method = environ.get("REQUEST_METHOD", "")
        length = environ.get("CONTENT_LENGTH")
        requests.finish(
            method,
            middleware.route_of(environ, self._rule),
            _SERVER_ERROR if status is None else status,
            middleware.labels_of(environ) if requests.no_labels else (),
            self._began,
            declared_size(length) if length else UNKNOWN if "HTTP_TRANSFER_ENCODING" in environ else 0,
            0 if method == "HEAD" else self._sent,
        )

    # Files ------------------------------------------------------------------------------------

    def _around_file(self, response: Any) -> Iterable[bytes]:
        """Have a server's file wrapper tell of its end; a server that sends it knows it by its type only."""
        length = next((value for name, value in self._headers if name.lower() == "content-length"), "")
        self._sent = declared_size(length)
        close = getattr(response, "close", None)

        def close_and_finish() -> None:
            if not self._over:
                self._finish(self._status)
            if close is not None:
                close()

        try:
            response.close = close_and_finish
        except AttributeError:
            self._finish(self._status)
        passed_on: Iterable[bytes] = response
        return passed_on


class _SizedResponse:
    """A response that knows how many chunks it has: servers find the length of a body of one chunk by that."""

    __slots__ = ("_exchange", "_response")

    def __init__(self, exchange: WsgiExchange, response: Any) -> None:
        self._exchange = exchange
        self._response = response

    def __len__(self) -> int:
        return len(self._response)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._exchange)

    def close(self) -> None:
        """Be closed by the server."""
        self._exchange.close()
