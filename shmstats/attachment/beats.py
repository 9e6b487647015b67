"""Whether the background thread of a process makes progress, for other processes: it touches its socket at intervals.

The time of a touch is from the monotonic clock, which all processes of a machine share and nobody sets.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from ..block.workers import Worker
from .peers import socket_path

#: Seconds between two touches.
INTERVAL = 5.0

#: Seconds without a touch after which a thread is considered stuck.
_PATIENCE = 3 * INTERVAL


def beat(path: str) -> None:
    """Show that the thread that listens at a socket makes progress."""
    now = time.monotonic_ns()
    with suppress(OSError):
        os.utime(path, ns=(now, now), follow_symlinks=False)


def is_listening(name: str, slot: int) -> bool:
    """Tell whether the worker in a slot of a block has a thread that has not been silent for too long."""
    return 0 <= _silence(socket_path(name, slot)) <= _PATIENCE


def _silence(path: str) -> float:
    """Return for how many seconds a thread has been silent; -1 if there is none."""
    try:
        touched = os.lstat(path).st_mtime_ns
    except OSError:
        return -1.0
    return max(time.monotonic_ns() - touched, 0) / 1e9


class Watch:
    """Reports each background thread that is stuck, once.

    Args:
        tell: called with a line about it.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._stuck: frozenset[int] = frozenset()

    def look(self, name: str, workers: Iterable[Worker]) -> None:
        """Check the live workers of the block with a segment's name."""
        silences = {worker.pid: _silence(socket_path(name, worker.slot)) for worker in workers}
        stuck = frozenset(pid for pid, seconds in silences.items() if seconds > _PATIENCE)
        for pid in stuck - self._stuck:
            self._tell(
                f"the background thread of process {pid} has made no progress for {silences[pid]:.0f} s: it does not"
                f" flush or save, and answers no debug questions. Possible causes: the process is stopped, it stays"
                f" in C code without releasing the GIL, or uWSGI runs without enable-threads"
            )
        self._stuck = stuck
