"""The cells of a block as a reader sees them: values by row and column, of the pages that have memory behind them.

A page without memory is not even looked at: a look would allocate it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..block.layout import Layout
from ..core import merge_histograms, sum_columns
from ..layout import CELL, CELLS_PER_PAGE, INT64_MAX, INT64_MIN, PAGE

if TYPE_CHECKING:
    import numpy.typing as npt

#: A sum of rows cannot leave 64 bits while every cell is smaller than this over the number of rows.
SAFE = 2**62


class Columns:
    """The cells of a block.

    Args:
        buf: the block.
        layout: of the block.

    Attributes:
        cells: all of them, as `shmstats.layout.CELL`: shape (rows, cells of a row).
        rows: how many there are.
    """

    def __init__(self, buf: memoryview, layout: Layout) -> None:
        self._buf = buf
        self._layout = layout
        self.rows = layout.rows
        # `frombuffer` keeps the memory mapped as long as there is an array of it; `np.ndarray` would not.
        count = layout.rows * layout.row_bytes // CELL.itemsize
        self.cells: npt.NDArray[np.void] = np.frombuffer(buf, CELL, count, layout.cells).reshape(layout.rows, -1)
        self._pages = np.frombuffer(buf, np.uint8, layout.rows * layout.bitmap_bytes, layout.pages)

    def close(self) -> None:
        """Let go of the buffer."""
        del self.cells, self._pages, self._buf

    def view(self) -> npt.NDArray[np.void]:
        """Return the cells, read-only."""
        view = self.cells.view()
        view.flags.writeable = False
        return view

    def reserved(self) -> npt.NDArray[np.bool_]:
        """Return which pages of which rows have memory behind them: shape (rows, pages of a row)."""
        pages = self._layout.row_bytes // PAGE
        bits = np.unpackbits(self._pages.reshape(self.rows, -1), axis=1, bitorder="little")
        return bits[:, :pages].astype(bool)

    def merged(self, count: int, histograms: bytes) -> bytearray:
        """Return all rows as one, of the first ``count`` columns.

        A counter has its sum there, saturated; so has a gauge that all share, for row 0 alone has any. A histogram is
        as in a row, of all observations.

        Args:
            count: of columns.
            histograms: first columns and widths (u32).
        """
        layout = self._layout
        grid = self._buf, layout.cells, layout.row_bytes, layout.rows, layout.pages, layout.bitmap_bytes
        totals = sum_columns(*grid, min(count, layout.columns))
        if histograms:
            merge_histograms(*grid, totals, histograms)
        return totals

    def total(self, column: int) -> int:
        """Return the sum of one column over all rows, which may be beyond 64 bits."""
        rows = np.flatnonzero(self.reserved()[:, column // CELLS_PER_PAGE])
        return sum(self.cells["value"][rows, column].tolist())

    def gauge(self, cell: int, row: int = 0) -> int | float:
        """Return the value of the gauge whose lock is a cell, in one row."""
        if self.cells["seq"][row, cell] & 1:
            return float(self.cells["value"][row, cell + 2 : cell + 3].view(np.float64)[0])
        return int(self.cells["value"][row, cell + 1])


def saturated(value: int) -> int:
    """Return the integer of 64 bits that is nearest."""
    return min(max(value, INT64_MIN), INT64_MAX)
