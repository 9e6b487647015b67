"""Forks and the end of the process: the one place that tells the parts of the package about them, in a fixed order.

`os.register_at_fork` reports forks by Python. A fork in C (uWSGI) is noticed by the first call that reaches the slow
path, which calls `notice_fork`.
"""

from __future__ import annotations

import _imp
import atexit
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from .native import RLock


class Stage:
    """The parts of the package, in the order in which the child of a fork resets them; an enum takes long to make."""

    CELLS = 1  # of the pure core; those of the C core are told by pthread_atfork
    LOCKS = 2  # replaced by new ones without descriptors, because the threads that held them are gone
    SOCKETS = 3  # for debug questions: they belong to the parent
    AGENTS = 4  # the background threads, which the child does not have
    BLOCKS = 5  # attached again by the first call that counts
    REGISTRIES = 6
    PROVIDERS = 7  # the parent delivers the operations that wait for them
    SENDERS = 8  # of the providers


class ForkAware(Protocol):
    """A part that must know of forks, and of the exit.

    It may also have ``pause() -> bool`` and ``go_on()``: a background thread pauses before a fork, for which it has a
    short while, and continues in the parent if `pause` has returned true. And ``leave()``, to leave at exit.
    """

    def forget(self) -> None:
        """Drop what the child of a fork has inherited."""


#: The stage of each part, as long as it exists.
_parts: dict[weakref.ref[ForkAware], int] = {}

#: The parts paused for a fork. A signal handler may fork in the middle of a fork, and then adds its own list.
_paused: list[list[Any]] = []

#: Held from before a fork until after it, so that threads fork one after the other.
_forking = RLock()

#: The pid that all parts know; if the current one differs, there was a fork that Python did not report.
known_pid = os.getpid()

_exit_arranged = False


def take_part(stage: int, part: ForkAware) -> None:
    """Tell a part of every fork and of the exit, as long as it exists; at exit later stages leave first."""
    _parts[weakref.ref(part, _parts.pop)] = stage


def _told(what: str = "forget") -> list[Any]:
    """Return the parts that exist and have a method, in the order of their stages."""
    known = _parts.copy()  # a part that goes meanwhile removes itself
    return [part for each in sorted(known, key=known.__getitem__) if hasattr(part := each(), what)]


def arrange_exit() -> None:
    """Make a process leave at exit even if its exit does not run atexit functions.

    That is so for processes of multiprocessing, for mod_wsgi outside of the main interpreter, and for Celery's pool.
    Parts that must leave call this, because multiprocessing forgets earlier registrations between the fork and the
    process's work.
    """
    global _exit_arranged
    if _exit_arranged:
        return
    _exit_arranged = True
    processes, util = map(sys.modules.get, ("multiprocessing.process", "multiprocessing.util"))
    if processes is not None and util is not None and processes.parent_process() is not None:
        util.Finalize(None, leave_all, exitpriority=0)
    mod_wsgi = sys.modules.get("mod_wsgi")
    if mod_wsgi is not None and hasattr(mod_wsgi, "subscribe_shutdown"):
        mod_wsgi.subscribe_shutdown(lambda event, **_: leave_all())
    celery = sys.modules.get("celery.signals")
    if celery is not None:
        celery.worker_process_shutdown.connect(lambda **_: leave_all(), weak=False)


def notice_fork() -> None:
    """Reset everything inherited if this is the child of a fork that Python did not report."""
    if os.getpid() == known_pid:
        return
    if _is_alone() and not _imp.lock_held():
        # Python does not know of the fork either, and a thread of the parent may hold its import lock, so no thread
        # could start here. PyOS_AfterFork_Child releases that lock as if held since before the fork, and from 3.13 on
        # aborts if it is not held: so it is acquired first.
        _imp.acquire_lock()
        import ctypes  # only here: it takes longer than the rest of this room

        ctypes.pythonapi.PyOS_AfterFork_Child()
    if os.getpid() != known_pid:
        after_in_child()


def _is_alone() -> bool:
    """Tell whether this process has only one thread; if there are others, Python must not forget them."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


@contextmanager
def no_fork() -> Iterator[None]:
    """Keep other threads from forking during an import: in the child, the imported module would be locked for ever."""
    with _forking:
        yield


def is_importing() -> bool:
    """Tell whether the calling thread, or the code that its signal handler has interrupted, is inside of `no_fork`."""
    return bool(_forking._is_owned())  # type: ignore[attr-defined]


def is_forking() -> bool:
    """Tell whether another thread forks, or is inside of `no_fork`."""
    if not _forking.acquire(blocking=False):
        return True
    _forking.release()
    return False


def before() -> None:
    """Pause the background threads for a fork. A thread that takes long is not waited for."""
    _forking.acquire()
    _paused.append([part for part in _told("pause") if part.pause()])


def after_in_parent() -> None:
    """Let the background threads continue."""
    try:
        for part in _paused.pop() if _paused else ():
            part.go_on()
    finally:
        with suppress(RuntimeError):  # not held if an exception from a signal handler cut `before` short
            _forking.release()


def after_in_child() -> None:
    """Call `forget` of every part, stage by stage."""
    global _exit_arranged, _forking, known_pid
    known_pid = os.getpid()
    _exit_arranged = False
    _forking = RLock()
    _paused.clear()
    for part in _told():
        part.forget()


@atexit.register
def leave_all() -> None:
    """Call `leave` of every part."""
    notice_fork()
    raised: BaseException | None = None
    for part in reversed(_told("leave")):
        try:
            part.leave()
        except BaseException as error:  # a signal handler's, perhaps: it must not keep what is counted from being saved
            raised = error
            part.leave()
    if raised is not None:
        raise raised


os.register_at_fork(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)
