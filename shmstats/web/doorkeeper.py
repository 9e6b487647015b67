"""A gunicorn worker that slow clients cannot occupy: a thread gets a request only when its head is complete.

gunicorn's own threaded worker gives a connection to a thread as soon as it has sent something, and that
thread waits for the rest, so a few half-sent requests stop a server. Here one thread watches all such connections. It
ends a connection whose head takes too long or is too large, and one that does not read its answer.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from .. import native

#: Seconds within which a client must have sent the head of its request.
HEAD_SECONDS = 10.0

#: Most bytes of a head; gunicorn itself refuses a line or field of more than 8 KB.
HEAD_BYTES = 32_768

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

#: Bytes to read and drop from a connection that is being ended, so that they are not parsed.
_DISCARDED = 4_000_000

#: Seconds that an answer waits for its client.
_ANSWER_SECONDS = 10

_HEAD_END = b"\r\n\r\n"


class Doorkeeper:
    """Keeps connections until they have sent the head of a request.

    Args:
        admit: called from the watching thread with each connection that has sent a head; and with each that never will,
            shut down, so that it reads as ended.
        is_open: whether the server still serves; if not, all waiting connections are ended.
    """

    def __init__(self, admit: Callable[[Any], None], is_open: Callable[[], bool]) -> None:
        self._admit = admit
        self._is_open = is_open
        self._poll = select.epoll()
        self._waiting: dict[int, tuple[Any, float]] = {}  # by descriptor; both threads use it, each in single steps
        native.Thread(self._keep, "shmstats-doorkeeper").start()

    def receive(self, connection: Any) -> None:
        """Admit a connection that has sent a head, or keep it."""
        if _has_head(connection.sock):
            self._admit(connection)
            return
        number = connection.sock.fileno()
        self._waiting[number] = connection, time.monotonic() + HEAD_SECONDS
        try:
            self._poll.register(number, select.EPOLLIN | select.EPOLLET)  # tells once of each piece that arrives
        except (OSError, ValueError):
            self._let_go(number, ended=True)

    def _keep(self) -> None:
        while True:
            for number, _ in self._poll.poll(1.0):
                connection, _ = self._waiting.get(number, (None, 0.0))
                if connection is not None and _has_head(connection.sock):
                    self._let_go(number, ended=False)
            now = time.monotonic() if self._is_open() else float("inf")
            for number, (_, deadline) in self._waiting.copy().items():
                if deadline < now:
                    self._let_go(number, ended=True)

    def _let_go(self, number: int, ended: bool) -> None:
        connection, _ = self._waiting.pop(number, (None, 0.0))
        if connection is None:
            return
        with suppress(OSError, ValueError):
            self._poll.unregister(number)
        if ended:
            _end(connection.sock)
        self._admit(connection)


class PatientWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's threaded worker, behind a `Doorkeeper`."""

    def init_process(self) -> None:
        """Begin to serve, in the process of the worker."""
        self._doorkeeper: Doorkeeper | None = None
        if not self.cfg.is_ssl and hasattr(select, "epoll"):  # encrypted data cannot be inspected; macOS has no epoll
            self._doorkeeper = Doorkeeper(super().enqueue_req, lambda: self.alive)
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        """Pass a connection to a thread, once it has sent the head of a request."""
        if self._doorkeeper is None:
            super().enqueue_req(conn)
            return
        with suppress(OSError):
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _ANSWER_SECONDS, 0))
        self._doorkeeper.receive(conn)

    def handle(self, conn: Any) -> Any:
        """Serve a connection, in a thread; returns whether it stays open.

        gunicorn's main thread reads what an ended connection still sends, so an endless sender would stop
        the server. Therefore nothing more is read from it.
        """
        kept = super().handle(conn)
        if not kept and not self.cfg.is_ssl:
            with suppress(OSError):
                conn.sock.shutdown(socket.SHUT_RD)
        return kept


def _end(connection: socket.socket) -> None:
    """End a connection: a read returns its end, and what it has sent is dropped."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
        left = _DISCARDED
        while left > 0 and (piece := connection.recv(65_536, socket.MSG_DONTWAIT)):
            left -= len(piece)


def _has_head(connection: socket.socket) -> bool:
    """Tell whether a thread may read: the connection has a complete head, a head that is too large, or its end."""
    try:
        head = connection.recv(HEAD_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    if len(head) == HEAD_BYTES and _HEAD_END not in head:
        with suppress(OSError):
            connection.send(_TOO_LARGE, socket.MSG_DONTWAIT)
        _end(connection)
        return True
    return not head or _HEAD_END in head
