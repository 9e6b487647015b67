"""What the system knows of processes, read of /proc without psutil: right for a process that is stopped as well."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

from .native import BOOT_CLOCK

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessUse:
    """What one process used, as /proc/PID/stat has it: fields 3, 4, 14, 15, 20, 22 and 24 of proc_pid_stat(5).

    It is there with ``ProcSubset=pid`` too.

    Attributes:
        parent: pid of its parent.
        state: one letter: R, S, D, T, Z.
        user: seconds of processor time in user mode.
        system: the same in system mode.
        age: seconds since its start.
        threads: how many it has.
        resident: bytes of memory.
    """

    __slots__ = ("age", "parent", "resident", "state", "system", "threads", "user")

    def __init__(self, pid: int) -> None:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        self.state = fields[0].decode()
        self.user = int(fields[11]) / _TICKS
        self.system = int(fields[12]) / _TICKS
        self.age = time.clock_gettime(BOOT_CLOCK) - int(fields[19]) / _TICKS
        self.parent = int(fields[1])
        self.threads = int(fields[17])
        self.resident = int(fields[21]) * _PAGE

    @property
    def cpu(self) -> float:
        """Seconds of processor time."""
        return self.user + self.system


def uses_of(pids: Iterable[int]) -> Iterator[tuple[int, ProcessUse]]:
    """Give what processes use, without those that have ended, or that this process may not see."""
    for pid in pids:
        with suppress(OSError, IndexError, ValueError):
            yield pid, ProcessUse(pid)
