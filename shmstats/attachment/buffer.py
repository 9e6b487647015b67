"""The buffer of a worker: a row of cells in its own memory, whose content a flush adds to the block.

Handles of counters and timings are bound to it like to any cells; they need neither a lock nor a
store to shared memory, except for the number of held operations in the worker's slot. The content belongs to the names
at the time of binding: if names have changed since, each column is looked up again, and counts of removed names go.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from ..block.keys import encode_key
from ..block.records import Record
from ..core import Cells, Series
from ..layout import minimum_of
from ..reading.attached import AttachedBlock
from ..series import Kind
from .own_metrics import FLUSH, FLUSHES, OWN


class Buffer:
    """Operations of this process that are not in the block yet.

    Args:
        block: to flush to.
        cells: a row in this process's own memory.
    """

    def __init__(self, block: AttachedBlock, cells: Cells) -> None:
        self.cells = cells
        self._block = block
        self._generation = cells.generation
        self._columns: dict[int, tuple[bytes, Record]] = {}
        self._durations: tuple[bytes, Record] | None = None

    @classmethod
    def of(cls, block: AttachedBlock, size: int, flush: Callable[[], object]) -> Buffer:
        """Return the buffer of a process, which counts its flushes.

        Args:
            block: to flush to.
            size: operations that it may hold.
            flush: called when it is full and cannot be flushed at once.
        """
        buffer = cls(block, block.buffer_cells(size, flush))
        keys = encode_key(OWN, FLUSHES), encode_key(OWN, FLUSH)
        flushes, durations = map(block.names.find, keys)
        if flushes is not None and durations is not None:
            buffer.note_flushes((keys[0], flushes), (keys[1], durations), block.scale_of(durations))
        return buffer

    def empty(self) -> None:
        """Flush for the last time. The guard is held, so nothing is added until the caller closes the cells."""
        self.cells.direct = False
        self.flush()

    def bind(self, series: Series, key: bytes, record: Record, generation: int, scale: bytes) -> bool:
        """Bind a handle to the buffer. The guard is held.

        Does nothing and returns False if the names have changed since the record was found.

        Args:
            series: the handle.
            key: of its name.
            record: of its name, a counter or a histogram.
            generation: of the names when the record was found.
            scale: of a histogram, see `shmstats.bounds.scale_of`.
        """
        if generation != self.cells.generation:
            return False
        if generation != self._generation:
            self.flush()
            self._columns.clear()
            self._generation = generation
        self._columns[record.cell] = (key, record)
        self.cells.route(record.cell, record.width, self._block.row_for(record))
        where = (self.cells, 0, record.cell, record.width, generation, record.monotonic)
        if record.kind is Kind.HISTOGRAM:
            series._bind(*where, scale)
        else:
            series._bind(*where)
        return True

    def note_flushes(self, flushes: tuple[bytes, Record], durations: tuple[bytes, Record], scale: bytes) -> None:
        """Count the flushes and their durations in the buffer itself: the next flush adds them to the block.

        Args:
            flushes: key and record of a counter.
            durations: key and record of a histogram.
            scale: of the histogram.
        """
        for key, record in (flushes, durations):
            self._columns[record.cell] = (key, record)
            self.cells.route(record.cell, record.width, self._block.row_for(record))
        self._durations = durations
        self.cells.note_flushes(flushes[1].cell, durations[1].cell, scale)

    def flush(self) -> None:
        """Add everything to the block. The guard is held.

        Each column is moved by one call, so that an exception of a signal handler finds it in one place or the other.

        Raises:
            ValueError: the block is closed.
        """
        while not self.cells.flush(self._generation):
            self._look_up_again()
        self._move_durations()

    def _look_up_again(self) -> None:
        """Look all columns up again after a change of names; counts of removed names are discarded."""
        now = self.cells.generation
        if not now:
            raise ValueError("the buffer is closed")
        for key, record in list(self._columns.values()):
            found = self._block.names.find(key, record.declaration)
            if found is None or found.cell != record.cell or found.kind is not record.kind:
                self.cells.take(record.cell, record.width)
                del self._columns[record.cell]
            else:
                self.cells.route(record.cell, record.width, self._block.row_for(found))
        self._generation = now

    def _move_durations(self) -> None:
        """Add the duration of a flush to the block with this flush, not with the next one."""
        if self._durations is not None:
            _, record = self._durations
            values = self.cells.take(record.cell, record.width)
            total, maximum = struct.unpack("<2d", struct.pack("<2q", *values[:2]))
            row = self._block.row_for(record)
            figures = total, maximum, minimum_of(values[2])
            self._block.cells.add_distribution(row, record.cell, *figures, values[3:], self._generation)
