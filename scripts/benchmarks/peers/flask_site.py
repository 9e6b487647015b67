"""One request after another to a Flask application, through its WSGI callable and without a server."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from .serving import CallLoop

#: The environment that gunicorn's sync worker passes to an application for a plain GET of wrk.
ENVIRON: dict[str, Any] = {
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.multithread": False,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,
    "SERVER_SOFTWARE": "gunicorn",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_NAME": "127.0.0.1",
    "SERVER_PORT": "8000",
    "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "40000",
    "REQUEST_METHOD": "GET",
    "QUERY_STRING": "",
    "RAW_URI": "/hello",
    "PATH_INFO": "/hello",
    "SCRIPT_NAME": "",
    "HTTP_HOST": "127.0.0.1:8000",
}


def _start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
    assert status == "200 OK", status
    return _write


def _write(data: bytes) -> None:
    """Never called."""


def request_loop(site: Any) -> CallLoop:
    """Return a loop of requests."""
    errors = io.StringIO()

    def loop(calls: int) -> None:
        for _ in range(calls):
            environ = {**ENVIRON, "wsgi.input": io.BytesIO(), "wsgi.errors": errors}
            body = site(environ, _start_response)
            for _part in body:
                pass
            close = getattr(body, "close", None)
            if close is not None:
                close()

    loop(10)
    return loop
