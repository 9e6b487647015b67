"""Statistics of gunicorn itself, without a line in the application.

    gunicorn -c python:shmstats.integrations.gunicorn app:app

or, in a configuration file of one's own (a hook that is defined there calls the one from here)::

    from shmstats.integrations.gunicorn import *

The metrics, in the category ``gunicorn``::

    gunicorn_requests              counter    method, status
    gunicorn_request_duration      histogram  method           ms, shown in seconds
    gunicorn_requests_in_progress  gauge      of each worker, summed, gone with the worker
    gunicorn_workers               gauge      state: busy, idle, unknown; likewise
    gunicorn_capacity              gauge      requests that the live workers can answer at one time
    gunicorn_busy                  histogram  time of requests, finished or not, in each second; ms, shown in seconds
    gunicorn_backlog               gauge      connections that wait for a worker
    gunicorn_worker_memory         gauge      bytes, of each live worker by its pid
    gunicorn_worker_boot           histogram  from the fork until the application is loaded; ms, shown in seconds
    gunicorn_worker_exits          counter    reason: exit, signal, timeout
    gunicorn_reloads               counter    of the configuration, by SIGHUP
    gunicorn_start                 timestamp  when the master was started

In the master: it has the block attached from `when_ready` on, so the block, and what is counted in it, is there
as long as the master is, also while a reload puts all workers in the place of others. Each worker shares a byte with
it, in which a worker that ends by itself says so; one that ends without a word was killed by a signal. That is how
`child_exit`, which gunicorn does not tell the status, knows the reason. Nothing here raises into the arbiter.

In a worker: the classes that call gunicorn's hooks around a request are measured by them. ASGI applications, under
gunicorn's asgi worker, where the hooks are not told the status, or uvicorn's, which has none, are wrapped. With other
classes requests are not measured. A worker is at work (``busy``) as long as it has a request.

uvicorn's workers end, once they have answered everything, by the very signal that they were sent: at that moment
none of Python's functions for the end of a process are called, so what is buffered is pushed, and the block left, in
a handler of that signal.

A gunicorn configuration module must not have names that are settings, and this one is such a module.
"""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from time import monotonic, perf_counter
from typing import Any, ParamSpec

from .. import registry as registries
from ..looks import UNSEEN
from ._failures import Failures
from ._gunicorn_load import BUSY_TIMES, SYNC, THREAD, BacklogMeter, capacity_of
from ._request_metrics import DURATIONS
from ._requests import CLIENT_LEFT, METHODS, OTHER, Cut, status_label
from ._serving import Serving

log = logging.getLogger("shmstats")

__all__ = [
    "child_exit",
    "on_reload",
    "post_fork",
    "post_request",
    "post_worker_init",
    "pre_fork",
    "pre_request",
    "when_ready",
    "worker_abort",
    "worker_exit",
]

CATEGORY = "gunicorn"

#: Why a worker ended.
EXIT, SIGNAL, TIMEOUT = REASONS = ("exit", "signal", "timeout")

#: What a worker may be doing; unknown with a class whose requests are not measured.
BUSY, IDLE, UNKNOWN = ("busy", "idle", "unknown")

#: The classes, with those derived from them, that call the hooks `pre_request` and `post_request`.
HOOKED = (
    SYNC,
    THREAD,
    "gunicorn.workers.base_async.AsyncWorker",
)

#: One of these does not, though it is derived from one that does: gevent's own server handles its requests.
NOT_HOOKED = ("gunicorn.workers.ggevent.GeventPyWSGIWorker",)

#: The classes whose application is an ASGI one, and the attribute that holds it.
WRAPPED = {
    "gunicorn.workers.gasgi.ASGIWorker": "asgi",
    "uvicorn.workers.UvicornWorker": "wsgi",
    "uvicorn_worker._workers.UvicornWorker": "wsgi",
}

#: The signals by which uvicorn's workers end.
_UVICORN_SIGNALS = (signal.SIGTERM, signal.SIGINT)

#: What gunicorn takes for a client that has left, if sending to it raises an OSError with it.
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)

#: What a worker writes into the byte that it shares with the master.
_RUNNING, _LEFT, _ABORTED = 0, 1, 2

_MEASURE_SECONDS = 1.0

_Arguments = ParamSpec("_Arguments")

_failures = Failures()


