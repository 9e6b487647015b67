"""SIGTERM where Python's default stands: the process leaves its block, as at exit, and then ends by the signal.

Without that a plain server (waitress, ``flask run``) that is stopped runs no exit functions, and what it holds in
buffered mode is lost. A handler that the application or its server has set, before or later, is left alone. Processes
of multiprocessing have none: a pool terminates those that wait for a semaphore, where Python may never call a handler.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from .lifecycle import leave_all
from .native import Thread

#: Seconds that leaving may take. Whoever sends SIGTERM expects an end, also where the block is stuck.
_BOUND = 5.0


def arrange() -> None:
    """Have the process leave at SIGTERM, if nobody else handles that, and if this is the main thread."""
    if threading.current_thread() is threading.main_thread() and not _is_of_pool() and _is_default():
        with suppress(ValueError):  # a sub-interpreter, where no thread is the process's first
            signal.signal(signal.SIGTERM, _leave)


class _ForkMask:
    """Keeps SIGTERM waiting while a thread forks: Python drops, in the child, what came before its own hooks are done.

    Without that a pool that is terminated while it makes a worker would wait for that worker for ever.
    """

    def __init__(self) -> None:
        self._before: dict[int, set[signal.Signals | int]] = {}
        self._arranged = False

    def hold(self) -> None:
        """Block the signal in the thread that forks; who forks by multiprocessing has imported that."""
        # Another thread may be importing it just now: then this fork is not one of multiprocessing.
        arrange = getattr(sys.modules.get("multiprocessing.util"), "register_after_fork", None)
        if arrange is not None and not self._arranged:
            self._arranged = True
            arrange(self, _ForkMask.take_back)
        if signal.getsignal(signal.SIGTERM) is _leave:
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            self._before[threading.get_ident()] = blocked

    def take_back(self) -> None:
        """Have the default again, in a process of multiprocessing, which has inherited the handler or imported this."""
        if signal.getsignal(signal.SIGTERM) is _leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def let_go(self) -> None:
        """Have the mask as it was before, in parent and child."""
        before = self._before.pop(threading.get_ident(), None)
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


_fork_mask = _ForkMask()
os.register_at_fork(before=_fork_mask.hold, after_in_parent=_fork_mask.let_go, after_in_child=_fork_mask.let_go)


def _is_of_pool() -> bool:
    """Whether multiprocessing has started this process; one that is spawned imports its main module before it knows."""
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and (
        processes.parent_process() is not None or getattr(processes.current_process(), "_inheriting", False)
    )


def _is_default() -> bool:
    # mod_wsgi refuses handlers, with a warning. Servers in C (uWSGI) have handlers that Python does not know of.
    return (
        "mod_wsgi" not in sys.modules
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        and not _is_caught(signal.SIGTERM)
    )


def _is_caught(number: int) -> bool:
    """Whether the process has a handler for a signal, by proc_pid_status(5); False where there is no /proc."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    mask = status.partition("SigCgt:")[2].split(maxsplit=1)
    return bool(mask) and bool(int(mask[0], 16) >> (number - 1) & 1)


def _leave(number: int, _frame: object) -> None:
    """Leave in another thread, because this one may hold what leaving needs; then end by the signal."""
    try:
        leaving = Thread(leave_all, "shmstats-leave")
        leaving.start()
        leaving.join(_BOUND)
    except RuntimeError:  # the interpreter is ending: its exit functions leave
        pass
    finally:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
