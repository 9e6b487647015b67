"""One HTTP request with a time limit, and an answer with a size limit, using the standard library.

A push is one POST every few seconds, on its own connection: it needs no pool, no
retries (the next push is one) and no redirects, and code that only counts gets no further dependency. This module adds
what the library lacks: one deadline for connecting, TLS, sending and reading together.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ...frozen import NamedTuple

_BODY_BYTES = 512
_LONGEST_RETRY = 3600.0
_PAGES = ("text/html", "application/xhtml+xml")


class Answer(NamedTuple):
    """The answer of a server.

    Attributes:
        status: of HTTP.
        content_type: without parameters, in lower case; empty if there is none.
        body: its first 512 bytes; for a refusal, empty if they did not arrive.
        retry_after: seconds that the server asks to wait; 0 for none.
    """

    status: int
    content_type: str
    body: bytes
    retry_after: float

    @property
    def said(self) -> str:
        """The beginning of the body as one line."""
        return one_line(self.body.decode("utf-8", "replace"))

    @property
    def page(self) -> str:
        """The content type if the body is a page for people, which no engine answers; else empty."""
        if self.content_type in _PAGES:
            return self.content_type
        is_html = self.body.lstrip().lower().startswith((b"<!doctype html", b"<html"))
        return _PAGES[0] if is_html and not self.content_type else ""


def one_line(text: str) -> str:
    """Return the beginning of a server's text, fit for a log."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:200]


def shown(url: str) -> str:
    """Return a URL for messages, without the query, which may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def post(url: str, timeout: float, ca_file: str | None, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Send a body and return the answer.

    Args:
        url: an http or https URL without credentials.
        timeout: seconds for the whole request.
        ca_file: PEM file of certificates to trust instead of the system's.
        body: to send.
        headers: of the request.

    Raises:
        OSError: no connection, no trust, no answer in time, or one that is not HTTP. The message says which.
    """
    parts = urlsplit(url)
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    deadline = time.monotonic() + timeout
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # The port must be given: without one, the end of an IPv6 address would be taken for it.
    connection = http.client.HTTPConnection(host, parts.port or (443 if is_tls else 80), timeout)
    try:
        connection.connect()
        connection.sock.settimeout(_left(deadline))
        if is_tls:
            connection.sock = _context(ca_file).wrap_socket(connection.sock, server_hostname=host)
            connection.sock.settimeout(_left(deadline))
        connection.response_class = functools.partial(_Response, deadline=deadline)  # type: ignore[assignment]
        connection.request("POST", path, body, {"Host": parts.netloc, **headers, "Connection": "close"})
        with connection.getresponse() as response:
            content_type = response.getheader("Content-Type", "").partition(";")[0].strip().lower()
            return Answer(response.status, content_type, _body(response), _seconds(response.getheader("Retry-After")))
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {timeout:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise OSError(f"the certificate of the server is not trusted: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise OSError(f"TLS failed: {error.reason or error}") from error
    except UnicodeError as error:
        raise OSError(f"the host name is invalid: {error}") from error
    except http.client.HTTPException as error:
        raise OSError(f"the answer is not HTTP: {type(error).__name__}: {str(error)[:100]!r}") from error
    finally:
        connection.close()


def _context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise OSError(f"the certificates of ca_file {ca_file} cannot be read: {error}") from error


class _Reader(io.RawIOBase):
    """Reads a socket until a deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open, which http.client closes at any time
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return the reader that `http.client.HTTPResponse` asks a socket for."""
        return io.BufferedReader(self)


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **more: Any) -> None:
        super().__init__(_Reader(sock, deadline), *args, **more)  # type: ignore[arg-type]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is over")
    return left


def _body(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_BODY_BYTES)
    except (OSError, http.client.HTTPException):
        if 200 <= response.status < 300:  # what was taken is not known
            raise
        return b""


def _seconds(retry_after: str | None) -> float:
    try:
        seconds = float(retry_after or 0)
    except ValueError:  # a date: the usual wait is enough
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_RETRY)
