"""The cells of a series in the rows of a block: which row to count in, which rows have any, memory behind them."""

from __future__ import annotations

from ..core import Cells
from ..layout import CELL
from ..series import Kind
from .errors import memory_is_full
from .layout import Layout
from .records import Record
from .space import Space

SHARED_ROW = 0


class Stripes:
    """The rows of cells of an attached block.

    Args:
        buf: the block.
        layout: of the block.
        space: the memory behind it.
        cells: of the block.
        own: the row of this process.
    """

    def __init__(self, buf: memoryview, layout: Layout, space: Space, cells: Cells, own: int) -> None:
        self._buf = buf
        self._layout = layout
        self._space = space
        self._cells = cells
        self._own = own

    def row_for(self, record: Record) -> int:
        """Return the row to count a name in: this worker's, or one that has memory for it if ours cannot."""
        if record.shared:
            return SHARED_ROW
        if self._space.has(self._own, record) or self._space.reserve_cells(self._own, record.cell, record.width):
            return self._own
        return self._space.rows_of(record)[0]

    def rows_of(self, record: Record) -> list[int]:
        """Return the rows that have memory for a name: at least one."""
        return self._space.rows_of(record)

    def place(self, record: Record) -> None:
        """Have memory behind the cells of a name that is being added.

        Raises:
            BlockFullError: there is none.
        """
        row = SHARED_ROW if record.shared else self._own
        if not (self._space.has(row, record) or self._space.reserve_cells(row, record.cell, record.width)):
            raise memory_is_full()

    def clear(self, record: Record) -> None:
        """Set a name's cells to 0 in every row."""
        for row in self.rows_of(record):
            self._cells.clear(row, record.cell, record.width, record.kind is Kind.HISTOGRAM)

    def store(self, cell: int, content: bytes) -> None:
        """Store the first values of series that are being added behind all others, in the shared row.

        Args:
            cell: the first column.
            content: the cells of the series.

        Raises:
            BlockFullError: there is no memory for them. Nothing was changed.
        """
        if not content:
            return
        if not self._space.reserve_cells(SHARED_ROW, cell, len(content) // CELL.size):
            raise memory_is_full()
        start = self._layout.cells + cell * CELL.size
        self._buf[start : start + len(content)] = content
