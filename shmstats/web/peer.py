"""The user whose process sent a request: the kernel knows the owner of the socket at the other end.

For a Unix socket that is SO_PEERCRED. For a loopback connection that the server exposes the kernel is asked; otherwise
both ends are in this machine's tables of TCP sockets (``/proc/net/tcp``, see proc(5)) with the uids of their owners.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from ..attachment.peers import peer_of
from .inet_diag import owner_of_peer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_TIME_WAIT = "06"

#: An address and a port. IPv4 within IPv6 is IPv4.
_End = tuple[str, int]

#: Columns of a table: both ends of a connection as its owner sees it, its state, its uid and inode. A table may have
#: many thousands of rows, so ends are only converted for the few rows that are needed.
_LOCAL, _REMOTE, _STATE, _UID, _INODE = 1, 2, 3, 7, 9


def connection_of(environ: WSGIEnvironment) -> socket.socket | None:
    """Return the connection of a request, if the server exposes it."""
    found: socket.socket | None = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    return found


def peer_uids(environ: WSGIEnvironment) -> set[int] | None:
    """Return the users who may have sent a request; usually one. None if unknown.

    If the server does not tell the port of its client, the users of all its clients are returned. A request
    that came through no socket at all was made in this process.
    """
    connection = connection_of(environ)
    with suppress(OSError, ValueError, AttributeError, ipaddress.AddressValueError):
        if connection is not None and connection.family == socket.AF_UNIX:
            return {peer_of(connection).uid}
        if connection is not None:
            with suppress(OSError, ValueError, AttributeError):  # not available everywhere: then the tables are
                owner = owner_of_peer(connection)
                return None if owner is None else {owner}
        address = _plain(environ.get("REMOTE_ADDR", ""))
        if environ.get("REMOTE_PORT"):
            return _owners([(address, int(environ["REMOTE_PORT"]))])
        clients = [end for end in _own_clients() if end[0] == address]
        return _owners(clients) if clients else {os.geteuid()}
    return None


def _owners(ends: list[_End]) -> set[int] | None:
    """Return the owners of the sockets at some ends of connections; None if one has no owner, or is not found."""
    found: dict[_End, set[int]] = {end: set() for end in ends}
    ports = {f":{port:04X}" for _, port in ends}
    for row in _connections():
        if row[_LOCAL][-5:] not in ports or row[_STATE] == _TIME_WAIT or (end := _end(row[_LOCAL])) not in found:
            continue
        if row[_INODE] == "0":  # closed by its owner, whom the kernel no longer knows: it says 0
            return None
        found[end].add(int(row[_UID]))
    return set().union(*found.values()) if all(found.values()) else None


def _own_clients() -> Iterator[_End]:
    """Give the other ends of this process's connections."""
    inodes = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    ends = (_end(row[_REMOTE]) for row in _connections() if row[_INODE] in inodes)
    return (end for end in ends if end[1])


def _connections() -> Iterator[list[str]]:
    """Give the rows of the kernel's tables, split into columns."""
    for table in _TABLES:
        with suppress(FileNotFoundError), open(table) as file:  # without IPv6 one is missing
            yield from (line.split() for line in file.readlines()[1:])


def _end(text: str) -> _End:
    """Return an address and port from the kernel's hexadecimal words in the machine's byte order."""
    address, _, port = text.partition(":")
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return _plain(str(ipaddress.ip_address(packed))), int(port, 16)


def _plain(address: str) -> str:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
