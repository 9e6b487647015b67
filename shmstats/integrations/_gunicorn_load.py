"""The load of a gunicorn: how many requests its workers can serve at the same time, and the connections that wait.

The latter are in the queues of the listening sockets. The master measures them, because busy workers cannot. Linux
shows them for TCP sockets only.
"""

from __future__ import annotations

import atexit
import socket
import struct
from collections.abc import Callable, Collection, Iterable
from typing import Any

from .. import native

#: The worker classes that serve one request at a time, and one for each thread.
SYNC, THREAD = "gunicorn.workers.sync.SyncWorker", "gunicorn.workers.gthread.ThreadWorker"

#: Bounds in ms of the time that requests take in a second. A worker that serves one at a time has at most 1000.
BUSY_TIMES = (1, 10, 100, 250, 500, 750, 900, 1000, 2000, 5000, 10000, 100000)

_SECONDS = 1.0

#: In struct tcp_info (linux/tcp.h) of a listening socket, tcpi_unacked is the length of its queue.
_UNACKED = struct.Struct("24xI")


def capacity_of(worker: Any, classes: Collection[str]) -> int:
    """Return the number of requests that a worker can serve at the same time.

    Args:
        worker: gunicorn's.
        classes: the names of its class and of that class's bases.
    """
    if SYNC in classes:
        return 1
    return int(worker.cfg.threads if THREAD in classes else worker.cfg.worker_connections)


class BacklogMeter:
    """Measures the queues of listening sockets once a second, in a thread of the master.

    Args:
        listeners: gunicorn's, which have their socket as ``sock``.
        show: called with the sum; the caller has called it before, so that the thread never needs its slow path.
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
        """Measure from now on until the process ends; without a TCP socket, do nothing."""
        if self._sockets:
            self._show(self._waiting())
            self._thread.start()
            atexit.register(self.stop)  # before the block is left: counting later would attach it again

    def stop(self) -> None:
        """Stop measuring."""
        if self._stop.locked():
            self._stop.release()
            self._thread.join(_SECONDS)

    def _work(self) -> None:
        while not self._stop.acquire(timeout=_SECONDS):
            try:
                self._show(self._waiting())
            except Exception as error:
                if any(each.fileno() < 0 for each in self._sockets):  # the master is stopping, and listens no more
                    break
                self._tell("measuring the backlog failed", error)
        self._stop.release()

    def _waiting(self) -> int:
        infos = (each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size) for each in self._sockets)
        return sum(_UNACKED.unpack(info)[0] for info in infos)
