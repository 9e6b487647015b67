"""The common case of the WSGI middleware in pure Python, the twin of ``_exchange.c``.

Other cases are left to methods of the class that inherits from `PlainExchange`: see `.wsgi`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ._requests import RECORDED, Cut, RequestRecorder
from ._serving import NOT_NOTED

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class PlainMiddleware:
    """Is around an application, and makes an exchange of each of its requests.

    A subclass sets ``_app`` and ``requests``, and ``plain_series``: of requests whose labels are known without asking,
    what `RequestRecorder.series` has; None if there are no such requests.
    """

    #: The class of its exchanges.
    exchange: type[PlainExchange]

    _app: Any
    requests: RequestRecorder
    plain_series: dict[Any, Any] | None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Call the application, and record what comes of it unless another middleware does already."""
        requests = self.requests
        path = environ.get("PATH_INFO", "")
        if RECORDED in environ or path in requests.paths or (requests.prefixes and path.startswith(requests.prefixes)):
            return self._app(environ, start_response)  # type: ignore[no-any-return]
        environ[RECORDED] = True
        exchange = self.exchange(self, environ, start_response)
        try:
            response = self._app(environ, exchange.start)
        except BaseException as error:
            exchange.fail(error)
            raise
        return exchange.around(response)


class PlainExchange:
    """A request that is being served: passes status and chunks on, and collects what must be recorded.

    Args:
        middleware: around the application; it has ``requests``, the `RequestRecorder`.
        environ: of the request.
        start_response: the server's.

    Attributes:
        began: the result of ``perf_counter`` when the request came.
        entry: the result of `Serving.begin`.
        status: of the response; None before there is one.
        headers: likewise.
        rule: the URL rule of Flask that matched; None for none.
        server_write: the result of the server's ``start_response``.
        response: the application's response.
        sent: bytes of the response's body so far.
        over: whether the request is recorded.
    """

    #: The class for a response that knows its number of chunks.
    sized: type[PlainExchange]

    # The other cases, which the class that inherits has.
    write: Callable[[bytes], object]
    note: Callable[[], None]
    around_other: Callable[[Iterable[bytes]], Iterable[bytes]]
    finish: Callable[[str | Cut | None], None]
    finish_early: Callable[[], None]
    fail: Callable[[BaseException], None]
    tell: Callable[[BaseException], None]

    def __init__(self, middleware: Any, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self.began = perf_counter()
        self.middleware = middleware
        self.requests: RequestRecorder = middleware.requests
        self.environ = environ
        self.start_response = start_response
        self.entry = NOT_NOTED
        self.status: str | None = None
        self.headers: Sequence[tuple[str, str]] | None = None
        self.rule: Any = None
        self.server_write: Any = None
        self.response: Any = None
        self.sent = 0
        self.over = False
        self._chunks: Iterator[bytes] | None = None
        try:
            self.requests.enter()
            self.note()
        except Exception as error:
            self.tell(error)

    def start(self, *arguments: Any, **named: Any) -> Callable[[bytes], object]:
        """The application's ``start_response``: passes each argument to the server unchanged."""
        given = named | dict(zip(("status", "headers"), arguments, strict=False))
        if not given.keys() >= {"status", "headers"}:
            raise TypeError("start_response() takes a status and headers")
        self.server_write = self.start_response(*arguments, **named)
        self.status = given["status"]
        self.headers = given["headers"]
        request = self.environ.get("werkzeug.request")
        if request is not None:  # now, because Flask drops it soon, at the end of its context
            with suppress(Exception):
                self.rule = request.url_rule
        return self.write

    def around(self, response: Iterable[bytes]) -> Iterable[bytes]:
        """Return the response that the server gets instead of the application's."""
        self.response = response
        if type(response) is list:
            self.__class__ = self.sized
            return self
        wrapper = self.environ.get("wsgi.file_wrapper")
        is_file = isinstance(wrapper, type) and isinstance(response, wrapper)
        return self if hasattr(type(response), "__next__") and not is_file else self.around_other(response)

    def __iter__(self) -> Iterator[bytes]:
        if self._chunks is None:  # else it continues where it is, as any iterator
            try:
                self._chunks = iter(self.response)
            except BaseException as error:
                self.fail(error)
                raise
        return self

    def __next__(self) -> bytes:
        if self._chunks is None:  # the caller takes the response for an iterator, which WSGI does not promise
            iter(self)
        assert self._chunks is not None
        try:
            chunk = next(self._chunks)
        except StopIteration:
            if not self.over:
                self.finish(self.status)
            raise
        except BaseException as error:
            self.fail(error)
            raise
        if isinstance(chunk, bytes):  # anything else is the server's error to report
            self.sent += len(chunk)
        return chunk

    def close(self) -> None:
        """Close the application's response, when the server closes this one."""
        if not self.over:
            self.finish_early()
        close = getattr(self.response, "close", None)
        if close is not None:
            close()