def _harmless(hook: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Have a hook log what it raises, once; gunicorn must not notice."""

    @functools.wraps(hook)
    def harmless(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            hook(*args, **kwargs)
        except Exception as error:
            _failures.tell(f"{__name__}.{hook.__name__} failed", error)

    return harmless


def _declare(metric: str, kind: str, help_: str, **more: Any) -> None:
    """Declare a metric of these hooks; one that is declared otherwise is used so."""
    _failures.declare(registries.stats, CATEGORY, metric, kind, help_, **more)


# The master -----------------------------------------------------------------------------------


class _Master:
    """What the master counts.

    Args:
        listeners: gunicorn's.

    Attributes:
        pid: its pid: its children inherit the object, but are not the master.
        count_reload: counts one.
    """

    def __init__(self, listeners: Iterable[Any]) -> None:
        self.pid = os.getpid()
        _declare("gunicorn_worker_exits", "counter", "Workers that ended, by reason.", labelnames=("reason",))
        self._exits = registries.stats.counter(CATEGORY, "gunicorn_worker_exits", labelnames=("reason",))
        for reason in REASONS:
            # Known to the block from now on: a worker that is stopped while it has the table lock can then not
            # stop the master, which is to abort it.
            self._exits.labels(reason).incr(0)
        _declare("gunicorn_reloads", "counter", "Reloads by SIGHUP.")
        self.count_reload = registries.stats.counter(CATEGORY, "gunicorn_reloads").incr
        self.count_reload(0)
        registries.stats.timestamp(CATEGORY, "gunicorn_start")
        _declare("gunicorn_backlog", "gauge", "Connections that wait for a worker.", mode="livemax")
        backlog = registries.stats.gauge(CATEGORY, "gunicorn_backlog")
        BacklogMeter(listeners, backlog.set, _failures.tell).start()

    def count_exit(self, worker: Any) -> None:
        """Count a worker that ended, by what it has left in the byte that it shared."""
        shared = vars(worker).pop("_shmstats_byte", None)
        state = _RUNNING if shared is None else shared[0]
        if getattr(worker, "aborted", False):
            reason = TIMEOUT
        elif state == _LEFT:
            reason = EXIT
        else:
            reason = SIGNAL
        if shared is not None:
            shared.close()
        self._exits.labels(reason).incr()


_master: _Master | None = None


@_harmless
def when_ready(server: Any) -> None:
    """Attach the block in the master."""
    global _master
    if server.cfg.uid != os.geteuid():
        log.warning(
            "the workers run as user %s, whose block this master, of user %s, cannot use: it does not keep the"
            " block, and does not count the workers' ends",
            server.cfg.uid,
            os.geteuid(),
        )
        return
    shared = registries.stats.shared
    if shared is not None:
        shared.attach()
        _master = _Master(server.LISTENERS)


@_harmless
def on_reload(server: Any) -> None:
    """Count a reload, in the master."""
    if _master is not None and _master.pid == os.getpid():
        _master.count_reload()


@_harmless
def pre_fork(server: Any, worker: Any) -> None:
    """Make the byte that a worker shares with the master, in the master."""
    worker._shmstats_byte = mmap.mmap(-1, 1)


@_harmless
def child_exit(server: Any, worker: Any) -> None:
    """Count a worker that ended, in the master."""
    if _master is not None and _master.pid == os.getpid():
        _master.count_exit(worker)


# The workers ----------------------------------------------------------------------------------


class _Worker:
    """What a worker counts.

    Args:
        worker: gunicorn's.
        hooked: whether the hooks tell of its requests.
        measured: whether anything does.
        capacity: how many requests it can answer at one time.
    """

    def __init__(self, worker: Any, hooked: bool, measured: bool, capacity: int) -> None:
        self.hooked = hooked
        stats = registries.stats
        self.serving = Serving(stats, outermost=measured)
        _declare("gunicorn_requests", "counter", "Requests that are over.", labelnames=("method", "status"))
        _declare(
            "gunicorn_request_duration",
            "histogram",
            "Time from a request's headers to the end of its response, in seconds.",
            buckets=DURATIONS,
            labelnames=("method",),
        )
        _declare("gunicorn_requests_in_progress", "gauge", "Requests that are being answered.", mode="livesum")
        _declare(
            "gunicorn_workers",
            "gauge",
            "Workers that live, by what they are doing.",
            mode="livesum",
            labelnames=("state",),
        )
        _declare("gunicorn_capacity", "gauge", "Requests that the live workers can answer at one time.", mode="livesum")
        _declare(
            "gunicorn_busy",
            "histogram",
            "Time that requests, finished or not, took of each second of each worker.",
            buckets=BUSY_TIMES,
        )
        _declare(
            "gunicorn_worker_memory",
            "gauge",
            "Resident memory of each worker, in bytes.",
            unit="bytes",
            mode="liveall",
        )
        _declare(
            "gunicorn_worker_boot",
            "histogram",
            "Time from a worker's fork until its application is loaded, in seconds.",
        )
        self._requests = stats.counter(CATEGORY, "gunicorn_requests", labelnames=("method", "status"))
        self._durations = stats.histogram(CATEGORY, "gunicorn_request_duration", labelnames=("method",))
        self._series: dict[tuple[str, str], tuple[Callable[[], None], Callable[[float], None]]] = {}
        self._in_progress = stats.gauge(CATEGORY, "gunicorn_requests_in_progress")
        states = stats.gauge(CATEGORY, "gunicorn_workers", labelnames=("state",))
        self._busy, self._idle = states.labels(BUSY), states.labels(IDLE)
        self._memory = stats.gauge(CATEGORY, "gunicorn_worker_memory")
        self._measure_due = 0.0
        self._busy_time = stats.histogram(CATEGORY, "gunicorn_busy")
        self._busy_seconds = 0.0
        self._accrued = perf_counter()
        self._active = 0
        self._lock = threading.Lock()  # made here, where gevent has put its own in the place of threading's
        if measured:
            self._in_progress.set(0)
            self._busy.set(0)
            self._idle.set(1)
            stats.gauge(CATEGORY, "gunicorn_capacity").set(capacity)
        else:
            states.labels(UNKNOWN).set(1)
        forked = getattr(worker, "_shmstats_forked", None)
        if forked is not None:
            stats.timing(CATEGORY, "gunicorn_worker_boot", (monotonic() - forked) * 1000.0)

    def begin(self) -> None:
        """Note that a request has come."""
        with self._lock:
            self._accrue()
            self._active += 1
            self._in_progress.set(self._active)
            if self._active == 1:
                self._idle.set(0)
                self._busy.set(1)

    def finish(self, method: str, status: str, began: float) -> None:
        """Count a request that is over.

        Args:
            method: as the client sent it.
            status: its three digits, or `OTHER`.
            began: what ``perf_counter`` said when it came.
        """
        self.leave()
        try:
            count, observe = self._series[method, status]
        except KeyError:
            count, observe = self._find_series(method, status)
        count()
        observe((perf_counter() - began) * 1000.0)

    def leave(self) -> None:
        """Note that a request is over, without counting it."""
        with self._lock:
            self._accrue()
            self._active -= 1
            self._in_progress.set(self._active)
            if self._active == 0:
                self._busy.set(0)
                self._idle.set(1)

    def _find_series(self, method: str, status: str) -> tuple[Callable[[], None], Callable[[float], None]]:
        """Return what requests like this one add to. Kept only for known methods: clients may send any."""
        known = METHODS.get(method, OTHER)
        series = self._requests.labels(known, status).incr, self._durations.labels(known).observe
        if known == method:
            self._series[method, status] = series
        return series

    def _accrue(self) -> None:
        """Add to the time that requests took; the lock is held."""
        now = perf_counter()
        self._busy_seconds += self._active * (now - self._accrued)
        self._accrued = now

    def count_busy(self) -> None:
        """Observe the time that requests took since this was done last."""
        with self._lock:
            self._accrue()
            seconds, self._busy_seconds = self._busy_seconds, 0.0
        self._busy_time.observe(seconds * 1000.0)

    def measure(self) -> None:
        """Count the time of requests and set the gauge of memory, if that was not done for a second."""
        now = monotonic()
        if now >= self._measure_due:
            self._measure_due = now + _MEASURE_SECONDS
            self.count_busy()
            with open("/proc/self/statm", "rb") as file:
                resident = int(file.read().split()[1])
            self._memory.set(resident * mmap.PAGESIZE)


_worker: _Worker | None = None


@_harmless
def post_fork(server: Any, worker: Any) -> None:
    """Note when a worker begins."""
    worker._shmstats_forked = monotonic()


@_harmless
def post_worker_init(worker: Any) -> None:
    """Prepare to measure a worker, whose application is loaded by now."""
    global _worker
    classes = [f"{each.__module__}.{each.__qualname__}" for each in type(worker).__mro__]
    attribute = next((WRAPPED[name] for name in classes if name in WRAPPED), None)
    hooked = any(name in HOOKED for name in classes) and not any(name in NOT_HOOKED for name in classes)
    wrapped = attribute is not None and _is_asgi3(worker, getattr(worker, attribute))
    _worker = _Worker(worker, hooked, hooked or wrapped, capacity_of(worker, classes))
    if attribute is not None and wrapped:
        _wrap(worker, attribute)
    elif not hooked:
        log.warning("requests to workers of the class %s are not measured", classes[0])
    if attribute == "wsgi":
        _leave_at_signals(worker)
    _measure_at_every_notification(worker)


@_harmless
def pre_request(worker: Any, req: Any) -> None:
    """Note that a request has come."""
    if _worker is not None and _worker.hooked:
        req._shmstats_began = perf_counter()
        req._shmstats_entry = _worker.serving.note(req.method, req.path)
        _worker.begin()


@_harmless
def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """Count a request that is over."""
    if _worker is not None and _worker.hooked:
        began = vars(req).pop("_shmstats_began", None)
        if began is not None:
            _worker.serving.end(req._shmstats_entry)
            if environ is not None and UNSEEN in environ:
                _worker.leave()
            else:
                _worker.finish(req.method, _status_of(resp), began)


@_harmless
def worker_abort(worker: Any) -> None:
    """Note that a worker was sent SIGABRT."""
    worker._shmstats_byte[0] = _ABORTED


@_harmless
def worker_exit(server: Any, worker: Any) -> None:
    """Note that a worker ends by itself; in the master, for one of which it cannot know, count it."""
    if worker.pid != os.getpid():
        child_exit(server, worker)
        return
    if _worker is not None:
        _worker.count_busy()
    if worker._shmstats_byte[0] == _RUNNING:
        worker._shmstats_byte[0] = _LEFT


def _status_of(resp: Any) -> str:
    """Tell what a client was answered.

    gunicorn calls `post_request` when an exception has ended a request too, and answers it after that.
    """
    error = sys.exc_info()[1]
    if error is None or isinstance(error, StopIteration):  # the latter closes the connection, and no more
        return OTHER if resp is None else status_label(resp.status or 500)
    if isinstance(error, OSError) and error.errno in _GONE:
        return CLIENT_LEFT
    if resp is None:
        return OTHER
    return status_label(resp.status) if resp.headers_sent else "500"


def _leave_at_signals(worker: Any) -> None:
    """Have one of uvicorn's workers leave in good order when it ends by a signal."""

    def leave(number: int, frame: Any) -> None:
        try:
            worker_exit(None, worker)
            registries.stats.close()
        except Exception as error:
            _failures.tell("leaving the block failed", error)
        finally:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in _UVICORN_SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, leave)


