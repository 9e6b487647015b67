"""A block's content at one moment: the totals of its series, a snapshot made from them on demand, and its sums.

Short forms and sums of groups are made by C in one pass over the totals, if they are those of a block.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from functools import cache

from ..core import bulk
from ..frozen import NamedTuple
from ..layout import BEFORE_BUCKETS, minima_of, minimum_of, saturated
from ..series import Deferred, DeferredNames, Distribution, Kind, Name, SeriesKey, Snapshot, Value, items_at
from .catalog import Catalog

#: The bit of a gauge's first cell that is set if its value is the double.
_IS_REAL = 1 << 32

#: Plain ints, because they are compared many times.
_GAUGE, _HISTOGRAM = int(Kind.GAUGE), int(Kind.HISTOGRAM)


class Totals:
    """The totals of the series of a catalog.

    Args:
        catalog: the series, and the places of their values.
        cells: all rows merged, see `shmstats.reading.columns.Columns.merged`. This object owns it.
    """

    def __init__(self, catalog: Catalog, cells: bytearray) -> None:
        self.catalog = catalog
        self.cells = cells
        self._integers, self._reals = memoryview(cells).cast("q"), memoryview(cells).cast("d")

    def set_gauges(self, positions: Sequence[int], values: Iterable[int | float]) -> None:
        """Set gauges that are not sums of columns."""
        for position, value in zip(positions, values, strict=True):
            cell = self.catalog.cells[position]
            if isinstance(value, int):
                self._integers[cell], self._integers[cell + 1] = 0, value
            else:
                self._integers[cell], self._reals[cell + 2] = _IS_REAL, value

    def values(self) -> list[Value]:
        """Return the values of all series, in the order of the catalog's names."""
        return self.at(range(len(self.catalog.numbers)))

    def at(self, positions: Iterable[int]) -> list[Value]:
        """Return the values of the series at some positions of the catalog."""
        cells, kinds, integers, reals = self.catalog.cells, self.catalog.kinds, self._integers, self._reals
        values: list[Value] = []
        for position in positions:
            cell = cells[position]
            if kinds[position] == _HISTOGRAM:
                values.append(distribution_in(self.cells, cell, self.catalog.widths[position]))
            elif kinds[position] == _GAUGE and integers[cell] & _IS_REAL:
                values.append(reals[cell + 2])
            else:
                values.append(integers[cell + 1])
        return values

    def cells_of(self, positions: Sequence[int]) -> bytes:
        """Return the first cells of the series at some positions (u32)."""
        return array("I", [self.catalog.cells[position] for position in positions]).tobytes()


def distribution_in(cells: bytearray, cell: int, width: int) -> Distribution:
    """Return the histogram with a lock cell."""
    found = _form(width).unpack_from(cells, 8 * (cell + 1))
    return Distribution(found[0], found[1], found[3:], minimum_of(found[2]) if found[2] else 0.0)


@cache
def _form(width: int) -> struct.Struct:
    return struct.Struct(f"<ddq{width - BEFORE_BUCKETS}q")


class BlockSnapshot(Snapshot):
    """A snapshot of a whole block, whose names and values are made at their first use."""

    names: BlockNames
    values: BlockValues

    def value_of(self, category: str, metric: str) -> Value | None:
        """Return the value of a series without labels, unless it is a combined gauge; None if there is none."""
        totals = self.values.totals
        position = totals.catalog.position_of(f"{category}\0{metric}".encode())
        return None if position is None else totals.at((position,))[0]


class BlockNames(DeferredNames):
    """The names of a catalog, followed by those of gauges combined from contributions.

    Attributes:
        catalog: the catalog.
        combined: the names of those gauges.
    """

    __slots__ = ("catalog", "combined")

    def __init__(self, catalog: Catalog, combined: list[Name]) -> None:
        super().__init__(len(catalog.numbers) + len(combined))
        self.catalog, self.combined = catalog, combined

    def _make(self) -> list[Name]:
        return [*self.catalog.names, *self.combined]

    def at(self, positions: Sequence[int]) -> list[Name]:
        """Return the names at some positions, which must not be negative: these alone, if there are none yet."""
        own = len(self.catalog.numbers)
        if self.catalog.has_names or (positions and max(positions) >= own):
            return super().at(positions)
        return self.catalog.decoded([self.catalog.numbers[position] for position in positions])

    @property
    def kinds(self) -> bytes:
        """The kind of each."""
        return self.catalog.kinds + bytes(name.kind for name in self.combined)

    @property
    def keys(self) -> list[SeriesKey]:
        """Category, metric and labels of each."""
        return [*self.catalog.keys, *(name.key for name in self.combined)]


class BlockValues(Deferred[Value]):
    """The values of `BlockNames`. If only a few are needed, only these are made.

    Attributes:
        totals: of the block's catalog.
        combined: of the gauges combined from contributions.
    """

    __slots__ = ("combined", "totals")

    def __init__(self, totals: Totals, combined: list[Value]) -> None:
        super().__init__(len(totals.catalog.numbers) + len(combined))
        self.totals, self.combined = totals, combined

    def __eq__(self, other: object) -> bool:
        # Each page asks whether its values are saved: of the same names, the cells are compared, and no value is made.
        if isinstance(other, BlockValues) and self.totals.catalog is other.totals.catalog:
            return self.totals.cells == other.totals.cells and self.combined == other.combined
        return super().__eq__(other)

    __hash__ = None

    def _make(self) -> list[Value]:
        return [*self.totals.values(), *self.combined]

    def at(self, positions: Sequence[int]) -> list[Value]:
        """Return the values at some positions, which must not be negative."""
        own = len(self.totals.catalog.numbers)
        if not self.combined:
            return self.totals.at(positions)
        found = iter(self.totals.at([each for each in positions if each < own]))
        return [next(found) if each < own else self.combined[each - own] for each in positions]


class Brief(NamedTuple):
    """The value of a histogram in short form.

    Attributes:
        sum: see `Distribution`.
        min: likewise.
        max: likewise.
        first: the number of the first non-empty bucket.
        buckets: the counts from that one to the last non-empty one, separated by blanks.
    """

    sum: float
    min: float
    max: float
    first: int
    buckets: str


def brief(value: Distribution) -> Brief:
    """Return the value of a histogram in short form."""
    filled = [number for number, observed in enumerate(value.buckets) if observed] or [0, -1]
    shown = value.buckets[filled[0] : filled[-1] + 1]
    return Brief(value.sum, value.min, value.max, filled[0], " ".join(map(str, shown)))


def briefs_at(values: Sequence[Value], positions: Sequence[int]) -> list[Brief]:
    """Return the histograms at some positions in short form."""
    if bulk is None or not isinstance(values, BlockValues):
        return [brief(value) for value in items_at(values, positions) if isinstance(value, Distribution)]
    totals = values.totals
    widths = array("I", [totals.catalog.widths[position] for position in positions])
    cells = totals.cells_of(positions)
    texts = bulk.text_buckets(totals.cells, cells, widths.tobytes())
    firsts = memoryview(cells).cast("I")
    integers, reals = memoryview(totals.cells).cast("q"), memoryview(totals.cells).cast("d")
    least = minima_of([integers[cell + 3] for cell in firsts])
    return [
        Brief._make((reals[cell + 1], smallest, reals[cell + 2], first, text))
        for cell, smallest, (first, text) in zip(firsts, least, texts, strict=True)
    ]


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
