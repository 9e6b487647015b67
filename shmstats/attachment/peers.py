"""Questions that one process asks the others of its block: what their threads do, how much memory they use.

Every worker has a Unix stream socket beside the block, named after its slot. A question is one line, its
answer is one line of JSON, and a connection carries one of each::

    asker                                   worker
    connect, stacks              ->
                                 <-         {"answer": [...]} or {"error": "..."}, and closes

`Listener` is the worker's side. It never waits: the agent calls it when one of `Listener.descriptors` is ready. A slow
client costs a descriptor until its time is over, but no time. The asker's side is `shmstats.attachment.asking`. Both
check by SO_PEERCRED (unix(7)) that the other is the owner of the block or root. The sockets are those of the operating
system, even if gevent or eventlet have replaced Python's.

The agent also *beats*: it touches its socket at intervals, so that other processes see that it makes progress. The time
of a touch is from the monotonic clock, which all processes of a machine share and nobody sets.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from .. import lifecycle, native
from ..block.identity import SHARED_MEMORY, files_beside
from ..block.workers import Worker
from ..descriptors import above_standard, leads_to
from ..frozen import Frozen

log = logging.getLogger("shmstats")

#: Seconds between two touches, and those without one after which a thread is considered stuck.
BEAT_SECONDS = 5.0
_STUCK_SECONDS = 3 * BEAT_SECONDS

_QUESTION_LIMIT = 64
_BACKLOG = 128
#: Most connections of a listener; beyond that the oldest is closed. Fewer are accepted at once, so that a client
#: that asks without delay is answered before it is the oldest.
_CLIENTS = 64
_ACCEPTED_AT_ONCE = 16
_CLIENT_SECONDS = 2.0

#: struct ucred: pid, uid, gid.
_CREDENTIALS = struct.Struct("iII")


def socket_path(name: str, slot: int) -> str:
    """Return the path of a worker's socket: short, because there is room for 108 bytes (unix(7)).

    Args:
        name: of the block's segment.
        slot: of the worker.
    """
    return os.path.join(SHARED_MEMORY, f"{name}.{slot}.sock")


def remove_stale(name: str, live_slots: Collection[int]) -> None:
    """Unlink the sockets of dead workers. The table lock is held.

    Args:
        name: of the block's segment.
        live_slots: the slots whose sockets stay.
    """
    for entry, rest in files_beside(os.path.join(SHARED_MEMORY, name)):
        slot, _, kind = rest.partition(".")  # kind is "sock", or four digits while the socket is being made
        if slot.isdecimal() and int(slot) not in live_slots and len(kind) == 4:
            with suppress(OSError):
                if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                    os.unlink(entry.path)


class _Client:
    """A connection to a listener: the received part of the question, then the rest of the answer."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.deadline = time.monotonic() + _CLIENT_SECONDS
        self.asked = b""
        self.answer: memoryview | None = None


class Listener:
    """The socket of this process for questions of other processes. For use by one thread.

    The file has mode 0600. The socket of a dead worker at the path is replaced.

    Args:
        path: of the socket, from `socket_path`.
        owner: user id of the block's owner, who is given the socket and may ask, as root may; None: this user.

    Raises:
        OSError: there is something else at the path, or the socket cannot be made.
    """

    def __init__(self, path: str, owner: int | None = None) -> None:
        self.path = path
        self._owner = os.geteuid() if owner is None else owner
        self._clients: dict[int, _Client] = {}
        self._opened: os.stat_result | None = None
        with ExitStack() as undo:
            self._socket = new_socket()
            undo.callback(self.forget)
            self._opened = os.fstat(self._socket.fileno())
            _remove_socket(path, self._owner)
            # A temporary name until it is complete. It must not be longer, because there is little room for the path.
            made = f"{path.removesuffix('sock')}{os.getpid() & 0xFFFF:04x}"
            with suppress(FileNotFoundError):
                os.unlink(made)
            self._socket.bind(made)
            undo.callback(os.unlink, made)
            # Nobody can connect before listen(), whatever mode the umask has given it until here.
            os.chmod(made, 0o600)
            if os.geteuid() != self._owner:
                os.chown(made, self._owner, -1, follow_symlinks=False)
            self._file = os.lstat(made)
            self._socket.listen(_BACKLOG)
            os.rename(made, path)
            undo.pop_all()
        lifecycle.take_part(lifecycle.Stage.SOCKETS, self)

    def descriptors(self) -> Iterator[tuple[int, int]]:
        """Give the descriptors to wait for; when one is ready, call `serve`."""
        yield self._socket.fileno(), select.POLLIN
        for number, client in self._clients.items():
            yield number, (select.POLLIN if client.answer is None else select.POLLOUT) | select.POLLRDHUP

    def serve(self, answers: Mapping[str, Callable[[], Any]]) -> None:
        """Do what is possible without waiting: read questions, send answers, accept.

        Args:
            answers: for each question the function that returns its answer, which must fit JSON. An exception is
                logged, and the asker is told.
        """
        self._drop_expired()
        poll = native.original("select", "poll")()
        for descriptor, wanted in self.descriptors():
            poll.register(descriptor, wanted)
        events = dict(poll.poll(0))
        # Accepting comes last: a new client may get the descriptor of one that still has events to handle.
        arrived = events.pop(self._socket.fileno(), 0)
        for number, event in events.items():
            self._advance(self._clients[number], event, answers)
        if arrived:
            self._accept()

    def close(self) -> None:
        """Close the socket and unlink its file, unless another socket has replaced it."""
        if self._socket.fileno() < 0:
            return
        with suppress(FileNotFoundError, PermissionError):  # the latter: made as root, which this process no longer is
            if os.path.samestat(os.lstat(self.path), self._file):
                os.unlink(self.path)
        if not self.is_lost:
            for client in list(self._clients.values()):
                self._drop(client)
        self.forget()

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed the socket and its connections, whose numbers may be reused."""
        return self._opened is None or not leads_to(self._socket.fileno(), self._opened)

    def forget(self) -> None:
        """Close what the child of a fork has inherited; the parent's socket is not affected."""
        sockets = [self._socket, *(client.connection for client in self._clients.values())]
        for each in sockets if self.is_lost else ():
            each.detach()
        for each in sockets:
            each.close()
        self._clients.clear()

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            connection.setblocking(False)
            if peer_of(connection).uid not in (self._owner, 0):
                connection.close()
                continue
            if len(self._clients) >= _CLIENTS:
                self._drop(next(iter(self._clients.values())))
            self._clients[connection.fileno()] = _Client(connection)

    def _advance(self, client: _Client, events: int, answers: Mapping[str, Callable[[], Any]]) -> None:
        """Serve a client one step further. One that has gone away is not answered."""
        if events & (select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL):
            self._drop(client)
            return
        try:
            if client.answer is None:
                self._read(client, answers)
            if client.answer is not None:
                client.answer = client.answer[client.connection.send(client.answer) :]
                if not client.answer:
                    self._drop(client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)

    def _read(self, client: _Client, answers: Mapping[str, Callable[[], Any]]) -> None:
        client.asked += client.connection.recv(_QUESTION_LIMIT)
        question, end, _ = client.asked.partition(b"\n")
        if end:
            client.answer = memoryview(_answer(question.decode("ascii", "replace"), answers))
        elif len(client.asked) >= _QUESTION_LIMIT:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        # Forgotten before it is closed, because the next connection may get its number. Shutting down
        # ends the connection even if the child of a fork still has a copy of the descriptor.
        del self._clients[client.connection.fileno()]
        with suppress(OSError):
            client.connection.shutdown(socket.SHUT_RDWR)
        client.connection.close()

    def _drop_expired(self) -> None:
        now = time.monotonic()
        for client in [client for client in self._clients.values() if client.deadline < now]:
            self._drop(client)


