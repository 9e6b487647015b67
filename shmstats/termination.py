"""SIGTERM with Python's default action: the process leaves its block, as at exit, and then ends by the signal.

Otherwise a plain server (waitress, ``flask run``) that is stopped would run no exit functions, and lose its buffer in
buffered mode. A handler of the application or its server, whenever set, is left alone. Processes of multiprocessing
get no handler: a pool terminates those that wait for a semaphore, where Python may never call it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # without the enums, which cost more than a fork has to
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from .lifecycle import leave_all
from .native import Thread

#: Seconds that leaving may take: whoever sends SIGTERM expects the process to end, even if the block is stuck.
_BOUND = 5.0


def arrange() -> None:
    """Make the process leave at SIGTERM, if no other code handles it, and if this is the main thread."""
    if threading.current_thread() is threading.main_thread() and not _is_of_pool() and _is_default():
        with suppress(ValueError):  # raised in a sub-interpreter, where no thread is the main one
            signal.signal(signal.SIGTERM, _leave)


class _ForkMask:
    """Blocks SIGTERM while a thread forks: the child would drop a signal that comes before Python's own hooks are done.

    Without that, a pool that is terminated while it makes a worker would wait for that worker for ever.
    """

    def __init__(self) -> None:
        self._before: dict[int, set[int]] = {}
        self._arranged = False

    def hold(self) -> None:
        """Block the signal in the thread that forks."""
        # If another thread is importing multiprocessing just now, this fork is not one of multiprocessing.
        arrange = getattr(sys.modules.get("multiprocessing.util"), "register_after_fork", None)
        if arrange is not None and not self._arranged:
            self._arranged = True
            arrange(self, _ForkMask.take_back)
        if _signal.getsignal(signal.SIGTERM) is _leave:
            self._before[threading.get_ident()] = _signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def take_back(self) -> None:
        """Restore the default action in a process of multiprocessing, which inherited the handler or imported this."""
        if signal.getsignal(signal.SIGTERM) is _leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def let_go(self) -> None:
        """Restore the previous signal mask, in parent and child."""
        before = self._before.pop(threading.get_ident(), None)
        if before is not None:
            _signal.pthread_sigmask(signal.SIG_SETMASK, before)


_fork_mask = _ForkMask()
os.register_at_fork(before=_fork_mask.hold, after_in_parent=_fork_mask.let_go, after_in_child=_fork_mask.let_go)


def _is_of_pool() -> bool:
    """Whether multiprocessing started this process; a spawned one imports its main module before it knows."""
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and (
        processes.parent_process() is not None or getattr(processes.current_process(), "_inheriting", False)
    )


def _is_default() -> bool:
    # mod_wsgi refuses handlers, with a warning. Servers in C (uWSGI) may have handlers that Python does not know.
    return (
        "mod_wsgi" not in sys.modules
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        and not _is_caught(signal.SIGTERM)
    )


def _is_caught(number: int) -> bool:
    """Whether the process has a handler for a signal, by proc_pid_status(5); False if there is no /proc."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    mask = status.partition("SigCgt:")[2].split(maxsplit=1)
    return bool(mask) and bool(int(mask[0], 16) >> (number - 1) & 1)


def _leave(number: int, _frame: object) -> None:
    """Leave in another thread, because this one may hold a lock that leaving needs; then end by the signal."""
    try:
        leaving = Thread(leave_all, "shmstats-leave")
        leaving.start()
        leaving.join(_BOUND)
    except RuntimeError:  # the interpreter is exiting: its exit functions leave the block
        pass
    finally:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
