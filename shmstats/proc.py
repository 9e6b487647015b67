"""The kernel's figures of processes, read from /proc without psutil, even for a process that is stopped.

Without /proc (macOS) psutil supplies them, which takes longer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress

from .native import BOOT_CLOCK

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

#: The letters of proc_pid_stat(5) for psutil's words, except for the kinds of sleep.
_STATES = {"running": "R", "disk-sleep": "D", "stopped": "T", "tracing-stop": "t", "zombie": "Z"}


def there_is_proc() -> bool:
    """Tell whether processes can be found in /proc."""
    return os.path.exists("/proc/self")


class ProcessUse:
    """The resource use of one process, from /proc/PID/stat: fields 3, 4, 14, 15, 20, 22, 24 and 28 of proc_pid_stat(5).

    It works with ``ProcSubset=pid`` too.

    Args:
        pid: of the process.

    Raises:
        OSError: there is no such process, or this process may not see it.

    Attributes:
        parent: pid of its parent.
        state: one letter: R, S, D, T, Z.
        user: seconds of processor time in user mode.
        system: the same in system mode.
        age: seconds since its start.
        threads: number of its threads.
        resident: bytes of memory.
        image: address of its stack, which exec draws at random and fork keeps; 0 if unknown.
    """

    __slots__ = ("age", "image", "parent", "resident", "state", "system", "threads", "user")

    def __init__(self, pid: int) -> None:
        if not there_is_proc():
            self._ask_psutil(pid)
            return
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        self.state = fields[0].decode()
        self.user = int(fields[11]) / _TICKS
        self.system = int(fields[12]) / _TICKS
        self.age = time.clock_gettime(BOOT_CLOCK) - int(fields[19]) / _TICKS
        self.parent = int(fields[1])
        self.threads = int(fields[17])
        self.resident = int(fields[21]) * _PAGE
        self.image = int(fields[25])

    def _ask_psutil(self, pid: int) -> None:
        try:
            import psutil
        except ImportError as error:
            raise OSError(f"process {pid} cannot be inspected: {error}") from None
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                self.state = _STATES.get(process.status(), "S")
                self.user, self.system = process.cpu_times()[:2]
                self.age = time.time() - process.create_time()
                self.parent = process.ppid()
                self.threads = process.num_threads()
                self.resident = process.memory_info().rss
        except psutil.Error as error:
            raise ProcessLookupError(str(error)) from None

    @property
    def cpu(self) -> float:
        """Seconds of processor time."""
        return self.user + self.system


def uses_of(pids: Iterable[int]) -> Iterator[tuple[int, ProcessUse]]:
    """Give the use of each process, without those that have ended or that this process may not see."""
    for pid in pids:
        with suppress(OSError, IndexError, ValueError):
            yield pid, ProcessUse(pid)


def forks_of(pid: int, known: Container[int]) -> Iterator[tuple[int, ProcessUse]]:
    """Give the use of further children of a process that were forked by it and run the same program.

    Args:
        pid: of the process.
        known: children to leave out.
    """
    further = [child for child in _children_of(pid) if child not in known]
    if further:
        image = next((use.image for _, use in uses_of([pid])), 0)
        yield from (
            (child, use) for child, use in uses_of(further) if image and use.image == image and use.state != "Z"
        )


def _children_of(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                children += map(int, file.read().split())
    return children
