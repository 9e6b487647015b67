"""The memory behind a block, which is had piece by piece: a store to a page that has none may kill the process.

Which pages of cells have memory is noted in the block, a bit for each, and that is changed under the table lock.
"""

from __future__ import annotations

import errno

from ..layout import CELLS_PER_PAGE, PAGE
from .errors import BlockFullError, memory_is_full
from .layout import Layout
from .lock import RecordLocks
from .records import Record
from .segment import Segment


class Space:
    """The memory behind an attached block.

    Args:
        segment: of the block.
        layout: of the block.
        locks: of the block.
    """

    def __init__(self, segment: Segment, layout: Layout, locks: RecordLocks) -> None:
        self._segment = segment
        self._buf = segment.buf
        self._layout = layout
        self._locks = locks
        self._bits, self._bitmap_bytes = layout.pages, layout.bitmap_bytes

    def reserve(self, offset: int, length: int) -> None:
        """Have memory behind a range of bytes.

        Raises:
            BlockFullError: there is not enough.
            OSError: the block was left, or forgotten after a fork.
        """
        try:
            self._segment.reserve(offset, length)
        except OSError as error:
            if error.errno in (None, errno.EBADF):
                raise  # not the system's, but what a signal handler raised; or the block was left
            raise memory_is_full(str(error.strerror)) from error

    def reserve_cells(self, row: int, cell: int, width: int) -> bool:
        """Have memory behind some cells of a row; returns whether there was enough.

        Raises:
            OSError: the block was left, or forgotten after a fork.
        """
        first, last = cell // CELLS_PER_PAGE, (cell + width - 1) // CELLS_PER_PAGE
        bits, start = self._bits + row * self._bitmap_bytes, self._layout.cells + row * self._layout.row_bytes
        with self._locks.table():
            missing = [page for page in range(first, last + 1) if not self._buf[bits + page // 8] >> page % 8 & 1]
            is_run = bool(missing) and missing[-1] - missing[0] == len(missing) - 1
            for pages in [missing] if is_run else [[page] for page in missing]:
                try:
                    self.reserve(start + pages[0] * PAGE, len(pages) * PAGE)
                except BlockFullError:
                    return False
                for page in pages:
                    self._buf[bits + page // 8] |= 1 << page % 8
        return True

    def has(self, row: int, record: Record) -> bool:
        """Tell whether a row has memory behind the cells of a name."""
        first, last = record.cell // CELLS_PER_PAGE, (record.cell + record.width - 1) // CELLS_PER_PAGE
        bits = self._bits + row * self._bitmap_bytes
        if first == last:
            return self._buf[bits + first // 8] >> first % 8 & 1 == 1
        return all(self._buf[bits + page // 8] >> page % 8 & 1 for page in range(first, last + 1))

    def rows_of(self, record: Record) -> list[int]:
        """Return the rows that have memory behind the cells of a name."""
        first, last = record.cell // CELLS_PER_PAGE, (record.cell + record.width - 1) // CELLS_PER_PAGE
        if first != last:
            return [row for row in range(self._layout.rows) if self.has(row, record)]
        end = self._bits + self._layout.rows * self._bitmap_bytes
        column = bytes(self._buf[self._bits + first // 8 : end : self._bitmap_bytes])
        return [row for row, bits in enumerate(column) if bits >> first % 8 & 1]


def has_page(buf: memoryview, layout: Layout, row: int, page: int) -> bool:
    """Tell whether a page of cells of a row has memory behind it."""
    return bool(buf[layout.pages + row * layout.bitmap_bytes + page // 8] >> page % 8 & 1)
