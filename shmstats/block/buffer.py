"""The buffer of a worker: a row of cells of its own, whose content is added to the block by a flush.

The handles of counters and timings are bound to it as to any cells; it costs them neither a lock nor a
store to shared memory, but for the number of operations held, which is noted in the worker's slot.

What is in the buffer belongs to the names as they were when its columns were bound. Where the names have
moved on since, each column is looked up again: what was counted for a removed name goes with it.
"""

from __future__ import annotations

import struct

from ..series import Kind
from .block import Block
from .cells import Cells, Series
from .names import Record


class Buffer:
    """Operations of this process that are not in the block yet.

    Args:
        block: to flush to.
        cells: a row of this process's own.
    """

    def __init__(self, block: Block, cells: Cells) -> None:
        self.cells = cells
        self._block = block
        self._generation = cells.generation
        self._columns: dict[int, tuple[bytes, Record]] = {}

    def bind(self, series: Series, key: bytes, record: Record, generation: int, bounds: bytes) -> None:
        """Bind a handle to the buffer. The guard is held.

        Args:
            series: the handle.
            key: of its name.
            record: of its name, a counter or a histogram.
            generation: of the names when the record was found.
            bounds: of a histogram: the upper bounds as doubles.
        """
        if generation != self._generation:
            self.flush()
            self._columns.clear()
            self._generation = generation
        self._columns[record.cell] = (key, record)
        where = (self.cells, 0, record.cell, record.width, generation, record.monotonic)
        if record.kind is Kind.HISTOGRAM:
            series._bind(*where, bounds)
        else:
            series._bind(*where)

    def flush(self) -> int:
        """Add everything to the block; returns how many operations that were. The guard is held."""
        held = self._block.held
        self._block.held = 0
        for key, record in self._columns.values():
            values = self.cells.take(record.cell, record.width)
            if any(values):
                self._push(key, record, values)
        return held

    def _push(self, key: bytes, record: Record, values: tuple[int, ...]) -> None:
        cells = self._block.cells
        generation, done = self._generation, False
        while not done:
            now = cells.generation
            if now != generation:
                found = self._block.names.find(key)
                if found is None or found.cell != record.cell or found.kind is not record.kind:
                    return
                generation = now
            row = self._block.row_for(record)
            if record.kind is Kind.COUNTER:
                done = cells.add(row, record.cell, values[0], generation)
            else:
                total, maximum = struct.unpack("<2d", struct.pack("<2q", *values[:2]))
                done = cells.add_distribution(row, record.cell, total, maximum, values[2:], generation)
