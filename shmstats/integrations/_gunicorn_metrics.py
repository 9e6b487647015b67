"""The metrics of gunicorn's master (exits of workers, reloads, waiting connections) and of its workers.

The master measures the queues of the listening sockets, because busy workers cannot. Linux shows them for TCP sockets
only.
"""

from __future__ import annotations

import atexit
import mmap
import os
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterable
from functools import partial, wraps
from time import monotonic, perf_counter
from typing import Any, ParamSpec

from .. import native
from .. import registry as registries
from ..once import Failures
from ._request_metrics import made
from ._requests import METHODS, OTHER
from ._serving import Serving

CATEGORY = "gunicorn"

#: Why a worker ended.
EXIT, SIGNAL, TIMEOUT = REASONS = ("exit", "signal", "timeout")

#: Values of the byte that a worker shares with the master.
RUNNING, LEFT, ABORTED = 0, 1, 2

#: States of a worker; unknown for a class whose requests are not measured.
BUSY, IDLE, UNKNOWN = ("busy", "idle", "unknown")

#: The worker classes that serve one request at a time, and one for each thread.
SYNC, THREAD = "gunicorn.workers.sync.SyncWorker", "gunicorn.workers.gthread.ThreadWorker"

#: Bounds in ms of the time that requests take in a second. A worker that serves one at a time has at most 1000.
BUSY_TIMES = (1, 10, 100, 250, 500, 750, 900, 1000, 2000, 5000, 10000, 100000)

_MEASURE_SECONDS = 1.0

#: In struct tcp_info (linux/tcp.h) of a listening socket, tcpi_unacked is the length of its queue.
_UNACKED = struct.Struct("24xI")

failures = Failures()

_made = partial(made, CATEGORY)

_Arguments = ParamSpec("_Arguments")


