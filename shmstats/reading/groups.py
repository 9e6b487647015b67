"""Sums of groups of series of a snapshot: for a snapshot of a block, by one pass over its totals."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from ..core import bulk
from ..series import Distribution, Value, items_at
from .columns import saturated
from .totals import BlockValues, distribution_in


class CounterGroups:
    """Counters of a snapshot to be added up by group.

    Args:
        positions: of the counters in the snapshot's names.
        groups: the number of each counter's group.
        count: number of groups.
    """

    def __init__(self, positions: Sequence[int], groups: Sequence[int], count: int) -> None:
        self._positions, self._groups, self._count = positions, array("I", groups), count
        self._cells: bytes | None = None

    def sums(self, values: Sequence[Value]) -> array[int]:
        """Return the sum of each group (64 bits, saturated).

        Args:
            values: of a snapshot that has these very names.
        """
        if bulk is not None and isinstance(values, BlockValues):
            if self._cells is None:
                self._cells = values.totals.cells_of(self._positions)
            return array("q", bulk.add_counters(values.totals.cells, self._cells, self._groups.tobytes(), self._count))
        sums = [0] * self._count
        for group, value in zip(self._groups, items_at(values, self._positions), strict=True):
            sums[group] += value if isinstance(value, int) else 0
        return array("q", map(saturated, sums))


class HistogramGroup:
    """Histograms of a snapshot to be added up.

    Args:
        positions: of the histograms in the snapshot's names, at least one; all have the same bounds.
    """

    def __init__(self, positions: Sequence[int]) -> None:
        self._positions = positions
        self._cells: bytes | None = None

    def sum(self, values: Sequence[Value]) -> Distribution:
        """Return the sum.

        Args:
            values: of a snapshot that has these very names.
        """
        if bulk is not None and isinstance(values, BlockValues):
            totals = values.totals
            if self._cells is None:
                self._cells = totals.cells_of(self._positions)
            width = totals.catalog.widths[self._positions[0]]
            return distribution_in(bulk.add_histograms(totals.cells, self._cells, width), 0, width)
        parts = [value for value in items_at(values, self._positions) if isinstance(value, Distribution)]
        return Distribution(
            sum(part.sum for part in parts),
            max((part.max for part in parts), default=0.0),
            tuple(map(sum, zip(*(part.buckets for part in parts), strict=True))),
            min((part.min for part in parts if part.count), default=0.0),
        )
