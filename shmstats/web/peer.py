"""The user whose process sent a request: the kernel knows the owner of the socket at the other end.

For a Unix socket that is SO_PEERCRED. For a loopback connection that the server exposes the kernel is asked, see
sock_diag(7): that takes 50 µs. Otherwise both ends are in this machine's tables of TCP sockets (``/proc/net/tcp``, see
proc(5)) with the uids of their owners: reading them takes 7 ms, and more with thousands of sockets.
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
_Connection = tuple[_End, _End]

_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_TIME_WAIT = "06"

#: Columns of a table: both ends of a connection as its owner sees it, its state, its uid and inode. A table may have
#: many thousands of rows, so ends are only converted for the few rows that are needed.
_LOCAL, _REMOTE, _STATE, _UID, _INODE = 1, 2, 3, 7, 9

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_ALL_STATES = 2**32 - 1

#: inet_diag_sockid: ports and addresses in network order; then interface and cookie, in a question for any.
_SOCKET = "HH16s16sIII"
_ANY = (0, 2**32 - 1, 2**32 - 1)

#: nlmsghdr: length, type, flags, sequence, port. Then inet_diag_req_v2: family, protocol, extensions, padding, a bit
#: for each state, socket; or inet_diag_msg: family, state, timer, retransmissions, socket, expires, rqueue, wqueue,
#: uid, inode.
_QUESTION = struct.Struct(f"=IHHII BBBxI {_SOCKET}")
_ANSWER = struct.Struct(f"=IHHII BBBB {_SOCKET} IIIII")
_PORTS = slice(9, 11)

#: Seconds that the kernel has to answer, and most bytes of an answer.
_SECONDS, _MOST = 1.0, 4096


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

    Of a client that has reset the connection nothing is left, and another socket may have its address and port: only
    the socket at the other end of a connection of this process counts. A request without a port was made in this
    process if that has no server.
    """
    connection = connection_of(environ)
    with suppress(OSError, ValueError, AttributeError):
        if connection is not None and connection.family == socket.AF_UNIX:
            return {peer_of(connection).uid}
        if connection is not None:
            ends = _end_of(connection.getpeername()), _end_of(connection.getsockname())
            with suppress(OSError, ValueError):  # not available everywhere: then the tables are
                owner = _owner_of_peer(*ends)
                return None if owner is None else {owner}
            return _owners({ends})
        address, port = ip_address(environ.get("REMOTE_ADDR", "")), int(environ.get("REMOTE_PORT") or 0)
        own = set(_own_sockets())
        if port:
            return _owners({ends for ends in own if ends[0] == (address, port)})
        if all(theirs[1] for theirs, _ in own):  # none listens
            return {os.geteuid()}
    return None


def _owner_of_peer(theirs: _End, ours: _End) -> int | None:
    """Return the user who owns the socket at the other end of a connection; None if its owner has closed it.

    Raises:
        OSError: the kernel cannot be asked, or knows no such socket.
    """
    family = socket.AF_INET6 if theirs[0].version == 6 else socket.AF_INET
    ports = socket.htons(theirs[1]), socket.htons(ours[1])
    wanted = (*ports, theirs[0].packed, ours[0].packed, *_ANY)
    header = _QUESTION.size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_SECONDS)
        kernel.sendto(_QUESTION.pack(*header, family, socket.IPPROTO_TCP, 0, _ALL_STATES, *wanted), (0, 0))
        answer = kernel.recv(_MOST)
    found = _ANSWER.unpack_from(answer) if len(answer) >= _ANSWER.size else ()
    if found[_PORTS] != ports:  # an error, or a listening socket, which is connected to port 0
        raise OSError(errno.ENOENT, "the kernel knows no such socket")
    *_, uid, inode = found
    return uid if inode else None  # without an inode the kernel no longer knows the owner, and says 0


def _owners(connections: set[_Connection]) -> set[int] | None:
    """Return the owners of the sockets at the first ends of connections; None if one is not found, or has no owner."""
    found: dict[_Connection, set[int]] = {ends: set() for ends in connections}
    ports = {f":{port:04X}" for (_, port), _ in connections}
    for row in _connections():
        if row[_LOCAL][-5:] not in ports or row[_STATE] == _TIME_WAIT:
            continue
        ends = _end(row[_LOCAL]), _end(row[_REMOTE])
        if ends not in found:
            continue
        if row[_INODE] == "0":  # closed by its owner, whom the kernel no longer knows: it says 0
            return None
        found[ends].add(int(row[_UID]))
    return set().union(*found.values()) if found and all(found.values()) else None


def _own_sockets() -> Iterator[_Connection]:
    """Give both ends of this process's TCP sockets, the other one first: its port is 0 if the socket listens."""
    inodes = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    return ((_end(row[_REMOTE]), _end(row[_LOCAL])) for row in _connections() if row[_INODE] in inodes)


def _connections() -> Iterator[list[str]]:
    """Give the rows of the kernel's tables, split into columns."""
    for table in _TABLES:
        with suppress(FileNotFoundError), open(table) as file:  # without IPv6 one is missing
            yield from (line.split() for line in file.readlines()[1:])


def _end_of(name: tuple[str, int]) -> _End:
    """Return the address and port in a name from `socket`."""
    return ip_address(name[0]), name[1]


def _end(text: str) -> _End:
    """Return an address and port from the kernel's hexadecimal words in the machine's byte order."""
    address, _, port = text.partition(":")
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return ip_address(packed), int(port, 16)
