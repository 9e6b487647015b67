"""The user whose process sent a request: the kernel knows the owner of the socket at the other end.

For a Unix socket that is SO_PEERCRED. For a loopback connection that the server exposes the kernel is asked, see
sock_diag(7): that takes 50 µs. Otherwise both ends are in this machine's tables of TCP sockets (``/proc/net/tcp``, see
proc(5)) with the uids of their owners: reading them takes 1 ms for each thousand sockets.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from ..attachment.peers import peer_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: An address and a port.
_End = tuple[_Address, int]

_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_TIME_WAIT = "06"

#: Columns of a table: both ends of a connection as its owner sees it, its state, its uid and inode. A table may have
#: many thousands of rows, so ends are only converted for the few rows that are needed.
_LOCAL, _REMOTE, _STATE, _UID, _INODE = 1, 2, 3, 7, 9

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1

#: nlmsghdr: length, type, flags, sequence, port.
_HEADER = struct.Struct("=IHHII")

#: inet_diag_req_v2: family, protocol, extensions, padding, and a bit for each state.
_QUESTION = struct.Struct("=BBBxI")
_ALL_STATES = 2**32 - 1

#: inet_diag_sockid: ports and addresses in network order; then interface and cookie, here any.
_SOCKET = struct.Struct("!HH16s16s")
_ANY = struct.pack("=III", 0, 2**32 - 1, 2**32 - 1)

#: inet_diag_msg: family, state, timer, retransmissions; after the socket: expires, rqueue, wqueue, uid, inode.
_ANSWER = struct.Struct("=BBBB")
_OWNER = struct.Struct("=IIIII")

#: Seconds that the kernel has to answer, and most bytes of an answer.
_SECONDS, _MOST = 1.0, 4096

#: The prefix of an IPv4 address within IPv6.
_MAPPED = bytes(10) + b"\xff\xff"


def ip_address(address: str | bytes) -> _Address:
    """Return an address from its text or its packed form; IPv4 within IPv6 is IPv4.

    Raises:
        ValueError: it is none.
    """
    found = ipaddress.ip_address(address)
    return getattr(found, "ipv4_mapped", None) or found


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
    with suppress(OSError, ValueError, AttributeError):
        if connection is not None and connection.family == socket.AF_UNIX:
            return {peer_of(connection).uid}
        if connection is not None:
            with suppress(OSError, ValueError, AttributeError):  # not available everywhere: then the tables are
                owner = _owner_of_peer(connection)
                return None if owner is None else {owner}
        address = ip_address(environ.get("REMOTE_ADDR", ""))
        if environ.get("REMOTE_PORT"):
            return _owners([(address, int(environ["REMOTE_PORT"]))])
        clients = [end for end in _own_clients() if end[0] == address]
        return _owners(clients) if clients else {os.geteuid()}
    return None


def _owner_of_peer(connection: socket.socket) -> int | None:
    """Return the user who owns the socket at the other end; None if its owner has closed it.

    Raises:
        OSError, ValueError: the kernel cannot be asked, or knows no such socket.
    """
    theirs, ours = connection.getpeername()[:2], connection.getsockname()[:2]
    family, asked, mapped = _socket_of(theirs, ours)
    body = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES) + asked + _ANY
    question = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_SECONDS)
        kernel.sendto(question, (0, 0))
        answer = kernel.recv(_MOST)
    at = _HEADER.size + _ANSWER.size
    found = answer[at : at + _SOCKET.size] in (asked, mapped)  # else it is an error, or a listening socket
    if len(answer) < at + _SOCKET.size + len(_ANY) + _OWNER.size or not found:
        raise OSError(errno.ENOENT, "the kernel knows no such socket")
    *_, uid, inode = _OWNER.unpack_from(answer, at + _SOCKET.size + len(_ANY))
    return int(uid) if inode else None  # without an inode the kernel no longer knows the owner, and says 0


def _socket_of(local: tuple[str, int], remote: tuple[str, int]) -> tuple[int, bytes, bytes]:
    """Return a socket's family and identity in the kernel's form; for IPv4 also the form of a socket of IPv6."""
    ends = [ip_address(address) for address, _ in (local, remote)]
    asked = _SOCKET.pack(local[1], remote[1], *(end.packed for end in ends))
    if any(end.version == 6 for end in ends):
        return socket.AF_INET6, asked, asked
    return socket.AF_INET, asked, _SOCKET.pack(local[1], remote[1], *(_MAPPED + end.packed for end in ends))


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
    return ip_address(packed), int(port, 16)