def _measure_at_every_notification(worker: Any) -> None:
    """Measure a worker whenever it tells the master that it lives, as workers of every class do."""
    assert _worker is not None
    notify, measure = worker.notify, _worker.measure

    def notify_and_measure() -> None:
        notify()
        try:
            measure()
        except Exception as error:
            _failures.tell("measuring a worker failed", error)

    worker.notify = notify_and_measure
    measure()


# ASGI -----------------------------------------------------------------------------------------


def _is_asgi3(worker: Any, app: Any) -> bool:
    """Whether the server will call an application as ASGI 3 says; uvicorn looks at it in this way."""
    interface = getattr(getattr(worker, "config", None), "interface", None)
    if interface != "auto":  # None: gunicorn's own worker knows nothing else
        return interface in (None, "asgi3")
    if inspect.isclass(app):
        return hasattr(app, "__await__")
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(app.__call__)


def _wrap(worker: Any, attribute: str) -> None:
    """Wrap a worker's application."""
    assert _worker is not None
    from ._gunicorn_asgi import MeasuredApplication  # brings asyncio, which gevent must find not yet imported

    setattr(worker, attribute, MeasuredApplication(getattr(worker, attribute), _begin, _finish, _worker.serving))
    settings = worker.cfg.settings
    for name, hook in (("pre_request", pre_request), ("post_request", post_request)):
        # The asgi worker is slower with hooks: it then waits for what an application does after its response.
        if settings[name].get() is hook:
            worker.cfg.set(name, settings[name].default)


def _begin() -> None:
    try:
        if _worker is not None:
            _worker.begin()
    except Exception as error:
        _failures.tell("counting requests in progress failed", error)


def _finish(method: str, status: str | int | Cut, began: float) -> None:
    try:
        if _worker is not None:
            _worker.finish(method, status_label(status), began)
    except Exception as error:
        _failures.tell("counting a request failed", error)
