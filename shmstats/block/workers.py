"""The worker slots: which processes count into a block, and into which row.

A slot is a process, known by its pid and its start time together (a pid alone is given out again). Where
/proc does not show a process, or cannot be read for want of descriptors, one that has the pid is taken to
live: a live worker's lock or row must never be another's. A process that called exec has both still, but
not the memory image that took the slot: its next claim frees what the former image held.

A row is a stripe of cells: a new worker takes the lowest row that no live worker has and adds on to
whatever is there, so nothing has to be moved when a worker dies. When every row has a live worker the
one with the fewest is shared.

Slots change under the table lock. Anyone may read them.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..hashing import blake2b
from ..layout import HEADER, WORKER, WORKER_SLOTS, Layout, field_offset, owner_word, struct_of
from .segment import BlockError

_WORKER = struct_of(WORKER)
_SLOTS = field_offset(HEADER, "slots")
_CLAIMS = field_offset(HEADER, "claims")


class Worker(NamedTuple):
    """One taken slot.

    Attributes:
        slot: its number.
        claim: the number of this taking of it.
        pid: of the process.
        row: that the process adds to.
        start_time: of the process, in clock ticks since boot.
        attached: when it came, CLOCK_MONOTONIC in ns.
        held: operations in its buffer.
        image: of the process's memory, see `memory_image`.
    """

    slot: int
    claim: int
    pid: int
    row: int
    start_time: int
    attached: int
    held: int
    image: int

    @property
    def word(self) -> int:
        """What the locks hold that are this worker's."""
        return owner_word(self.slot, self.claim)

    @property
    def signature(self) -> int:
        """What signs this worker's contributions to gauges: a positive 64-bit number, pid in the upper half.

        Another worker has another one, were it to get the same pid.
        """
        return self.pid << 32 | self.claim

    @property
    def lives(self) -> bool:
        """Whether the process is still there and is the same, as far as that can be told now."""
        try:
            state, started = _state_and_start(self.pid)
        except OSError:
            return _exists(self.pid)
        return state not in _ENDED and started == self.start_time


_ENDED = (b"Z", b"X")


def start_time(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since boot; None if there is none, or a zombie.

    Raises:
        OSError: it cannot be told now.
    """
    try:
        state, started = _state_and_start(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in _ENDED else started


def _state_and_start(pid: int) -> tuple[bytes, int]:
    """Return the state and the start time of a process; source: proc_pid_stat(5), fields 3 and 22.

    Raises:
        OSError: there is none, /proc does not show it (mounted with hidepid), or no descriptor is left.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return fields[0], int(fields[19])


def _exists(pid: int) -> bool:
    """Tell whether any process has a pid, be it a zombie."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid > 0


def memory_image() -> int:
    """Return what tells this process's memory from that before an exec; 0 where it cannot be told.

    The addresses in the auxiliary vector (proc_pid_auxv(5)) are random for each exec.
    """
    try:
        with open("/proc/self/auxv", "rb") as file:
            return int.from_bytes(blake2b(file.read(), digest_size=8).digest(), "little")
    except OSError:
        return 0


def pid_namespace() -> int:
    """Return the inode of this process's pid namespace: a pid means nothing in another one."""
    return os.stat("/proc/self/ns/pid").st_ino


class WorkerTable:
    """The worker slots of a block.

    Args:
        buf: the block; writable for `claim` and `release`.
        layout: of the block.
    """

    def __init__(self, buf: memoryview, layout: Layout) -> None:
        self._buf = buf
        self._layout = layout

    def __iter__(self) -> Iterator[Worker]:
        """Go through the taken slots, whether their processes live or not."""
        for slot in range(self._used):
            worker = self._read(slot)
            if worker is not None:
                yield worker

    def live(self) -> list[Worker]:
        """Return the workers whose processes live."""
        return [worker for worker in self if worker.lives]

    def is_live(self, word: int) -> bool:
        """Tell whether the owner of a cell's lock lives, by the word that the lock holds."""
        slot = (word >> 20) - 1
        worker = self._read(slot) if 0 <= slot < self._used else None
        return worker is not None and worker.word == word and worker.lives

    def claim(self, reserve: Callable[[int, int], None]) -> Worker:
        """Take a slot and a row for this process, freeing those of dead ones. The table lock is held.

        Args:
            reserve: called with a range of bytes of the block, to have memory behind it.

        Raises:
            BlockError: every slot is taken by a live process.
            OSError: what ``reserve`` raises.
        """
        started = start_time(os.getpid())
        if started is None:
            raise BlockError("/proc does not show this process; shmstats tells the living by it")
        image = memory_image()
        live = []
        for worker in self:
            if worker.lives and (worker.pid != os.getpid() or worker.image == image):
                live.append(worker)
            else:
                self.release(worker)
        taken = {worker.slot for worker in live}
        slot = next(slot for slot in range(WORKER_SLOTS + 1) if slot not in taken)
        if slot == WORKER_SLOTS:
            raise BlockError(f"{WORKER_SLOTS} live processes count into the block; there is no slot left")
        worker = Worker(
            slot=slot,
            claim=self._next_claim(),
            pid=os.getpid(),
            row=self._free_row(live),
            start_time=started,
            attached=time.monotonic_ns(),
            held=0,
            image=image,
        )
        reserve(self._offset(slot), WORKER.itemsize)
        self._write(worker)
        return worker

    def release(self, worker: Worker) -> None:
        """Free a slot. The table lock is held."""
        offset = self._offset(worker.slot)
        self._buf[offset : offset + 4] = bytes(4)

    @property
    def _used(self) -> int:
        """Slots that were ever used; there need not be memory behind the others."""
        return min(int.from_bytes(self._buf[_SLOTS : _SLOTS + 4], "little"), WORKER_SLOTS)

    def _free_row(self, live: list[Worker]) -> int:
        sharers = Counter(worker.row for worker in live)
        return min(range(1, self._layout.rows), key=lambda row: (sharers[row], row))

    def _next_claim(self) -> int:
        claim = int.from_bytes(self._buf[_CLAIMS : _CLAIMS + 4], "little") + 1 & 0xFFFFFFFF
        self._buf[_CLAIMS : _CLAIMS + 4] = claim.to_bytes(4, "little")
        return claim

    def _offset(self, slot: int) -> int:
        return self._layout.workers + slot * WORKER.itemsize

    def _read(self, slot: int) -> Worker | None:
        state, *fields = _WORKER.unpack_from(self._buf, self._offset(slot))
        return Worker(slot, *fields[:7]) if state == 1 else None

    def _write(self, worker: Worker) -> None:
        offset = self._offset(worker.slot)
        fields = worker[1:]
        _WORKER.pack_into(self._buf, offset, 0, *fields, 0, 0, 0)
        self._buf[offset : offset + 4] = (1).to_bytes(4, "little")
        if worker.slot >= self._used:
            self._buf[_SLOTS : _SLOTS + 4] = (worker.slot + 1).to_bytes(4, "little")
