"""The cells of a block for readers: values by row and column, of the pages that have memory.

A page without memory is not even read, because reading would allocate it.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from ..block.layout import Layout
from ..block.stripes import ReservedPages
from ..core import bulk
from ..layout import CELL, CELLS_PER_PAGE, saturated

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Columns(ReservedPages):
    """The cells of a block.

    Args:
        buf: the block.
        layout: of the block.
    """

    def __init__(self, buf: memoryview, layout: Layout) -> None:
        super().__init__(buf, layout)
        self._row_cells = layout.row_bytes // CELL.size
        cells = buf[layout.cells : layout.cells + layout.rows * layout.row_bytes]
        self._integers, self._reals, self._words = cells.cast("q"), cells.cast("d"), cells.cast("I")

    @property
    def count(self) -> int:
        """The number of columns."""
        return self._layout.columns

    def close(self) -> None:
        """Release the buffer; a read that is running in another thread keeps it."""
        del self._integers, self._reals, self._words, self._buf

    def view(self) -> npt.NDArray[np.void]:
        """Return the cells as `shmstats.layout.CELL`, read-only: shape (rows, cells of a row). It keeps them mapped."""
        import numpy as np  # only here: no other part of reading needs it

        layout = self._layout
        cells = np.frombuffer(self._buf, CELL.dtype, layout.rows * self._row_cells, layout.cells)
        view = cells.reshape(layout.rows, -1).view()
        view.flags.writeable = False
        return view

    def rows_in_use(self) -> list[int]:
        """Return the rows that have any memory."""
        layout = self._layout
        bitmaps = bytes(self._buf[layout.pages : layout.pages + layout.rows * layout.bitmap_bytes])
        starts = enumerate(range(0, len(bitmaps), layout.bitmap_bytes))
        return [row for row, start in starts if any(bitmaps[start : start + layout.bitmap_bytes])]

    def pages_in_use(self) -> int:
        """Return the number of pages of cells with memory."""
        layout = self._layout
        bitmaps = self._buf[layout.pages : layout.pages + layout.rows * layout.bitmap_bytes]
        return int.from_bytes(bitmaps, "little").bit_count()

    def merged(self, count: int, histograms: bytes) -> bytearray:
        """Return all rows merged into one, for the first ``count`` columns.

        It has the saturated sum of each counter, and of each shared gauge, which only row 0 has. In the C core a
        histogram has the form of a row's, with all observations; in Python `Histograms.merge` puts it there.

        Args:
            count: number of columns.
            histograms: first columns and widths (u32).
        """
        count = min(count, self._layout.columns)
        if bulk is not None:
            totals = bulk.sum_columns(*self.grid(), count)
            if histograms:
                bulk.merge_histograms(*self.grid(), totals, histograms)
            return totals
        sums = array("q", bytes(8 * count))
        for first in range(0, count, CELLS_PER_PAGE):
            size = min(CELLS_PER_PAGE, count - first)
            parts = [self.integers(row, first, size) for row in self.rows_of(first)]
            if parts:
                sums[first : first + size] = array("q", map(saturated, map(sum, zip(*parts, strict=True))))
        return bytearray(sums)

    def integer(self, row: int, column: int) -> int:
        """Return the integer in a cell."""
        return self._integers[row * self._row_cells + column]

    def integers(self, row: int, column: int, count: int) -> list[int]:
        """Return the integers in some consecutive cells."""
        start = row * self._row_cells + column
        return list(self._integers[start : start + count])

    def real(self, row: int, column: int) -> float:
        """Return the double in a cell."""
        return self._reals[row * self._row_cells + column]

    def sequence(self, row: int, column: int) -> int:
        """Return the second field of a series' first cell, beside the lock."""
        return self._words[2 * (row * self._row_cells + column) + 1]

    def total(self, column: int) -> int:
        """Return the sum of one column over all rows, which may be beyond 64 bits."""
        return sum(self.integer(row, column) for row in self.rows_of(column))

    def gauge(self, cell: int, row: int = 0) -> int | float:
        """Return the value of the gauge with a lock cell, in one row."""
        return self.real(row, cell + 2) if self.sequence(row, cell) & 1 else self.integer(row, cell + 1)

    def moment(self, cell: int) -> int:
        """Return the value of the timestamp with a lock cell: an integer, whatever a damaged lock contains."""
        return self.integer(0, cell + 1)

    def grid(self) -> tuple[memoryview, int, int, int, int, int]:
        """Return the place of the cells, in the form for `shmstats.core.bulk`."""
        layout = self._layout
        return self._buf, layout.cells, layout.row_bytes, layout.rows, layout.pages, layout.bitmap_bytes
