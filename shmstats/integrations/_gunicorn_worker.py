"""The metrics of a gunicorn worker: its requests, its busy time, its memory."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any

from .. import registry as registries
from ._gunicorn_load import BUSY_TIMES
from ._gunicorn_metrics import made
from ._requests import METHODS, OTHER
from ._serving import Serving

#: States of a worker; unknown for a class whose requests are not measured.
BUSY, IDLE, UNKNOWN = ("busy", "idle", "unknown")

_MEASURE_SECONDS = 1.0


class GunicornWorker:
    """Counts for a worker.

    Args:
        worker: gunicorn's.
        hooked: whether hooks report its requests.
        measured: whether anything reports them.
        capacity: number of requests that it can serve at the same time.
    """

    def __init__(self, worker: Any, hooked: bool, measured: bool, capacity: int) -> None:
        self.hooked = hooked
        self.serving = Serving(registries.stats, outermost=measured)
        self._requests = made("counter", "gunicorn_requests", "Finished requests.", ("method", "status"))
        took = "Time from a request's headers to the end of its response, in seconds."
        self._durations = made("histogram", "gunicorn_request_duration", took, ("method",))
        answered = "Requests being served."
        self._in_progress = made("gauge", "gunicorn_requests_in_progress", answered, mode="livesum")
        doing = "Live workers, by state."
        states = made("gauge", "gunicorn_workers", doing, ("state",), mode="livesum")
        possible = "Requests that the live workers can serve at the same time."
        capacities = made("gauge", "gunicorn_capacity", possible, mode="livesum")
        busy = "Time that requests, finished or not, took of each second of each worker."
        self._busy_time = made("histogram", "gunicorn_busy", busy, buckets=BUSY_TIMES)
        resident = "Resident memory of each worker, in bytes."
        self._memory = made("gauge", "gunicorn_worker_memory", resident, unit="bytes", mode="liveall")
        started = "Time from a worker's fork until its application is loaded, in seconds."
        boot = made("histogram", "gunicorn_worker_boot", started)
        self._series: dict[tuple[str, str], tuple[Callable[[], None], Callable[[float], None]]] = {}
        self._busy, self._idle = states.labels(BUSY), states.labels(IDLE)
        self._measure_due = 0.0
        self._busy_seconds = 0.0
        self._accrued = perf_counter()
        self._active = 0
        self._lock = threading.Lock()  # made here, where gevent has already replaced threading's
        if measured:
            self._in_progress.set(0)
            self._busy.set(0)
            self._idle.set(1)
            capacities.set(capacity)
        else:
            states.labels(UNKNOWN).set(1)
        forked = getattr(worker, "_shmstats_forked", None)
        if forked is not None:
            boot.observe((monotonic() - forked) * 1000.0)

    def begin(self) -> None:
        """A request has come."""
        with self._lock:
            self._accrue()
            self._active += 1
            self._in_progress.set(self._active)
            if self._active == 1:
                self._idle.set(0)
                self._busy.set(1)

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
        with self._lock:
            self._accrue()
            self._active -= 1
            self._in_progress.set(self._active)
            if self._active == 0:
                self._busy.set(0)
                self._idle.set(1)

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
