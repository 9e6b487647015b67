"""The operating system's threads, locks and sockets, even if gevent or eventlet have replaced Python's.

Background work must continue while an event loop is busy, and must not block one. Attributes are looked
up when they are used, because an application may be patched after this module was imported.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from _thread import RLock as RLock
from collections.abc import Callable
from contextlib import suppress
from typing import Any

#: The clock that includes sleep of the machine and is the same in all processes; if there is none, the monotonic one.
BOOT_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

#: Seconds between two tries to take a lock, if waiting for it would block an event loop.
_LOOK_SECONDS = 0.002


def original(module: str, name: str) -> Any:
    """Return an attribute of a standard module as it was before gevent or eventlet patched it."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None:
        return gevent.get_original(module, name)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None:
        return getattr(eventlet.original(module), name)
    return getattr(sys.modules.get(module) or importlib.import_module(module), name)


def patched() -> bool:
    """Tell whether `threading` starts greenlets instead of threads."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(
        (gevent is not None and gevent.is_module_patched("threading"))
        or (eventlet is not None and eventlet.is_monkey_patched("thread"))
    )


def forks_unseen() -> bool:
    """Tell whether this process will fork without Python's hooks: a thread's locks would stay held in the child.

    That is uWSGI's master until it has made its workers (uwsgi-docs, "The uwsgi Python module").
    """
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or not hasattr(uwsgi, "worker_id"):
        return False
    return bool(uwsgi.worker_id() == 0 and uwsgi.mule_id() == 0 and not uwsgi.i_am_the_spooler())


def make_lock() -> Any:
    """Return a lock between threads; waiting for it blocks an event loop."""
    return original("_thread", "allocate_lock")()


def wait(lock: Any, seconds: float) -> bool:
    """Wait for a lock of `make_lock` and take it, while other greenlets of the thread run.

    Returns:
        Whether it was taken.
    """
    if not patched():
        return bool(lock.acquire(timeout=max(seconds, 0.0)))
    deadline = time.monotonic() + seconds
    while not lock.acquire(blocking=False):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def is_at_end(error: RuntimeError) -> bool:
    """Tell whether a thread could not be started because the interpreter exits, which Python 3.12 refuses."""
    return "interpreter shutdown" in str(error)


class Thread:
    """A daemon thread of the operating system.

    Args:
        work: what it does.
        name: of the thread, where the interpreter shows it.
    """

    def __init__(self, work: Callable[[], object], name: str) -> None:
        self._work = work
        self._name = name
        self._ident = 0
        self._thread: threading.Thread | None = None
        self._over = make_lock()
        self._over.acquire()

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: no thread can be started now.
        """
        if patched():
            original("_thread", "start_new_thread")(self._run, ())
        else:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
            self._thread = thread  # not before: another thread may join this one already

    def join(self, seconds: float) -> bool:
        """Wait some time for the thread to end; returns whether it has. The thread does not wait for itself."""
        if self._ident == original("_thread", "get_ident")():
            return False
        if wait(self._over, seconds):
            self._over.release()
            if self._thread is not None:  # not waited for before: an exception would mark a live thread as stopped
                self._thread.join()
        return not self.lives

    @property
    def lives(self) -> bool:
        """Whether the thread is still running; it must have been started."""
        return bool(self._over.locked())

    def _run(self) -> None:
        self._ident = original("_thread", "get_ident")()
        try:
            self._work()
        finally:
            self._over.release()


class RepeatingThread(Thread):
    """A daemon thread that does something at intervals, until it is stopped.

    Args:
        do: what it does.
        name: of the thread.
        interval: seconds from one beginning to the next; the thread rests for at least half of them.
    """

    def __init__(self, do: Callable[[], object], name: str, interval: float) -> None:
        super().__init__(self._repeat, name)
        self._do = do
        self._interval = interval
        self._stop: Any = make_lock()
        self._stop.acquire()

    def stop(self) -> None:
        """Make it end after its current work."""
        with suppress(RuntimeError):  # another thread has done so
            self._stop.release()

    def _repeat(self) -> None:
        due = time.monotonic()
        while not self._stop.acquire(timeout=max(due - time.monotonic(), 0.0)):
            self._do()
            due = max(due + self._interval, time.monotonic() + self._interval / 2)
