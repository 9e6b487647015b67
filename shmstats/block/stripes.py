"""The rows of cells of a block: the row to count a series in, the rows with values, and their memory.

Memory is reserved piece by piece, because a store to a page without memory may kill the process. A bitmap in the block
has the pages of cells with memory, and changes under the table lock.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from ..core import Cells
from ..layout import CELL, CELLS_PER_PAGE, PAGE
from ..series import Kind
from .errors import BlockFullError, memory_is_full
from .layout import Layout
from .lock import RecordLocks
from .records import Record

SHARED_ROW = 0


class ReservedPages:
    """Which pages of cells have memory, by the bitmaps of a block.

    Args:
        buf: the block.
        layout: of the block.
    """

    def __init__(self, buf: memoryview, layout: Layout) -> None:
        self._buf = buf
        self._layout = layout

    def has(self, row: int, cell: int, width: int = 1) -> bool:
        """Tell whether a row has memory for some columns."""
        return not self.missing(row, cell, width)

    def missing(self, row: int, cell: int, width: int) -> list[int]:
        """Return the pages of some columns of a row without memory."""
        bits = self._layout.pages + row * self._layout.bitmap_bytes
        pages = range(cell // CELLS_PER_PAGE, (cell + width - 1) // CELLS_PER_PAGE + 1)
        return [page for page in pages if not self._buf[bits + page // 8] >> page % 8 & 1]

    def rows_of(self, cell: int, width: int = 1) -> list[int]:
        """Return the rows that have memory for some columns."""
        layout = self._layout
        rows: Iterable[int] = range(layout.rows)
        for page in range(cell // CELLS_PER_PAGE, (cell + width - 1) // CELLS_PER_PAGE + 1):
            end = layout.pages + layout.rows * layout.bitmap_bytes
            bits, mask = bytes(self._buf[layout.pages + page // 8 : end : layout.bitmap_bytes]), 1 << page % 8
            rows = [row for row in rows if bits[row] & mask]
        return list(rows)


class Stripes(ReservedPages):
    """The rows of cells of an attached block.

    Args:
        buf: the block.
        locks: of the block, and its file.
        layout: of the block.
        cells: of the block.
        own: the row of this process.
    """

    def __init__(self, buf: memoryview, locks: RecordLocks, layout: Layout, cells: Cells, own: int) -> None:
        super().__init__(buf, layout)
        self._locks = locks
        self._cells = cells
        self._own = own

    def row_for(self, record: Record) -> int:
        """Return the row to count a name in: this worker's, or if its memory is missing, one that has memory for it."""
        if record.shared:
            return SHARED_ROW
        return self._own if self._have(self._own, record) else self.rows_of(record.cell, record.width)[0]

    def place(self, record: Record) -> None:
        """Reserve memory for the cells of a name that is being added.

        Raises:
            BlockFullError: there is no memory left.
        """
        if not self._have(SHARED_ROW if record.shared else self._own, record):
            raise memory_is_full()

    def clear(self, record: Record) -> None:
        """Set a name's cells to 0 in every row."""
        for row in self.rows_of(record.cell, record.width):
            self._cells.clear(row, record.cell, record.width, record.kind is Kind.HISTOGRAM)

    def store(self, cell: int, content: bytes) -> None:
        """Store the first values of series that are being added at the end, in the shared row.

        Args:
            cell: the first column.
            content: the cells of the series.

        Raises:
            BlockFullError: there is no memory left for them. Nothing was changed.
        """
        if not content:
            return
        if not self.reserve_cells(SHARED_ROW, cell, len(content) // CELL.size):
            raise memory_is_full()
        start = self._layout.cells + cell * CELL.size
        self._buf[start : start + len(content)] = content

    def reserve(self, offset: int, length: int) -> None:
        """Reserve memory for a range of bytes of the block.

        Raises:
            BlockFullError: there is not enough.
            OSError: the process has left the block, or forgotten it after a fork.
        """
        try:
            self._locks.reserve(offset, length)
        except OSError as error:
            if error.errno in (None, errno.EBADF):
                raise  # raised by a signal handler; or the process has left the block
            raise memory_is_full(str(error.strerror)) from error

    def reserve_cells(self, row: int, cell: int, width: int) -> bool:
        """Reserve memory for some cells of a row; returns whether there was enough.

        Raises:
            OSError: the process has left the block, or forgotten it after a fork.
        """
        bits, start = self._layout.pages + row * self._layout.bitmap_bytes, self._layout.cells
        start += row * self._layout.row_bytes
        with self._locks.table():
            missing = self.missing(row, cell, width)
            if missing:
                try:
                    self.reserve(start + missing[0] * PAGE, (missing[-1] + 1 - missing[0]) * PAGE)
                except BlockFullError:
                    return False
            for page in missing:
                self._buf[bits + page // 8] |= 1 << page % 8
        return True

    def _have(self, row: int, record: Record) -> bool:
        return self.has(row, record.cell, record.width) or self.reserve_cells(row, record.cell, record.width)
