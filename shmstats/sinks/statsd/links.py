"""Connections to a StatsD server: `Datagrams` over UDP, a `Stream` over TCP."""

from __future__ import annotations

import socket
import time
from bisect import bisect_right
from errno import ECONNREFUSED, EMSGSIZE
from itertools import accumulate
from typing import Any

#: Bytes of a datagram that fits into an Ethernet frame.
DATAGRAM_BYTES = 1432

#: Bytes that are written to a TCP connection at once.
STREAM_BYTES = 16384

#: Time limit in seconds for connecting to one address and for a send, and the pause after a failure.
PATIENCE = 1.0
PAUSE = 2.0

#: Seconds after which the host is looked up again (UDP), or a connection without progress is closed (TCP).
LOOKUP_LIFE = 60.0
STALLED_LIFE = 30.0

# Addresses of the host that are tried.
_ADDRESSES = 3


class Link:
    """A connection to the server, used by one thread.

    Attributes:
        limit: most bytes to send at once.
    """

    kind: socket.SocketKind
    limit: int

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._socket: socket.socket | None = None
        self._opened_at = 0.0
        self._rest_until = 0.0

    def open(self, urgent: bool) -> bool:
        """Connect, unless connected; False if the last attempt failed just now, and it is not urgent.

        Raises:
            OSError: connecting failed.
        """
        if self._socket is not None and self._is_spent(self._socket):
            self.close()
        if self._socket is not None:
            return True
        if not urgent and time.monotonic() < self._rest_until:
            return False
        try:
            self._connect()
        except OSError:
            self.rest()
            raise
        self._opened_at = time.monotonic()
        return True

    def rest(self) -> None:
        """Close, and do not try again for a while."""
        self.close()
        self._rest_until = time.monotonic() + PAUSE

    def close(self) -> None:
        """Close this process's end, if it is open."""
        ours, self._socket = self._socket, None
        if ours is not None:
            ours.close()

    def send(self, entries: list[bytes]) -> tuple[int, OSError | None]:
        """Send entries, each of one or more lines, over the open link.

        Returns:
            The number of entries that are done with, the first ones; and the error, if there was one. The caller keeps
            the others for the next time.
        """
        raise NotImplementedError

    def _is_spent(self, ours: socket.socket) -> bool:
        """Whether a new connection is needed."""
        raise NotImplementedError

    def _prepare(self, ours: socket.socket) -> None:
        """Set options before connecting."""

    def _connect(self) -> None:
        refusal: OSError | None = None
        for family, address in self._addresses():
            # Stored before it is used, so that a child of a fork can close it.
            self._socket = socket.socket(family, self.kind)
            try:
                self._prepare(self._socket)
                self._socket.settimeout(PATIENCE)
                self._socket.connect(address)
                if self._socket.getsockname() == self._socket.getpeername():
                    # TCP connects to itself if nobody listens on a port from the kernel's range for clients.
                    raise ConnectionRefusedError(ECONNREFUSED, "connected to itself")
                return
            except OSError as error:
                refusal = error
                self.close()
        raise refusal or OSError("the host has no address")

    def _addresses(self) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
        """Look the host up; IPv4 first, because over UDP nothing shows that IPv6 was meant."""
        try:
            found = socket.getaddrinfo(self._host, self._port, type=self.kind)
        except UnicodeError as error:
            raise OSError(f"not a host name: {self._host!r} ({error})") from None
        found.sort(key=lambda each: each[0] is not socket.AF_INET)
        return [(family, address) for family, _, _, _, address in found[:_ADDRESSES]]


class Datagrams(Link):
    """UDP: one datagram for each send."""

    kind = socket.SOCK_DGRAM
    limit = DATAGRAM_BYTES

    def send(self, entries: list[bytes]) -> tuple[int, OSError | None]:
        """Send entries as one datagram."""
        assert self._socket is not None
        refusal: OSError | None = None
        for _ in range(2):
            try:
                self._socket.send(b"\n".join(entries))
            except ConnectionRefusedError as error:
                refusal = error  # the error is about an earlier datagram, and this one was not sent
            except OSError as error:
                if error.errno == EMSGSIZE:
                    return len(entries), error
                self.rest()
                return 0, error
            else:
                break
        return len(entries), refusal

    def _is_spent(self, ours: socket.socket) -> bool:
        return time.monotonic() - self._opened_at > LOOKUP_LIFE


class Stream(Link):
    """TCP: lines that all end with a line feed.

    The rest of an entry that was sent in part is sent first the next time; over a new connection, the
    whole entry is sent.
    """

    kind = socket.SOCK_STREAM
    limit = STREAM_BYTES

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._begun = 0  # bytes of the next entry that were sent

    def close(self) -> None:
        """Close this process's end; an entry that was sent in part is sent whole the next time."""
        super().close()
        self._begun = 0

    def send(self, entries: list[bytes]) -> tuple[int, OSError | None]:
        """Send as much as the server accepts in time."""
        lines = [entry + b"\n" for entry in entries]
        begun = self._begun
        sent, error = self._send_bytes(b"".join(lines)[begun:])
        starts = list(accumulate(map(len, lines), initial=0))
        whole = bisect_right(starts, begun + sent) - 1
        self._begun = begun + sent - starts[whole]
        if error is not None and not isinstance(error, TimeoutError):
            self.rest()
        return whole, error

    def _send_bytes(self, data: bytes) -> tuple[int, OSError | None]:
        """Send as many bytes as possible in time; returns their number."""
        assert self._socket is not None
        end = time.monotonic() + PATIENCE
        sent = 0
        view = memoryview(data)
        try:
            while sent < len(data):
                self._socket.settimeout(max(end - time.monotonic(), 0.001))
                sent += self._socket.send(view[sent:])
        except OSError as error:
            return sent, error
        return sent, None

    def _is_spent(self, ours: socket.socket) -> bool:
        """Whether the server has closed its end: data sent then is lost without an error."""
        ours.setblocking(False)
        try:
            for _ in range(16):
                if not ours.recv(4096):
                    return True
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    def _prepare(self, ours: socket.socket) -> None:
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_LIFE * 1000))
