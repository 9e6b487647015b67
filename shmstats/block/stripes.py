"""The cells of a series in the rows of a block: which row to count in, which rows have any, memory behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..core import Cells
from ..layout import CELL
from ..series import Kind
from .errors import memory_is_full
from .layout import Layout
from .records import Record
from .space import Space

if TYPE_CHECKING:
    import numpy.typing as npt

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

    def store(self, cells: npt.NDArray[np.int64], widths: npt.NDArray[np.int64], values: npt.NDArray[np.int64]) -> None:
        """Store the first value of series that are being added behind all others, integers, in the shared row.

        Raises:
            BlockFullError: there is no memory for them. Nothing was changed.
        """
        used = np.flatnonzero(widths)
        if not len(used):
            return
        first, end = int(cells[used[0]]), int(cells[used[-1]] + widths[used[-1]])
        if not self._space.reserve_cells(SHARED_ROW, first, end - first):
            raise memory_is_full()
        row = np.frombuffer(self._buf, CELL, self._layout.columns, self._layout.cells)
        row["value"][cells[used] + 1] = values[used]
