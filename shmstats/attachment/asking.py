"""The asker's side of questions (`shmstats.attachment.peers`): all workers at once, with one deadline.

A process that cannot answer, because it is stopped or in C code, is reported as such.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ..block import Worker
from ..frozen import Frozen
from .peers import new_socket, peer_of, socket_path

#: Seconds that the other processes have to answer.
TIMEOUT = 1.0

#: Most bytes of an answer.
ANSWER_LIMIT = 16 * 2**20

_PIECE = 2**16

#: Most questions on their way at the same time: each takes a descriptor.
_AT_ONCE = 256
_RETRY_SECONDS = 0.02


def ask_workers(
    name: str, workers: Sequence[Worker], question: str, own: Callable[[], Any] | None = None
) -> list[tuple[Worker, Any | None]]:
    """Return the answer of each worker of a block, without those that have ended meanwhile.

    This process may have the block attached or only read it.

    Args:
        name: of the block's segment.
        workers: to ask.
        question: for the workers.
        own: returns the answer of this process, which must not wait for itself; None if it is none of the block's.
    """
    pid = None if own is None else os.getpid()
    others = {worker.pid: socket_path(name, worker.slot) for worker in workers if worker.pid != pid}
    answers = ask_all(others, question)
    if own is not None and len(others) < len(workers):
        answers[os.getpid()] = own()
    return [(worker, answers[worker.pid]) for worker in workers if answers[worker.pid] is not None or worker.shown]


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
        connection = new_socket()
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
