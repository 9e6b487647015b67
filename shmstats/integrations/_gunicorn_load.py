"""The load of a gunicorn: what its workers can answer at one time, and the connections that wait for one.

Those are the queue of the listening sockets, which the master measures: workers that are all at work do not. Linux
tells of TCP sockets only.
"""

from __future__ import annotations

import atexit
import socket
import struct
from collections.abc import Callable, Collection, Iterable
from typing import Any

from .. import native

#: The worker classes that answer one request at a time, and as many as they have threads.
SYNC, THREAD = "gunicorn.workers.sync.SyncWorker", "gunicorn.workers.gthread.ThreadWorker"

#: Bounds in ms of the time that requests take of a second. A worker that answers one at a time has 1000 at most.
BUSY_TIMES = (1, 10, 100, 250, 500, 750, 900, 1000, 2000, 5000, 10000, 100000)

_SECONDS = 1.0

#: Of struct tcp_info (linux/tcp.h), for a socket that listens: tcpi_unacked is the length of its queue.
_UNACKED = struct.Struct("24xI")


def capacity_of(worker: Any, classes: Collection[str]) -> int:
    """Return how many requests a worker can answer at one time.

    Args:
        worker: gunicorn's.
        classes: the names of its class and those that it is derived from.
    """
    if SYNC in classes:
        return 1
    return int(worker.cfg.threads if THREAD in classes else worker.cfg.worker_connections)


class BacklogMeter:
    """Measures the queues of listening sockets once a second, in a thread of the master.

    Args:
        listeners: gunicorn's, which have their socket as ``sock``.
        show: called with the sum; the first time by who makes this, so that it has no slow path in the thread.
        tell: called with what failed, and the error.
    """

    def __init__(
        self, listeners: Iterable[Any], show: Callable[[int], None], tell: Callable[[str, BaseException], None]
    ) -> None:
        self._sockets = [each.sock for each in listeners if each.sock.family in (socket.AF_INET, socket.AF_INET6)]
        self._show = show
        self._tell = tell
        self._stop: Any = native.make_lock()
        self._stop.acquire()
        self._thread = native.Thread(self._work, "shmstats-backlog")

    def start(self) -> None:
        """Measure from now on until the process ends; nothing where there is no TCP socket."""
        if self._sockets:
            self._show(self._waiting())
            self._thread.start()
            atexit.register(self.stop)  # before the block is left: whoever counts later has it again

    def stop(self) -> None:
        """Measure no more."""
        if self._stop.locked():
            self._stop.release()
            self._thread.join(_SECONDS)

    def _work(self) -> None:
        while not self._stop.acquire(timeout=_SECONDS):
            try:
                self._show(self._waiting())
            except Exception as error:
                if any(each.fileno() < 0 for each in self._sockets):  # the master ends: it listens no more
                    break
                self._tell("measuring the backlog failed", error)
        self._stop.release()

    def _waiting(self) -> int:
        infos = (each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size) for each in self._sockets)
        return sum(_UNACKED.unpack(info)[0] for info in infos)
