"""The buffer of a worker: a row of cells in its own memory, whose content a flush adds to the block.

Handles of counters and timings are bound to it like to any cells; they need neither a lock nor a
store to shared memory, except for the number of held operations in the worker's slot. The content belongs to the names
at the time of binding: if names have changed since, each column is looked up again, and counts of removed names go.
"""

from __future__ import annotations

from collections.abc import Callable

from ..block.keys import encode_key
from ..block.records import Record
from ..core import Series
from ..reading.attached import AttachedBlock
from .own_metrics import FLUSH, FLUSHES, OWN


class Buffer:
    """Operations of this process that are not in the block yet. It counts its flushes.

    Args:
        block: to flush to.
        size: operations that it may hold.
        flush: called when it is full and cannot be flushed at once.

    Attributes:
        cells: a row in this process's own memory.
    """

    def __init__(self, block: AttachedBlock, size: int, flush: Callable[[], object]) -> None:
        self.cells = block.buffer_cells(size, flush)
        self._block = block
        self._generation = self.cells.generation
        self._columns: dict[int, tuple[bytes, Record]] = {}
        self._note_flushes()

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
            scale: of a histogram, see `shmstats.bounds.scale_of`; else empty.
        """
        if generation != self.cells.generation:
            return False
        if generation != self._generation:
            self.flush()
            self._columns.clear()
            self._generation = generation
        self._columns[record.cell] = (key, record)
        self.cells.route(record.cell, record.width, self._block.row_for(record))
        series._bind(self.cells, 0, record.cell, record.width, generation, record.monotonic, scale)
        return True

    def _note_flushes(self) -> None:
        """Have the flushes and their durations counted in the block, if there was room for these metrics."""
        block = self._block
        flushes, durations = (block.find(encode_key(OWN, metric)) for metric in (FLUSHES, FLUSH))
        if flushes is not None and durations is not None:
            places = block.row_for(flushes), flushes.cell, block.row_for(durations), durations.cell
            self.cells.note_flushes(*places, block.scale_of(durations))

    def flush(self) -> None:
        """Add everything to the block. The guard is held.

        Each column is moved by one call, so that an exception of a signal handler finds it in one place or the other.

        Raises:
            ValueError: the block is closed.
        """
        while not self.cells.flush(self._generation):
            self._look_up_again()

    def _look_up_again(self) -> None:
        """Look all columns up again after a change of names; counts of removed names are discarded."""
        now = self.cells.generation
        if not now:
            raise ValueError("the buffer is closed")
        for key, record in list(self._columns.values()):
            found = self._block.find(key, record.declaration)
            if found is None or found.cell != record.cell or found.kind is not record.kind:
                self.cells.discard(record.cell, record.width)
                del self._columns[record.cell]
            else:
                self.cells.route(record.cell, record.width, self._block.row_for(found))
        self._note_flushes()
        self._generation = now
