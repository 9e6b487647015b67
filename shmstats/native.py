"""The threads, locks and sockets of the operating system, also where gevent or eventlet have put theirs in their place.

What works in the background must go on while an event loop is busy, and must not hold one up. An attribute is looked
up when it is used, for an application may be patched after this was imported.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from _thread import RLock as RLock
from collections.abc import Callable
from typing import Any

#: The clock that goes on while the machine sleeps, and is the same in all processes; else the one that does not.
BOOT_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

#: Seconds between two looks at a lock, where waiting for it would stop an event loop.
_LOOK_SECONDS = 0.002


def original(module: str, name: str) -> Any:
    """Return an attribute of a standard module as it was before gevent or eventlet patched it."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None:
        return gevent.get_original(module, name)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None:
        return getattr(eventlet.original(module), name)
    return getattr(importlib.import_module(module), name)


def patched() -> bool:
    """Tell whether what `threading` starts are greenlets."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(
        (gevent is not None and gevent.is_module_patched("threading"))
        or (eventlet is not None and eventlet.is_monkey_patched("thread"))
    )


def forks_unseen() -> bool:
    """Tell whether this process is about to fork without Python's hooks: a thread would leave its locks in the child.

    That is uWSGI's, until it has made its workers (uwsgi-docs, "The uwsgi Python module").
    """
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or not hasattr(uwsgi, "worker_id"):
        return False
    return bool(uwsgi.worker_id() == 0 and uwsgi.mule_id() == 0 and not uwsgi.i_am_the_spooler())


def make_lock() -> Any:
    """Return a lock that keeps threads apart; to wait for it stops an event loop."""
    return original("_thread", "allocate_lock")()


def wait(lock: Any, seconds: float) -> bool:
    """Wait for a lock of `make_lock` to be let go, and take it; other greenlets of the thread go on meanwhile.

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
    """Tell whether a thread could not be started because the interpreter ends: from Python 3.12 on none is, then."""
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
            RuntimeError: there cannot be one now.
        """
        if patched():
            original("_thread", "start_new_thread")(self._run, ())
        else:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for the thread to end, but not for long; returns whether it has. It does not wait for itself."""
        if self.is_current:
            return False
        if self._thread is not None:
            self._thread.join(max(seconds, 0.0))
        elif wait(self._over, seconds):
            self._over.release()
        return not self.lives

    @property
    def lives(self) -> bool:
        """Whether it has not ended; it must have been started."""
        return bool(self._over.locked())

    @property
    def is_current(self) -> bool:
        """Whether it is the calling thread."""
        return bool(self._ident == original("_thread", "get_ident")())

    def _run(self) -> None:
        self._ident = original("_thread", "get_ident")()
        try:
            self._work()
        finally:
            self._over.release()