def harmless(hook: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Make a hook log its exceptions, once, instead of raising them into gunicorn."""

    @wraps(hook)
    def guarded(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            hook(*args, **kwargs)
        except Exception as error:
            failures.tell(f"{hook.__module__}.{hook.__qualname__} failed", error)

    return guarded


# The master -----------------------------------------------------------------------------------


class Master:
    """Counts for the master.

    Args:
        listeners: gunicorn's.

    Attributes:
        pid: of the master: its children inherit the object, but are not the master.
        count_reload: counts a reload.
    """

    def __init__(self, listeners: Iterable[Any]) -> None:
        self.pid = os.getpid()
        self._exits = _made("counter", "gunicorn_worker_exits", "Ended workers, by reason.", ("reason",))
        for reason in REASONS:
            # Registered now: otherwise a worker that is stopped while it holds the table lock would stop the master
            # too, which must abort that worker.
            self._exits.labels(reason).incr(0)
        self.count_reload = _made("counter", "gunicorn_reloads", "Reloads by SIGHUP.").incr
        self.count_reload(0)
        registries.stats.timestamp(CATEGORY, "gunicorn_start")
        backlog = _made("gauge", "gunicorn_backlog", "Connections waiting for a worker.", mode="livemax")
        BacklogMeter(listeners, backlog.set).start()

    def count_exit(self, worker: Any) -> None:
        """Count the exit of a worker, by the reason in the byte that it shared."""
        shared = vars(worker).pop("_shmstats_byte", None)
        reason = EXIT if shared is not None and shared[0] == LEFT else SIGNAL
        if getattr(worker, "aborted", False):
            reason = TIMEOUT
        if shared is not None:
            shared.close()
        self._exits.labels(reason).incr()


class BacklogMeter:
    """Measures the queues of listening sockets once a second, in a thread of the master.

    Args:
        listeners: gunicorn's, which have their socket as ``sock``.
        show: called with the sum; the caller has called it before, so that the thread never needs its slow path.
    """

    def __init__(self, listeners: Iterable[Any], show: Callable[[int], None]) -> None:
        self._sockets = [each.sock for each in listeners if each.sock.family in (socket.AF_INET, socket.AF_INET6)]
        self._show = show
        self._thread = native.RepeatingThread(self._measure, "shmstats-backlog", _MEASURE_SECONDS)

    def start(self) -> None:
        """Measure from now on until the process ends; without a TCP socket, do nothing."""
        if self._sockets:
            self._show(self._waiting())
            self._thread.start()
            atexit.register(self.stop)  # before the block is left: counting later would attach it again

    def stop(self) -> None:
        """Stop measuring."""
        self._thread.stop()
        self._thread.join(_MEASURE_SECONDS)

    def _measure(self) -> None:
        try:
            self._show(self._waiting())
        except Exception as error:
            if any(each.fileno() < 0 for each in self._sockets):  # the master is stopping, and listens no more
                self._thread.stop()
            else:
                failures.tell("measuring the backlog failed", error)

    def _waiting(self) -> int:
        infos = (each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size) for each in self._sockets)
        return sum(_UNACKED.unpack(info)[0] for info in infos)


# The workers ----------------------------------------------------------------------------------


class GunicornWorker:
    """Counts for a worker.

    Args:
        worker: gunicorn's.
        hooked: whether hooks report its requests.
        measured: whether anything reports them.
        classes: the names of its class and of that class's bases.
    """

    def __init__(self, worker: Any, hooked: bool, measured: bool, classes: Collection[str]) -> None:
        self.hooked = hooked
        self.serving = Serving(outermost=measured)
        self._requests = _made("counter", "gunicorn_requests", "Finished requests.", ("method", "status"))
        took = "Time from a request's headers to the end of its response, in seconds."
        self._durations = _made("histogram", "gunicorn_request_duration", took, ("method",))
        self._in_progress = _made("gauge", "gunicorn_requests_in_progress", "Requests being served.", mode="livesum")
        states = _made("gauge", "gunicorn_workers", "Live workers, by state.", ("state",), mode="livesum")
        possible = "Requests that the live workers can serve at the same time."
        capacities = _made("gauge", "gunicorn_capacity", possible, mode="livesum")
        busy = "Time that requests, finished or not, took of each second of each worker."
        self._busy_time = _made("histogram", "gunicorn_busy", busy, buckets=BUSY_TIMES)
        resident = "Resident memory of each worker, in bytes."
        self._memory = _made("gauge", "gunicorn_worker_memory", resident, unit="bytes", mode="liveall")
        started = "Time from a worker's fork until its application is loaded, in seconds."
        boot = _made("histogram", "gunicorn_worker_boot", started)
        self._series: dict[tuple[str, str], tuple[Callable[[], None], Callable[[float], None]]] = {}
        self._busy, self._idle = states.labels(BUSY), states.labels(IDLE)
        self._measure_due = 0.0
        self._busy_seconds = 0.0
        self._accrued = perf_counter()
        self._active = 0
        self._lock = threading.Lock()  # made here, where gevent has already replaced threading's
        if measured:
            capacities.set(_capacity_of(worker, classes))
            self._serve(0)
        else:
            states.labels(UNKNOWN).set(1)
        forked = getattr(worker, "_shmstats_forked", None)
        if forked is not None:
            boot.observe((monotonic() - forked) * 1000.0)

    def begin(self) -> None:
        """A request has come."""
        self._serve(1)

    def finish(self, method: str, status: str, began: float) -> None:
        """Count a finished request.

        Args:
            method: as the client sent it.
            status: its three digits, or `OTHER`.
            began: the result of ``perf_counter`` at its start.
        """
        self.leave()
        try:
            count, observe = self._series[method, status]
        except KeyError:
            count, observe = self._find_series(method, status)
        count()
        observe((perf_counter() - began) * 1000.0)

    def leave(self) -> None:
        """A request has ended, and is not counted."""
        self._serve(-1)

    def _serve(self, more: int) -> None:
        """Serve more requests at the same time than before, or fewer."""
        with self._lock:
            self._accrue()
            self._active += more
            self._in_progress.set(self._active)
            if self._active <= 1:  # else it was busy, and still is
                self._busy.set(self._active)
                self._idle.set(1 - self._active)

    def _find_series(self, method: str, status: str) -> tuple[Callable[[], None], Callable[[float], None]]:
        """Return the series of such a request. Kept only for known methods, because clients may send any."""
        known = METHODS.get(method, OTHER)
        series = self._requests.labels(known, status).incr, self._durations.labels(known).observe
        if known == method:
            self._series[method, status] = series
        return series

    def _accrue(self) -> None:
        """Add to the time spent in requests; the lock is held."""
        now = perf_counter()
        self._busy_seconds += self._active * (now - self._accrued)
        self._accrued = now

    def count_busy(self) -> None:
        """Observe the time spent in requests since the last call."""
        with self._lock:
            self._accrue()
            seconds, self._busy_seconds = self._busy_seconds, 0.0
        self._busy_time.observe(seconds * 1000.0)

    def measure(self) -> None:
        """Count the time of requests and set the gauge of memory, if that was not done within the last second."""
        now = monotonic()
        if now >= self._measure_due:
            self._measure_due = now + _MEASURE_SECONDS
            self.count_busy()
            with open("/proc/self/statm", "rb") as file:
                resident = int(file.read().split()[1])
            self._memory.set(resident * mmap.PAGESIZE)


def _capacity_of(worker: Any, classes: Collection[str]) -> int:
    """Return the number of requests that a worker can serve at the same time."""
    if SYNC in classes:
        return 1
    return int(worker.cfg.threads if THREAD in classes else worker.cfg.worker_connections)
