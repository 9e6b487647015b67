"""What a block has at one moment: the totals of its series, and a snapshot that is made of them on demand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..layout import minimum_of
from ..series import Deferred, Distribution, Name, Snapshot, Value
from .catalog import Catalog

if TYPE_CHECKING:
    import numpy.typing as npt

#: What the first cell of a gauge has besides its lock where its value is the double.
_IS_REAL = 1 << 32


class Totals:
    """The totals of the series of a catalog.

    Args:
        catalog: which series there are, and where their values are.
        cells: all rows as one, see `shmstats.reading.columns.Columns.merged`. It is this object's.
    """

    def __init__(self, catalog: Catalog, cells: bytearray) -> None:
        self.catalog = catalog
        self.cells = cells
        self._integers: npt.NDArray[np.int64] = np.frombuffer(cells, np.int64)

    def set_gauges(self, positions: Sequence[int], values: Iterable[int | float]) -> None:
        """Set gauges that are no sums of columns."""
        reals = self._integers.view(np.float64)
        for cell, value in zip(self.catalog.cells[list(positions)].tolist(), values, strict=True):
            if isinstance(value, int):
                self._integers[cell], self._integers[cell + 1] = 0, value
            else:
                self._integers[cell], reals[cell + 2] = _IS_REAL, value

    def values(self) -> list[Value]:
        """Return the values of all series, in the order of the catalog's names."""
        return self.at(np.arange(len(self.catalog.numbers)))

    def at(self, positions: npt.NDArray[np.intp]) -> list[Value]:
        """Return the values of the series at some positions of the catalog."""
        catalog = self.catalog
        cells = catalog.cells[positions]
        values: list[Any] = self._integers[cells + 1].tolist()
        real = np.flatnonzero(catalog.are_gauges[positions] & (self._integers[cells] & _IS_REAL != 0))
        numbers = self._integers.view(np.float64)[cells[real] + 2].tolist()
        for i, number in zip(real.tolist(), numbers, strict=True):
            values[i] = number
        for i in np.flatnonzero(catalog.are_histograms[positions]).tolist():
            values[i] = self._distribution(int(cells[i]), int(catalog.widths[positions[i]]))
        return values

    def sum_of(self, positions: Sequence[int]) -> Distribution:
        """Return the sum of histograms at some positions, at least one, that have the same bounds."""
        cells = self.catalog.cells[list(positions)]
        width = int(self.catalog.widths[positions[0]])
        kept = self._integers[cells[:, None] + np.arange(1, width)]
        reals = kept[:, :2].view(np.float64)
        least = int((kept[:, 2].view(np.uint64) - np.uint64(1)).min()) + 1 & 2**64 - 1
        buckets = tuple(kept[:, 3:].sum(axis=0).tolist())
        minimum = minimum_of(least) if least else 0.0
        return Distribution(float(reals[:, 0].sum()), float(reals[:, 1].max()), buckets, minimum)

    def _distribution(self, cell: int, width: int) -> Distribution:
        kept = self._integers[cell + 1 : cell + width]
        total, maximum = kept[:2].view(np.float64).tolist()
        minimum, *buckets = kept[2:].tolist()
        return Distribution(total, maximum, tuple(buckets), minimum_of(minimum) if minimum else 0.0)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Totals):
            return NotImplemented
        return self.catalog is other.catalog and self._shown() == other._shown()

    __hash__ = None  # type: ignore[assignment]

    def _shown(self) -> bytes:
        """Return what is shown of the cells: without the locks that were taken at that moment."""
        cells = self._integers.copy()
        cells[self.catalog.cells] &= _IS_REAL
        return cells.tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class BlockSnapshot(Snapshot):
    """A snapshot of a block, of which names and values are made when somebody looks at them.

    Attributes:
        totals: of the series of the block's catalog.
        combined: names and values behind all others: gauges that are combined of contributions.
    """

    totals: Totals = field(kw_only=True)
    combined: tuple[list[Name], list[Value]] = field(kw_only=True)

    def __post_init__(self) -> None:
        """Check that it is of the whole block.

        Raises:
            TypeError: it has other names: what is chosen of a block is a plain `Snapshot`.
        """
        if not (isinstance(self.names, BlockNames) and isinstance(self.values, BlockValues)):
            raise TypeError("a snapshot of some names of a block must be a Snapshot, not a BlockSnapshot")

    def value_of(self, category: str, metric: str) -> Value | None:
        """Return the value of a series without labels, which is no combined gauge; None where there is none."""
        position = self.totals.catalog.position_of(f"{category}\0{metric}".encode())
        return None if position is None else self.totals.at(np.array([position]))[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BlockSnapshot):
            return NotImplemented
        mine = self.totals, self.combined, self.system, self.health, self.workers
        return mine == (other.totals, other.combined, other.system, other.health, other.workers)

    __hash__ = None  # type: ignore[assignment]


class BlockNames(Deferred[Name]):
    """The names of a catalog, and behind them those of combined gauges."""

    __slots__ = ("_catalog", "_combined")

    def __init__(self, catalog: Catalog, combined: list[Name]) -> None:
        super().__init__(len(catalog.numbers) + len(combined))
        self._catalog, self._combined = catalog, combined

    def _make(self) -> list[Name]:
        return [*self._catalog.names, *self._combined]


class BlockValues(Deferred[Value]):
    """The values of `BlockNames`. Who wants a few of them has these made alone."""

    __slots__ = ("_combined", "_totals")

    def __init__(self, totals: Totals, combined: list[Value]) -> None:
        super().__init__(len(totals.catalog.numbers) + len(combined))
        self._totals, self._combined = totals, combined

    def _make(self) -> list[Value]:
        return [*self._totals.values(), *self._combined]

    def sum_of(self, positions: Sequence[int]) -> Distribution:
        """Return the sum of histograms at some positions, at least one, that have the same bounds."""
        return self._totals.sum_of(positions)

    def at(self, positions: Sequence[int]) -> list[Value]:
        """Return the values at some positions, none of them negative."""
        own = len(self._totals.catalog.numbers)
        found = iter(self._totals.at(np.array([each for each in positions if each < own], np.intp)))
        return [next(found) if each < own else self._combined[each - own] for each in positions]
