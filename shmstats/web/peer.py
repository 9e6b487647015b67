"""Whose process sent a request: the kernel knows the owner of the socket at the other end.

Over a Unix socket that is SO_PEERCRED. Of a loopback connection both ends are in this machine's tables of TCP sockets
(``/proc/net/tcp``, see proc(5)), each with the uid of its owner. Where neither can be had, nothing is known.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_TIME_WAIT = 6
_UCRED = struct.Struct("iII")  # pid, uid, gid

#: An address and a port. IPv4 within IPv6 is IPv4.
_End = tuple[str, int]


class _Connection(NamedTuple):
    """A row of the kernel's table: one end of a connection, as its owner sees it."""

    local: _End
    remote: _End
    state: int
    uid: int
    inode: int


def connection_of(environ: WSGIEnvironment) -> socket.socket | None:
    """Return the connection that a request came over, where the server gives it."""
    found: socket.socket | None = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    return found


def peer_uids(environ: WSGIEnvironment) -> set[int] | None:
    """Return the users who may have sent a request; one as a rule. None where that cannot be known.

    A server that does not tell the port of its client may have several clients: then all count. A request
    that came through no socket at all was made in this process.
    """
    connection = connection_of(environ)
    with suppress(OSError, ValueError, AttributeError, ipaddress.AddressValueError):
        if connection is not None and connection.family == socket.AF_UNIX:
            return {_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]}
        address = _plain(environ.get("REMOTE_ADDR", ""))
        if environ.get("REMOTE_PORT"):
            return _owners([(address, int(environ["REMOTE_PORT"]))])
        clients = [row.remote for row in _own_connections() if row.remote[0] == address]
        return _owners(clients) if clients else {os.geteuid()}
    return None


def _owners(ends: list[_End]) -> set[int] | None:
    """Return the owners of the sockets at some ends of connections; None where one has none, or is not seen."""
    found: dict[_End, set[int]] = {end: set() for end in ends}
    for row in _connections():
        if row.local in found and row.state != _TIME_WAIT:
            if row.inode == 0:  # closed by its owner, whom the kernel does not know any more: it says 0
                return None
            found[row.local].add(row.uid)
    return set().union(*found.values()) if all(found.values()) else None


def _own_connections() -> Iterator[_Connection]:
    """Give the connections of which this process has the one end."""
    inodes = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if target.startswith("socket:["):
                inodes.add(int(target[8:-1]))
    return (row for row in _connections() if row.inode in inodes and row.remote[1])


def _connections() -> Iterator[_Connection]:
    for table in _TABLES:
        try:
            with open(table) as file:
                lines = file.readlines()[1:]
        except FileNotFoundError:  # no IPv6
            continue
        for line in lines:
            fields = line.split()
            yield _Connection(_end(fields[1]), _end(fields[2]), int(fields[3], 16), int(fields[7]), int(fields[9]))


def _end(text: str) -> _End:
    """Return an address and port that the kernel writes as words of the machine's order in hexadecimal."""
    address, _, port = text.partition(":")
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return _plain(str(ipaddress.ip_address(packed))), int(port, 16)


def _plain(address: str) -> str:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