def _answer(question: str, answers: Mapping[str, Callable[[], Any]]) -> bytes:
    """Return the line with the answer to a question."""
    message: dict[str, Any]
    try:
        message = {"answer": answers[question]()} if question in answers else {"error": "unknown question"}
        line = json.dumps(message, separators=(",", ":"))
    except Exception as error:
        log.error("the question %r could not be answered: %s: %s", question, type(error).__name__, error)
        line = json.dumps({"error": f"{type(error).__name__}: {error}"})
    return line.encode() + b"\n"


class Peer(Frozen):
    """The process at the other end of a connection."""

    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """Return the process at the other end of a Unix socket's connection.

    Raises:
        OSError: it cannot be determined.
    """
    if sys.platform == "darwin":  # struct xucred of LOCAL_PEERCRED, and LOCAL_PEERPID; unix(4) there
        _, uid = struct.unpack_from("II", connection.getsockopt(0, 1, 76))
        (pid,) = struct.unpack("i", connection.getsockopt(0, 2, 4))
        return Peer(pid, uid)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Peer(*_CREDENTIALS.unpack(credentials)[:2])


def new_socket() -> socket.socket:
    """Return a Unix stream socket that never waits."""
    make: type[socket.socket] = native.original("socket", "socket")
    connection = make(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if connection.fileno() <= 2:  # the number of a closed standard stream
            connection = make(fileno=above_standard(connection.detach()))
        connection.setblocking(False)
    except OSError:
        connection.detach()  # other code has closed it already, and may use its number
        raise
    return connection


def _remove_socket(path: str, owner: int) -> None:
    """Remove a socket that nobody listens at any more.

    Raises:
        FileExistsError: the path is something else.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid not in (owner, os.geteuid()):
        raise FileExistsError(
            f"{path} is {stat.filemode(found.st_mode)} of user {found.st_uid};"
            f" it must be a socket of user {owner}, or not there"
        )
    os.unlink(path)


def beat(path: str) -> None:
    """Show that the thread that listens at a socket makes progress."""
    now = time.monotonic_ns()
    with suppress(OSError):
        os.utime(path, ns=(now, now), follow_symlinks=False)


def is_listening(name: str, slot: int) -> bool:
    """Tell whether the worker in a slot of a block has a thread that has not been silent for too long."""
    return 0 <= _silence(socket_path(name, slot)) <= _STUCK_SECONDS


def _silence(path: str) -> float:
    """Return for how many seconds a thread has been silent; -1 if there is none."""
    try:
        touched = os.lstat(path).st_mtime_ns
    except OSError:
        return -1.0
    return max(time.monotonic_ns() - touched, 0) / 1e9


class Watch:
    """Reports each background thread that is stuck, once.

    Args:
        tell: called with a line about it.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._stuck: frozenset[int] = frozenset()

    def look(self, name: str, workers: Iterable[Worker]) -> None:
        """Check the live workers of the block with a segment's name."""
        silences = {worker.pid: _silence(socket_path(name, worker.slot)) for worker in workers}
        stuck = frozenset(pid for pid, seconds in silences.items() if seconds > _STUCK_SECONDS)
        for pid in stuck - self._stuck:
            self._tell(
                f"the background thread of process {pid} has made no progress for {silences[pid]:.0f} s: it does not"
                f" flush or save, and answers no debug questions. Possible causes: the process is stopped, it stays"
                f" in C code without releasing the GIL, or uWSGI runs without enable-threads"
            )
        self._stuck = stuck
