"""One histogram: what all workers, or one, have observed, read without a lock. `Columns.merged` reads all of them.

A writer makes the sequence number odd while it writes, so a copy that was made between two equal even numbers is one
that somebody wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..core import fence
from ..layout import CELLS_PER_PAGE, INT64_MAX, minimum_of
from ..series import Distribution
from .columns import Columns

if TYPE_CHECKING:
    import numpy.typing as npt

#: Looks at a row that changes all the time.
_ATTEMPTS = 100

#: Cells of a histogram before its buckets: lock, sum, maximum, minimum.
BEFORE_BUCKETS = 4


class Histograms:
    """The histograms of a block.

    Args:
        columns: the cells of the block.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def one(self, cell: int, width: int, reserved: npt.NDArray[np.bool_], row: int | None = None) -> Distribution:
        """Return a histogram's value over all rows, or in one."""
        last = (cell + width - 1) // CELLS_PER_PAGE
        rows = np.flatnonzero(reserved[:, cell // CELLS_PER_PAGE : last + 1].all(axis=1))
        if row is not None:
            rows = rows[rows == row]
        parts = [self.in_row(each, cell, width) for each in rows.tolist()]
        columns = zip(*(part[3:].tolist() for part in parts), strict=True)
        buckets = [min(max(sum(column), 0), INT64_MAX) for column in columns]
        figures = np.array([part[:2] for part in parts], np.int64).reshape(-1, 2).view(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            total, maximum = np.nan_to_num((figures[:, 0].sum(), figures[:, 1].max(initial=0.0))).tolist()
        smallest = min((minimum_of(int(part[2])) for part in parts), default=0.0)
        smallest = smallest if 0 <= smallest <= maximum else 0.0
        return Distribution(total, maximum, tuple(buckets or [0] * (width - BEFORE_BUCKETS)), smallest)

    def in_row(self, row: int, cell: int, width: int) -> npt.NDArray[np.int64]:
        """Return a consistent copy of a histogram's values in one row.

        A writer that was killed in the middle leaves the sequence number odd until someone writes again;
        what it left is off by its one observation, so it is taken after a while.
        """
        for _ in range(_ATTEMPTS):
            before = int(self._columns.cells["seq"][row, cell])
            fence()
            copy = self._columns.cells["value"][row, cell + 1 : cell + width].copy()
            fence()
            if before % 2 == 0 and int(self._columns.cells["seq"][row, cell]) == before:
                break
        return copy
