"""Gauges with a value for each worker: the contributions of the workers, and their combination by a mode.

The contributions are in the workers' rows. In a *live* mode only those of living workers count.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable

from ..core import bulk
from ..frozen import NamedTuple
from ..layout import saturated
from ..series import Mode, Name, Value
from .columns import Columns

#: Number of cells of such a gauge, and two of them: the owner and the time of the contribution.
GAUGE_CELLS, _OWNER, _MOMENT = 5, 3, 4


class Contribution(NamedTuple):
    """One worker's value of a gauge.

    Attributes:
        row: with the value.
        value: of the gauge.
        signature: of the worker, see `shmstats.block.workers.Worker`.
        moment: when it was set, CLOCK_MONOTONIC in ns, if the mode needs that.
    """

    row: int
    value: int | float
    signature: int
    moment: int


class Combined(NamedTuple):
    """Gauges of some modes, each the smallest, the last, ... of its contributions, or one series for each of them.

    Attributes:
        names: of those that have contributions; in mode *all* one for each process.
        values: of the names.
        shares: the contributions of each row.
    """

    names: list[Name]
    values: list[Value]
    shares: list[dict[int, int | float]]


class Gauges:
    """The gauges of a block that are combined from contributions.

    Args:
        columns: the cells of the block.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def contributions(self, cell: int, live: set[int] | None) -> list[Contribution]:
        """Return the contributions to a gauge, in the order of rows; only those in ``live`` if it is given."""
        found = (self.contribution(row, cell, live) for row in self._columns.rows_of(cell, GAUGE_CELLS))
        return [contribution for contribution in found if contribution is not None]

    def contribution(self, row: int, cell: int, live: set[int] | None) -> Contribution | None:
        """Return a row's contribution to a gauge that has memory there; None for none."""
        columns = self._columns
        while True:
            signature = columns.integer(row, cell + _OWNER)
            if not signature or (live is not None and signature not in live):
                return None
            found = Contribution(row, columns.gauge(cell, row), signature, columns.integer(row, cell + _MOMENT))
            if columns.integer(row, cell + _OWNER) == signature:  # else the value may be another worker's
                return found

    def combined(self, gauges: Iterable[tuple[Name, int]], live: set[int]) -> Combined:
        """Return some gauges, combined by their modes.

        Args:
            gauges: their names and first columns.
            live: signatures of the living workers.
        """
        names: list[Name] = []
        values: list[Value] = []
        shares: list[dict[int, int | float]] = []
        for name, cell in gauges:
            found = self.contributions(cell, live if name.mode.live else None)
            if name.mode.base is Mode.ALL:
                for pid, only in by_process(found):
                    names.append(name._replace(labels=(*name.labels, ("pid", str(pid)))))
                    values.append(only.value)
                    shares.append({only.row: only.value})
            elif found:
                names.append(name)
                values.append(combine(name.mode, found))
                shares.append({each.row: each.value for each in found})
        return Combined(names, values, shares)

    def sums(self, cells: bytes, of_live: bytes, live: set[int]) -> list[int | float]:
        """Return the sums of contributions to some gauges, an int if all contributions are ints.

        Args:
            cells: the first column of each gauge (u32).
            of_live: for each (u8), whether only the contributions of living workers count.
            live: signatures of the living workers.
        """
        if bulk is not None:
            living = array("Q", sorted(live)).tobytes()
            return bulk.sum_contributions(*self._columns.grid(), self._columns.count, cells, of_live, living)
        places = zip(memoryview(cells).cast("I"), of_live, strict=True)
        return [combine(Mode.SUM, self.contributions(cell, live if is_live else None)) for cell, is_live in places]


def combine(mode: Mode, contributions: list[Contribution]) -> int | float:
    """Return the combination of contributions by a mode; 0 for none, in mode *all* the sum."""
    if not contributions:
        return 0
    base = mode.base
    values = [contribution.value for contribution in contributions]
    if base in (Mode.MIN, Mode.MAX) and any(map(math.isnan, values)):
        return math.nan  # a worker reports that it does not know: the other values alone would look complete
    if base is Mode.MIN:
        return min(values)
    if base is Mode.MAX:
        return max(values)
    if base is Mode.MOSTRECENT:
        return max(contributions, key=lambda each: each.moment).value
    total = sum(values)
    if isinstance(total, int):
        return saturated(total)
    if math.isinf(total) and all(map(math.isfinite, values)):
        return math.copysign(sys.float_info.max, total)
    return total


def by_process(contributions: list[Contribution]) -> list[tuple[int, Contribution]]:
    """Return pid and contribution of each process; for a reused pid the last one."""
    return list({each.signature >> 32: each for each in contributions}.items())
