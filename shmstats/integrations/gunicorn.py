"""gunicorn's hooks, which count requests and workers without a change of the application: see docs/gunicorn.md.

    gunicorn -c python:shmstats.integrations.gunicorn app:app

This module is such a configuration module, which must not have names that are settings of gunicorn.
"""

from __future__ import annotations

import errno
import inspect
import logging
import mmap
import os
import signal
import sys
from time import monotonic, perf_counter
from typing import Any

from .. import registry as registries
from ..reading.requests import UNSEEN
from ._gunicorn_metrics import ABORTED, LEFT, RUNNING, SYNC, THREAD, GunicornWorker, Master, failures, harmless
from ._requests import CLIENT_LEFT, OTHER, status_label

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

#: The classes that call the hooks `pre_request` and `post_request`; so do classes derived from them.
HOOKED = (
    SYNC,
    THREAD,
    "gunicorn.workers.base_async.AsyncWorker",
)

#: An exception: this class does not call them, because gevent's own server handles its requests.
NOT_HOOKED = ("gunicorn.workers.ggevent.GeventPyWSGIWorker",)

#: The classes with an ASGI application, and the attribute that holds it.
WRAPPED = {
    "gunicorn.workers.gasgi.ASGIWorker": "asgi",
    "uvicorn.workers.UvicornWorker": "wsgi",
    "uvicorn_worker._workers.UvicornWorker": "wsgi",
}

#: The signals that end uvicorn's workers.
_UVICORN_SIGNALS = (signal.SIGTERM, signal.SIGINT)

#: Error numbers by which gunicorn recognises a client that has left.
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)

# The master -----------------------------------------------------------------------------------


_master: Master | None = None


@harmless
def when_ready(server: Any) -> None:
    """Attach the block in the master, which keeps it through a reload that replaces all workers."""
    global _master
    if server.cfg.uid != os.geteuid():
        log.warning(
            "the workers run as user %s, and this master runs as user %s, which cannot use their block: the master"
            " does not keep the block, and does not count exits of workers",
            server.cfg.uid,
            os.geteuid(),
        )
        return
    shared = registries.stats.shared
    if shared is not None:
        shared.attach()
        _master = Master(server.LISTENERS)


@harmless
def on_reload(server: Any) -> None:
    """Count a reload, in the master."""
    if _master is not None and _master.pid == os.getpid():
        _master.count_reload()


@harmless
def pre_fork(server: Any, worker: Any) -> None:
    """In the master, create the byte that a worker shares with it.

    A worker that ends by itself writes that there; if it has not, a signal killed it. So
    `child_exit`, which does not get the status from gunicorn, knows the reason.
    """
    worker._shmstats_byte = mmap.mmap(-1, 1)


@harmless
def child_exit(server: Any, worker: Any) -> None:
    """Count the exit of a worker, in the master."""
    if _master is not None and _master.pid == os.getpid():
        _master.count_exit(worker)


# The workers ----------------------------------------------------------------------------------


_worker: GunicornWorker | None = None


@harmless
def post_fork(server: Any, worker: Any) -> None:
    """Remember when a worker started."""
    worker._shmstats_forked = monotonic()


@harmless
def post_worker_init(worker: Any) -> None:
    """Prepare to measure a worker, after its application was loaded."""
    global _worker
    classes = [f"{each.__module__}.{each.__qualname__}" for each in type(worker).__mro__]
    attribute = next((WRAPPED[name] for name in classes if name in WRAPPED), None)
    hooked = any(name in HOOKED for name in classes) and not any(name in NOT_HOOKED for name in classes)
    wrapped = attribute is not None and _is_asgi3(worker, getattr(worker, attribute))
    _worker = measured = GunicornWorker(worker, hooked, hooked or wrapped, classes)
    if attribute is not None and wrapped:
        _wrap(worker, attribute, measured)
    elif not hooked:
        log.warning(
            "requests to workers of the class %s are not measured: put a middleware of shmstats.integrations around the"
            " application",
            classes[0],
        )
    if attribute == "wsgi":
        _leave_at_signals(worker)
    _measure_at_every_notification(worker, measured)


@harmless
def pre_request(worker: Any, req: Any) -> None:
    """A request has come."""
    if _worker is not None and _worker.hooked:
        req._shmstats_began = perf_counter()
        req._shmstats_entry = _worker.serving.note(req.method, req.path)
        _worker.begin()


@harmless
def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """Count a finished request."""
    if _worker is not None and _worker.hooked:
        began = vars(req).pop("_shmstats_began", None)
        if began is not None:
            _worker.serving.end(req._shmstats_entry)
            if environ is not None and UNSEEN in environ:
                _worker.leave()
            else:
                _worker.finish(req.method, _status_of(resp), began)


@harmless
def worker_abort(worker: Any) -> None:
    """A worker was sent SIGABRT."""
    worker._shmstats_byte[0] = ABORTED


@harmless
def worker_exit(server: Any, worker: Any) -> None:
    """In a worker, record that it ends by itself. In the master, where gunicorn also calls this, count the worker."""
    if worker.pid != os.getpid():
        child_exit(server, worker)
        return
    if _worker is not None:
        _worker.count_busy()
    if worker._shmstats_byte[0] == RUNNING:
        worker._shmstats_byte[0] = LEFT


def _status_of(resp: Any) -> str:
    """Return the status of a response.

    gunicorn also calls `post_request` after an exception has ended a request, before it answers.
    """
    error = sys.exc_info()[1]
    if error is None or isinstance(error, StopIteration):  # the latter only closes the connection
        return OTHER if resp is None else status_label(resp.status or 500)
    if isinstance(error, OSError) and error.errno in _GONE:
        return CLIENT_LEFT
    if resp is None:
        return OTHER
    return status_label(resp.status) if resp.headers_sent else "500"


def _leave_at_signals(worker: Any) -> None:
    """Make one of uvicorn's workers leave the block when it ends by a signal.

    After the last answer such a worker ends by the signal that it was sent, without exit functions.
    """

    def leave(number: int, frame: Any) -> None:
        try:
            worker_exit(None, worker)
            registries.stats.close()
        except Exception as error:
            failures.tell("leaving the block failed", error)
        finally:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in _UVICORN_SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, leave)


def _measure_at_every_notification(worker: Any, measured: GunicornWorker) -> None:
    """Measure a worker whenever it notifies the master that it is alive, as workers of every class do."""
    notify, measure = worker.notify, harmless(measured.measure)

    def notify_and_measure() -> None:
        notify()
        measure()

    worker.notify = notify_and_measure
    measure()


# ASGI -----------------------------------------------------------------------------------------


def _is_asgi3(worker: Any, app: Any) -> bool:
    """Whether the server will call an application by ASGI 3; uvicorn decides in the same way."""
    interface = getattr(getattr(worker, "config", None), "interface", None)
    if interface != "auto":  # None: gunicorn's own worker, which only knows ASGI 3
        return interface in (None, "asgi3")
    if inspect.isclass(app):
        return hasattr(app, "__await__")
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(app.__call__)


def _wrap(worker: Any, attribute: str, measured: GunicornWorker) -> None:
    """Wrap a worker's application."""
    from ._gunicorn_asgi import MeasuredApplication  # only here: it imports asyncio, which gevent must patch before

    setattr(worker, attribute, MeasuredApplication(getattr(worker, attribute), measured))
    settings = worker.cfg.settings
    for name, hook in (("pre_request", pre_request), ("post_request", post_request)):
        # With hooks the asgi worker is slower: it then waits for the application's work after the response.
        if settings[name].get() is hook:
            worker.cfg.set(name, settings[name].default)
