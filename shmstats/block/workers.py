"""The worker slots: the processes that count into a block, and the row of each.

A process holds a record lock on its slot as long as it lives: the kernel drops it at its end or exec, and shows it
in every namespace. A process that lost it because all its descriptors were closed still has the block mapped. A new
worker takes the lowest row without a live worker, or else shares one, and adds to the values there.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..frozen import NamedTuple
from ..proc import ProcessUse, there_is_proc
from .errors import BlockError
from .layout import FIRST_SLOT, HEADER, WORKER, WORKER_SLOTS, Layout

if TYPE_CHECKING:
    from .lock import RecordLocks

_WORKER = WORKER.struct
_STATE, _CLAIM, _PID, _ROW = range(4)
_SLOTS = HEADER.offset("slots")
_CLAIMS = HEADER.offset("claims")
_NAMESPACE = HEADER.offset("namespace")


class Worker(NamedTuple):
    """One taken slot.

    Attributes:
        slot: its number.
        claim: the number of this claim of the slot.
        pid: of the process.
        row: that the process adds to.
        start_time: of the process, in clock ticks since boot; 0 if /proc does not tell.
        attached: when it attached, CLOCK_MONOTONIC in ns.
        held: operations in its buffer.
    """

    slot: int
    claim: int
    pid: int
    row: int
    start_time: int
    attached: int
    held: int

    @property
    def word(self) -> int:
        """The word in this worker's locks; never 0."""
        return (self.slot + 1) << 20 | self.claim & 0xFFFFF

    @property
    def signature(self) -> int:
        """The number that marks this worker's contributions to gauges: positive, 64 bits, pid in the upper half.

        Another worker has another one, even with the same pid.
        """
        return self.pid << 32 | self.claim

    @property
    def shown(self) -> bool:
        """Whether /proc shows the process, or cannot be read now; only `WorkerTable.live` is certain."""
        try:
            state, started = _state_and_start(str(self.pid))
        except OSError as error:
            return not isinstance(error, (FileNotFoundError, ProcessLookupError))
        return state not in _ENDED and started == self.start_time


_ENDED = (b"Z", b"X")

#: Largest difference in seconds between the clocks for the ages of a process and of its slot.
_CLOCKS = 1.0


def own_start_time() -> int:
    """Return when this process was started, in clock ticks since boot; 0 if unknown."""
    try:
        return _state_and_start("self")[1]
    except OSError:
        return 0


def _state_and_start(pid: str) -> tuple[bytes, int]:
    """Return the state and the start time of a process; source: proc_pid_stat(5), fields 3 and 22.

    Raises:
        OSError: there is no such process, /proc does not show it (hidepid), or no descriptor is left.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return fields[0], int(fields[19])


def has_mapped(pid: int, file: tuple[int, int]) -> bool:
    """Tell whether a process has a file mapped, by device and inode, as far as /proc shows it (proc_pid_maps(5))."""
    device, inode = file
    wanted = f" {os.major(device):02x}:{os.minor(device):02x} {inode} ".encode()
    try:
        with open(f"/proc/{pid}/maps", "rb") as maps:
            return any(wanted in line for line in maps)
    except OSError:
        return False


def is_as_old(worker: Worker) -> bool:
    """Tell whether a live process can be a worker: it has its pid, and is not younger than its slot.

    For systems without /proc. It may have called exec since, which cannot be detected.
    """
    try:
        use = ProcessUse(worker.pid)
    except OSError:
        return False
    return use.state != "Z" and use.age > (time.monotonic_ns() - worker.attached) / 1e9 - _CLOCKS


def pid_namespace() -> int:
    """Return the inode of this process's pid namespace, outside of which a pid means nothing; 0 without /proc."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


#: Workers that a newly attaching one checks: each check is a question to the kernel.
_LOOKED_AT = 8

#: Spreads consecutive numbers over any range (Knuth's multiplicative hash).
_SPREAD = 2654435761

#: The largest value of pid_t.
_LAST_PID = 2**31 - 1


