"""Forks and the end of the process: the one place that tells the parts of the package of them, in a written order.

A fork that Python makes is told by `os.register_at_fork`. One that C makes (uWSGI) is noticed by the first call that
comes to the slow path, which asks `notice_fork`.
"""

from __future__ import annotations

import _imp
import atexit
import enum
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from .native import RLock


class Stage(enum.IntEnum):
    """The parts, in the order in which the child of a fork drops what it inherited."""

    CELLS = 1  # of the pure core; those of C are told by pthread_atfork
    LOCKS = 2  # new guards and no descriptors: no thread is left that could let go of what it held
    SOCKETS = 3  # where questions are asked: they are the parent's
    AGENTS = 4  # the background threads, which the child has not
    BLOCKS = 5  # attached anew by the first call that counts
    REGISTRIES = 6
    PROVIDERS = 7  # what waits for them is handed over by the parent
    SENDERS = 8  # of the providers


class ForkAware(Protocol):
    """What is told that this is the child of a fork."""

    def forget(self) -> None:
        """Drop what was inherited."""


class PausedPart(Protocol):
    """What is still while the process forks."""

    def pause(self) -> bool:
        """Be still, after a short while at the latest; returns whether there is anything to `go_on` with."""

    def go_on(self) -> None:
        """Go on in the parent, after the fork."""


class LeavingPart(Protocol):
    """What is told that the process ends."""

    def leave(self) -> None:
        """Leave in good order."""


_parts: dict[Stage, weakref.WeakSet[ForkAware]] = {stage: weakref.WeakSet() for stage in Stage}
_pausing: weakref.WeakSet[PausedPart] = weakref.WeakSet()
_leaving: dict[Stage, weakref.WeakSet[LeavingPart]] = {stage: weakref.WeakSet() for stage in Stage}

#: What was paused for a fork; for each one that a signal handler makes in the middle of it, its own.
_paused: list[list[PausedPart]] = []

#: Held from before a fork until after it: threads that fork at once do so one after the other.
_forking = RLock()

#: The process that all parts know themselves to be in; another one has come by a fork that nobody told of.
known_pid = os.getpid()

_exit_arranged = False


def tell_of_forks(stage: Stage, part: ForkAware) -> None:
    """Have a part told, as long as it lives, when this is the child of a fork."""
    _parts[stage].add(part)


def pause_for_forks(part: PausedPart) -> None:
    """Have a part paused for each fork, as long as it lives."""
    _pausing.add(part)


def tell_of_exit(stage: Stage, part: LeavingPart) -> None:
    """Have a part told, as long as it lives, when the process ends; a later stage is told first."""
    _leaving[stage].add(part)


def arrange_exit() -> None:
    """Have a process leave at its end also where that comes without the atexit functions.

    So it is with one of multiprocessing, with mod_wsgi outside of the main interpreter, and with Celery's pool. Called
    by what has something to leave: between the fork and the process's work multiprocessing forgets what it was told.
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
    """Drop what was inherited, where this is the child of a fork that nobody told of."""
    if os.getpid() == known_pid:
        return
    if _is_alone() and not _imp.lock_held():
        # Python was not told either, and its lock may be a parent's thread's: no thread could start here. It lets go of
        # the import lock, which it believes to be held since before the fork, and from 3.13 on aborts where it is not.
        _imp.acquire_lock()
        import ctypes  # only here: it takes longer than the rest of this room

        ctypes.pythonapi.PyOS_AfterFork_Child()
    if os.getpid() != known_pid:
        after_in_child()


def _is_alone() -> bool:
    """Tell whether this process has one thread; where there are others Python must not forget them."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


@contextmanager
def no_fork() -> Iterator[None]:
    """Keep other threads from forking: the child would have a module that is imported meanwhile locked for ever."""
    with _forking:
        yield


def is_importing() -> bool:
    """Tell whether the calling thread, or one that its signal handler has interrupted, is inside of `no_fork`."""
    return bool(_forking._is_owned())  # type: ignore[attr-defined]


def before() -> None:
    """Have the background threads be still. They are not waited for where they take long."""
    _forking.acquire()
    _paused.append([part for part in list(_pausing) if part.pause()])


def after_in_parent() -> None:
    """Have the background threads go on."""
    try:
        for part in _paused.pop() if _paused else ():
            part.go_on()
    finally:
        with suppress(RuntimeError):  # it is not held where a signal handler broke off what comes before
            _forking.release()


def after_in_child() -> None:
    """Have every part forget, stage by stage."""
    global _exit_arranged, _forking, known_pid
    known_pid = os.getpid()
    _exit_arranged = False
    _forking = RLock()
    _paused.clear()
    for stage in Stage:
        for part in list(_parts[stage]):
            part.forget()


@atexit.register
def leave_all() -> None:
    """Have every part leave."""
    notice_fork()
    for stage in reversed(Stage):
        for part in list(_leaving[stage]):
            part.leave()


os.register_at_fork(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)
