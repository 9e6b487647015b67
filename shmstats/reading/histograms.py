"""Histograms: one value of what every worker has observed, read without a lock.

A writer makes the sequence number odd while it writes, so a copy that was made between two equal even numbers is one
that somebody wrote.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from ..core import fence
from ..layout import CELLS_PER_PAGE, minimum_of
from ..series import Distribution
from .columns import SAFE, Columns

if TYPE_CHECKING:
    import numpy.typing as npt

#: Looks at a row that changes all the time.
_ATTEMPTS = 100

#: Cells of a histogram before its buckets: lock, sum, maximum, minimum.
BEFORE_BUCKETS = 4

#: The bits of a minimum where there is none: what the cell has, less 1.
_NO_MINIMUM = np.uint64(2**64 - 1)


class Histograms:
    """The histograms of a block.

    Args:
        columns: the cells of the block.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def many(
        self, histograms: list[tuple[int, int, int]], reserved: npt.NDArray[np.bool_]
    ) -> list[tuple[int, Distribution]]:
        """Return positions and values of histograms, all of one width, over all rows."""
        positions, firsts, widths = zip(*histograms, strict=True)
        cells, width = np.array(firsts), widths[0]
        pages = cells // CELLS_PER_PAGE, (cells + width - 1) // CELLS_PER_PAGE
        places = cells[:, None] + np.arange(1, width)
        sums, maxima = np.zeros(len(cells)), np.zeros(len(cells))
        minima = np.full(len(cells), _NO_MINIMUM)
        buckets = np.zeros((len(cells), width - BEFORE_BUCKETS), np.int64)
        large = np.zeros(len(cells), np.bool_)
        for row in np.flatnonzero(reserved.any(axis=1)).tolist():
            here = np.flatnonzero(reserved[row, pages[0]] & reserved[row, pages[1]])
            before = self._columns.cells["seq"][row, cells[here]]
            fence()
            parts = self._columns.cells["value"][row, places[here]]
            fence()
            torn = (before & 1 != 0) | (before != self._columns.cells["seq"][row, cells[here]])
            for i in np.flatnonzero(torn).tolist():
                parts[i] = self.in_row(row, int(cells[here[i]]), width)
            doubles = parts.view(np.float64)
            with np.errstate(over="ignore"):  # what goes beyond the largest float is cut below
                sums[here] += doubles[:, 0]
            maxima[here] = np.maximum(maxima[here], doubles[:, 1])
            minima[here] = np.minimum(minima[here], parts[:, 2].view(np.uint64) - np.uint64(1))
            buckets[here] += parts[:, 3:]
            large[here] |= (parts[:, 3:] >= SAFE // self._columns.rows).any(axis=1)
        sums = np.clip(sums, -sys.float_info.max, sys.float_info.max)
        # Only a block that is damaged has less than no observations, or what is no number: nobody is to stumble.
        np.maximum(buckets, 0, out=buckets)
        sums, maxima = np.nan_to_num(sums), np.nan_to_num(maxima)
        smallest = np.where(minima == _NO_MINIMUM, np.uint64(0), minima).view(np.float64)
        smallest = np.clip(np.nan_to_num(smallest), 0, np.maximum(maxima, 0))
        values = map(_distribution, sums.tolist(), maxima.tolist(), buckets.tolist(), smallest.tolist())
        found = list(zip(positions, values, strict=True))
        for i in np.flatnonzero(large).tolist():
            found[i] = positions[i], self.one(firsts[i], width, reserved)
        return found

    def one(self, cell: int, width: int, reserved: npt.NDArray[np.bool_], row: int | None = None) -> Distribution:
        """Return a histogram's value over all rows, or in one."""
        last = (cell + width - 1) // CELLS_PER_PAGE
        rows = np.flatnonzero(reserved[:, cell // CELLS_PER_PAGE : last + 1].all(axis=1))
        if row is not None:
            rows = rows[rows == row]
        parts = [self.in_row(each, cell, width) for each in rows.tolist()]
        buckets = [max(sum(column), 0) for column in zip(*(part[3:].tolist() for part in parts), strict=True)]
        figures = np.array([part[:2] for part in parts], np.int64).reshape(-1, 2).view(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            total, maximum = np.nan_to_num((figures[:, 0].sum(), figures[:, 1].max(initial=0.0))).tolist()
        smallest = min((minimum_of(int(part[2])) for part in parts), default=0.0)
        smallest = smallest if 0 <= smallest <= maximum else 0.0
        return _distribution(total, maximum, buckets or [0] * (width - BEFORE_BUCKETS), smallest)

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


def _distribution(total: float, maximum: float, buckets: list[int], minimum: float) -> Distribution:
    return Distribution(total, maximum, tuple(buckets), minimum)