class WorkerTable:
    """The worker slots of a block.

    Args:
        buf: the block; writable for `claim` and `release`.
        layout: of the block.
        locks: of the block.

    Attributes:
        met_dead: whether `claim` has found dead workers, or no live ones: dead workers may have left more.
    """

    def __init__(self, buf: memoryview, layout: Layout, locks: RecordLocks) -> None:
        self.met_dead = False
        self._buf = buf
        self._layout = layout
        self._locks = locks

    def __iter__(self) -> Iterator[Worker]:
        """Give the taken slots, whether their processes live or not."""
        return iter([worker for slot in range(self._used) if (worker := self._read(slot)) is not None])

    def live(self) -> list[Worker]:
        """Return the workers whose processes live."""
        return self._living(self)

    def anyone(self) -> bool:
        """Tell whether the process of any worker lives: one question to the kernel, however many there are."""
        return self._locks.slots_held() or bool(self.live())

    def is_live(self, word: int) -> bool:
        """Tell whether the owner of a cell's lock lives, by the lock word."""
        slot = (word >> 20) - 1
        worker = self._read(slot) if 0 <= slot < self._used else None
        return worker is not None and worker.word == word and bool(self._living([worker]))

    def _living(self, workers: Iterable[Worker]) -> list[Worker]:
        """Return those of some workers whose processes live."""
        found = list(workers)
        held = self._locks.held([FIRST_SLOT + worker.slot for worker in found])
        return [
            worker
            for worker in found
            if (FIRST_SLOT + worker.slot in held and self._has_slot(worker)) or self._lives_without_lock(worker)
        ]

    def _has_slot(self, worker: Worker) -> bool:
        """Tell whether a slot is still this worker's: its lock may be that of a later worker."""
        found = self._read(worker.slot)
        return found is not None and found.claim == worker.claim

    def _lives_without_lock(self, worker: Worker) -> bool:
        """Tell whether a worker lives whose lock is not seen, because it is ours, or was lost.

        It is lost if other code in its process has closed all descriptors.
        """
        if worker.pid == os.getpid():
            return worker.slot in self._locks.slots
        if int.from_bytes(self._buf[_NAMESPACE : _NAMESPACE + 8], "little") != pid_namespace():
            return False
        if worker.start_time and not worker.shown:
            return False  # another process has the pid now; a fork also has the mapping of its parent
        if not there_is_proc():
            return is_as_old(worker)
        return has_mapped(worker.pid, self._locks.inode)

    def claim(self) -> Worker:
        """Take a slot and a row for this process, freeing those of dead ones. The table lock is held.

        If there are many workers, each claim checks a few of them, because all processes wait for it.

        Raises:
            BlockError: every slot is taken by a live process.
            OSError: shared memory is full.
        """
        rows = self._rows()
        found = len(rows)
        self._free_dead(rows, self._some_of(list(rows)))
        if len(rows) == WORKER_SLOTS:
            self._free_dead(rows, list(rows))
        self.met_dead = len(rows) < found or not rows
        free = (slot for slot in range(WORKER_SLOTS) if slot not in rows)
        slot = next((slot for slot in free if self._locks.take_slot(slot)), None)
        if slot is None:
            raise BlockError(f"{WORKER_SLOTS} live processes count into the block; there is no slot left")
        worker = Worker(
            slot=slot,
            claim=self._next_claim(),
            pid=os.getpid(),
            row=self._free_row(rows.values()),
            start_time=own_start_time(),
            attached=time.monotonic_ns(),
            held=0,
        )
        self._locks.reserve(self._offset(slot), WORKER.size)
        self._write(worker)
        return worker

    def _rows(self) -> dict[int, int]:
        """Return the rows of the taken slots; making `Worker` objects would take longer than the rest of a claim."""
        start = self._layout.workers
        words = memoryview(bytes(self._buf[start : start + self._used * WORKER.size])).cast("I")
        columns = [words[field :: WORKER.size // 4].tolist() for field in (_STATE, _PID, _ROW)]
        slots, rows = enumerate(zip(*columns, strict=True)), self._layout.rows
        return {slot: row for slot, (state, pid, row) in slots if state == 1 and pid <= _LAST_PID and row < rows}

    def _some_of(self, slots: list[int]) -> list[int]:
        """Return the slots that this claim checks."""
        if len(slots) <= _LOOKED_AT:
            return slots
        start = int.from_bytes(self._buf[_CLAIMS : _CLAIMS + 4], "little") * _SPREAD % len(slots)
        return (slots + slots)[start : start + _LOOKED_AT]

    def _free_dead(self, rows: dict[int, int], suspects: list[int]) -> None:
        """Free those of some slots whose workers are dead, and remove them from the rows."""
        held = self._locks.held([FIRST_SLOT + slot for slot in suspects])
        for slot in suspects:
            worker = self._read(slot) if FIRST_SLOT + slot not in held else None
            if worker is not None and not self._lives_without_lock(worker):
                self.release(worker)
                del rows[slot]

    def release(self, worker: Worker) -> None:
        """Free a slot. The table lock is held."""
        offset = self._offset(worker.slot)
        self._buf[offset : offset + 4] = bytes(4)
        self._locks.leave_slot(worker.slot)

    @property
    def _used(self) -> int:
        """Slots that were ever used; the others may not have memory."""
        return min(int.from_bytes(self._buf[_SLOTS : _SLOTS + 4], "little"), WORKER_SLOTS)

    def _free_row(self, taken: Iterable[int]) -> int:
        """Return the lowest row without a worker, or else the one with the fewest."""
        rows, known = range(1, self._layout.rows), set(taken)
        free = next((row for row in rows if row not in known), None)
        return min(rows, key=Counter(taken).__getitem__) if free is None else free

    def _next_claim(self) -> int:
        claim = int.from_bytes(self._buf[_CLAIMS : _CLAIMS + 4], "little") + 1 & 0xFFFFFFFF
        self._buf[_CLAIMS : _CLAIMS + 4] = claim.to_bytes(4, "little")
        return claim

    def _offset(self, slot: int) -> int:
        return self._layout.workers + slot * WORKER.size

    def _read(self, slot: int) -> Worker | None:
        fields = _WORKER.unpack_from(self._buf, self._offset(slot))
        # An invalid slot is damaged, and belongs to no worker.
        taken = fields[_STATE] == 1 and fields[_PID] <= _LAST_PID and fields[_ROW] < self._layout.rows
        return Worker(slot, *fields[1:7]) if taken else None

    def _write(self, worker: Worker) -> None:
        offset = self._offset(worker.slot)
        fields = worker[1:]
        _WORKER.pack_into(self._buf, offset, 0, *fields, 0, 0, b"")
        self._buf[offset : offset + 4] = (1).to_bytes(4, "little")
        if worker.slot >= self._used:
            self._buf[_SLOTS : _SLOTS + 4] = (worker.slot + 1).to_bytes(4, "little")
