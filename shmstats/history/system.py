"""What the system knows of the workers, as series for the ring: read of /proc, without psutil.

A process that only counts and saves must not load more than numpy and PyYAML.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

from ..series import Kind, Name, Value

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

_CPU = Name("system", "cpu_ms", Kind.COUNTER, monotonic=True, help="Processor time of all workers.")
_MEMORY = Name("system", "memory_bytes", Kind.GAUGE, help="Resident memory of all workers.", unit="bytes")
_WORKERS = Name("system", "workers", Kind.GAUGE, help="Live workers.")
_BUSY = Name("system", "busy_workers", Kind.GAUGE, help="Workers that serve a request.")

#: The names of what `SystemFigures.values` returns, in its order.
NAMES = (_CPU, _MEMORY, _WORKERS, _BUSY)


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
        self.age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS
        self.parent = int(fields[1])
        self.threads = int(fields[17])
        self.resident = int(fields[21]) * _PAGE

    @property
    def cpu(self) -> float:
        """Seconds of processor time."""
        return self.user + self.system


class SystemFigures:
    """Figures of all workers; processor time is a total that does not go back when a worker ends."""

    def __init__(self) -> None:
        self._cpu: dict[int, float] = {}
        self._total = 0.0

    def values(self, pids: Iterable[int], busy: int) -> list[Value]:
        """Return the values of `NAMES`.

        Args:
            pids: of the live workers.
            busy: of these, those that serve a request.
        """
        uses = dict(uses_of(pids))
        for pid, use in uses.items():
            self._total += max(use.cpu - self._cpu.get(pid, use.cpu), 0.0)
        self._cpu = {pid: use.cpu for pid, use in uses.items()}
        memory = sum(use.resident for use in uses.values())
        return [round(self._total * 1000), memory, len(uses), busy]


def uses_of(pids: Iterable[int]) -> Iterator[tuple[int, ProcessUse]]:
    """Give what processes use, without those that have ended, or that this process may not see."""
    for pid in pids:
        with suppress(OSError, IndexError, ValueError):
            yield pid, ProcessUse(pid)
