"""Questions that one process asks the others of its block: what their threads do, how much memory they use.

Every worker has a Unix stream socket beside the block, named after its slot. A question is one line, its
answer is one line of JSON, and a connection carries one of each::

    asker                                   worker
    connect, stacks              ->
                                 <-         {"answer": [...]} or {"error": "..."}, and closes

`Listener` is the worker's side. It never waits: the agent calls it when one of `Listener.descriptors` is ready. A slow
client costs a descriptor until its time is over, but no time. `ask_all` is the asker's side: all workers at once, with
one deadline. A process that cannot answer, because it is stopped or in C code, is reported as such. Both sides check by
SO_PEERCRED (unix(7)) that the other is the owner of the block or root. The sockets are those of the operating system,
even if gevent or eventlet have replaced Python's.
"""

from __future__ import annotations

import json
import logging
import os
import select
import selectors
import socket
import stat
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from .. import lifecycle, native
from ..block.identity import SHARED_MEMORY, files_beside
from ..descriptors import above_standard, leads_to
from ..frozen import Frozen

log = logging.getLogger("shmstats")

#: Seconds that the other processes have to answer.
TIMEOUT = 1.0

#: Most bytes of an answer.
ANSWER_LIMIT = 16 * 2**20

_QUESTION_LIMIT = 64
_BACKLOG = 128
#: Most connections of a listener; beyond that the oldest is closed. Fewer are accepted at once, so that a client
#: that asks without delay is answered before it is the oldest.
_CLIENTS = 64
_ACCEPTED_AT_ONCE = 16
_CLIENT_SECONDS = 2.0
_PIECE = 2**16

#: Most questions on their way at the same time: each takes a descriptor.
_AT_ONCE = 256
_RETRY_SECONDS = 0.02

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
        with ExitStack() as undo:
            self._socket = _new_socket()
            self._opened = os.fstat(self._socket.fileno())
            undo.callback(self._socket.close)
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
        lifecycle.tell_of_forks(lifecycle.Stage.SOCKETS, self)

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
        return not leads_to(self._socket.fileno(), self._opened)

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


def ask_all(paths: Mapping[int, str], question: str, timeout: float = TIMEOUT) -> dict[int, Any | None]:
    """Ask several workers one question at the same time.

    A worker whose socket does not exist yet, or that is too busy at the moment, is tried again until
    the time is over.

    Args:
        paths: the workers' sockets by pid, from `socket_path`.
        question: to ask.
        timeout: seconds for all of them together.

    Returns:
        For every pid the answer; None if none came.
    """
    deadline = time.monotonic() + timeout
    answers: dict[int, Any | None] = dict.fromkeys(paths)
    waiting = deque(paths)
    calls: dict[int, _PendingAnswer] = {}
    with selectors.DefaultSelector() as selector, ExitStack() as connections:
        while (waiting or calls) and (left := deadline - time.monotonic()) > 0:
            for _ in range(min(len(waiting), _AT_ONCE - len(calls))):
                pid = waiting.popleft()
                call = _call(paths[pid], pid, question)
                if call is None:
                    waiting.append(pid)
                else:
                    calls[pid] = call
                    connections.callback(call.connection.close)
                    selector.register(call.connection, selectors.EVENT_READ, call)
            for key, _events in selector.select(min(left, _RETRY_SECONDS) if waiting else left):
                call = key.data
                if _hear(call):
                    answers[call.pid] = _parsed(call.heard)
                    selector.unregister(call.connection)
                    call.connection.close()
                    del calls[call.pid]
    return answers


class _PendingAnswer(Frozen):
    """A question on its way, and the received part of its answer."""

    pid: int
    connection: socket.socket
    heard: bytearray


def _call(path: str, pid: int, question: str) -> _PendingAnswer | None:
    """Send a question to a worker; None if that is not possible now."""
    try:
        connection = _new_socket()
    except OSError:
        return None
    try:
        connection.connect(path)
        peer = peer_of(connection)
        if peer.pid == pid and peer.uid in (os.stat(path).st_uid, 0):
            connection.send(question.encode() + b"\n")
            return _PendingAnswer(pid, connection, bytearray())
    except OSError:
        pass
    connection.close()
    return None


def _hear(call: _PendingAnswer) -> bool:
    """Receive a part of the answer; returns whether it is complete."""
    try:
        piece = call.connection.recv(_PIECE)
    except BlockingIOError:
        return False
    except OSError:
        return True
    call.heard.extend(piece)
    return not piece or piece.endswith(b"\n") or len(call.heard) > ANSWER_LIMIT


def _parsed(heard: bytearray) -> Any | None:
    """Return the answer, or None if it is cut off, or reports an error."""
    if not heard.endswith(b"\n"):
        return None
    try:
        message = json.loads(heard)
    except (ValueError, RecursionError):
        return None
    return message.get("answer") if isinstance(message, dict) else None


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


def _new_socket() -> socket.socket:
    """Return a Unix stream socket that never waits."""
    make: type[socket.socket] = native.original("socket", "socket")
    connection = make(socket.AF_UNIX, socket.SOCK_STREAM)
    if connection.fileno() <= 2:  # the number of a closed standard stream
        connection = make(fileno=above_standard(connection.detach()))
    connection.setblocking(False)
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
