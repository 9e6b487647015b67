"""Requests byte by byte, so that no client library normalises a path."""

from __future__ import annotations

import json
import socket
from typing import Any, NamedTuple

BOUND = 30.0


class Answer(NamedTuple):
    """An answer as it was received."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


def exchange(address: tuple[str, int], request: bytes, source: tuple[str, int] | None = None) -> Answer:
    """Send bytes on a new connection and return the answer."""
    with socket.create_connection(address, BOUND, source) as connection:
        connection.sendall(request)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    return Answer(int(first.split()[1]), {name.lower(): value.strip() for name, _, value in fields}, body)


def request_of(method: str, target: bytes | str, *headers: str, host: str = "localhost") -> bytes:
    """The bytes of a request with an unmodified target."""
    target = target.encode("latin-1") if isinstance(target, str) else target
    lines = [f"Host: {host}", "Connection: close", *headers]
    return method.encode() + b" " + target + b" HTTP/1.1\r\n" + "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
