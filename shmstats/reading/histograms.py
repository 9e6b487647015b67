"""Histograms: the observations of all workers, or of one, read without a lock.

A writer makes the sequence number odd while it writes, so a copy made between two equal even numbers is
consistent.
"""

from __future__ import annotations

import math
import struct
import sys

from ..core import fence
from ..layout import BEFORE_BUCKETS, CELL, INT64_MAX, kept_minimum, minimum_of
from ..series import Distribution
from .columns import Columns

#: Attempts to read a row that changes all the time.
_ATTEMPTS = 100

_SPAN = struct.Struct("<II")


class Histograms:
    """The histograms of a block.

    Args:
        columns: the cells of the block.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def merge(self, spans: bytes, totals: bytearray) -> None:
        """Store the totals of histograms in a row of totals, over the sums of their columns: the twin of what C does.

        Args:
            spans: first columns and widths (u32).
            totals: see `Columns.merged`.
        """
        for cell, width in _SPAN.iter_unpack(spans):
            found = self.one(cell, width)
            least = kept_minimum(found.min) if found.count else 0
            form = f"<qddq{width - BEFORE_BUCKETS}q"
            struct.pack_into(form, totals, cell * CELL.size, 0, found.sum, found.max, least, *found.buckets)

    def one(self, cell: int, width: int, row: int | None = None) -> Distribution:
        """Return a histogram's value over all rows, or in one."""
        rows = self._columns.rows_of(cell, width)
        parts = [self.in_row(each, cell, width) for each in rows if row in (None, each)]
        columns = zip(*(part.buckets for part in parts), strict=True)
        buckets = tuple([min(max(sum(column), 0), INT64_MAX) for column in columns])
        total = _finite(sum(part.sum for part in parts))
        maximum = _finite(max((part.max for part in parts), default=0.0))
        smallest = min((part.min for part in parts), default=0.0)
        smallest = smallest if 0 <= smallest <= maximum else 0.0
        return Distribution(total, maximum, buckets or (0,) * (width - BEFORE_BUCKETS), smallest)

    def in_row(self, row: int, cell: int, width: int) -> Distribution:
        """Return a consistent copy of a histogram in one row; its smallest observation is infinite if it has none.

        A writer that was killed during a write leaves the sequence number odd until the next write. The values are
        then off by its one observation, and are accepted after some attempts.
        """
        columns = self._columns
        for _ in range(_ATTEMPTS):
            before = columns.sequence(row, cell)
            fence()
            total, maximum = columns.real(row, cell + 1), columns.real(row, cell + 2)
            minimum, *buckets = columns.integers(row, cell + 3, width - 3)
            fence()
            if before % 2 == 0 and columns.sequence(row, cell) == before:
                break
        return Distribution(total, maximum, tuple(buckets), minimum_of(minimum))


def _finite(number: float) -> float:
    return 0.0 if math.isnan(number) else min(max(number, -sys.float_info.max), sys.float_info.max)
