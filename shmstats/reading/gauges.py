"""Gauges of which each worker has its own: what the workers contribute, and what a mode makes of that.

The contributions are in the workers' rows. Of a *live* mode those of living workers alone count.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..layout import CELLS_PER_PAGE
from ..series import Mode
from .columns import SAFE, Columns, saturated

if TYPE_CHECKING:
    import numpy.typing as npt


class Contribution(NamedTuple):
    """What one worker has of a gauge.

    Attributes:
        row: that it is in.
        value: of it.
        signature: of the worker, see `shmstats.block.workers.Worker`.
        moment: when it was made, CLOCK_MONOTONIC in ns, where the mode asks for that.
    """

    row: int
    value: int | float
    signature: int
    moment: int


class Gauges:
    """The gauges of a block that are combined of contributions.

    Args:
        columns: the cells of the block.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def contributions(self, cell: int, reserved: npt.NDArray[np.bool_], live: set[int] | None) -> list[Contribution]:
        """Return the contributions to a gauge, in the order of rows; of those in ``live`` if it is given."""
        rows = np.flatnonzero(reserved[:, cell // CELLS_PER_PAGE])
        found = (self.contribution(row, cell, reserved, live) for row in rows.tolist())
        return [contribution for contribution in found if contribution is not None]

    def contribution(
        self, row: int, cell: int, reserved: npt.NDArray[np.bool_], live: set[int] | None
    ) -> Contribution | None:
        """Return what a row, which has memory behind a gauge's first cell, contributes to it; None for nothing."""
        if not reserved[row, (cell + 4) // CELLS_PER_PAGE]:
            return None
        values = self._columns.cells["value"]
        while True:
            signature = int(values[row, cell + 3])
            if not signature or (live is not None and signature not in live):
                return None
            found = Contribution(row, self._columns.gauge(cell, row), signature, int(values[row, cell + 4]))
            if int(values[row, cell + 3]) == signature:  # else it is that of another worker by now
                return found

    def sums(
        self,
        columns: npt.NDArray[np.intp],
        of_live: npt.NDArray[np.bool_],
        reserved: npt.NDArray[np.bool_],
        live: set[int],
    ) -> list[int | float]:
        """Return the sums of contributions to some gauges, an int where all of them are.

        Args:
            columns: the first column of each gauge.
            of_live: whether the contributions of living workers alone count.
            reserved: the pages that have memory.
            live: how the living workers sign.
        """
        living = np.array(sorted(live), np.int64)
        integers = np.zeros(len(columns), np.int64)
        reals = np.zeros(len(columns), np.float64)
        is_real = np.zeros(len(columns), np.bool_)
        large: set[int] = set()
        for row in np.flatnonzero(reserved.any(axis=1)).tolist():
            first, last = columns // CELLS_PER_PAGE, (columns + 4) // CELLS_PER_PAGE
            here = np.flatnonzero(reserved[row, first] & reserved[row, last])
            cells, at = self._columns.cells[row], columns[here]
            signatures = cells["value"][at + 3]
            counts = (signatures != 0) & (~of_live[here] | np.isin(signatures, living))
            here, at = here[counts], at[counts]
            real = cells["seq"][at] & 1 != 0
            whole = cells["value"][at + 1]
            limit = SAFE // self._columns.rows
            large.update(here[~real & ((whole >= limit) | (whole <= -limit))].tolist())
            is_real[here[real]] = True
            with np.errstate(over="ignore", invalid="ignore"):
                reals[here] += np.where(real, cells["value"][at + 2].view(np.float64), whole)
            integers[here] += np.where(real, 0, whole)
        totals: list[int | float] = np.where(is_real, 0, integers).tolist()
        for i in np.flatnonzero(is_real).tolist():
            totals[i] = float(reals[i])
            if not math.isfinite(reals[i]):
                large.add(i)
        for i in large:
            found = self.contributions(int(columns[i]), reserved, live if of_live[i] else None)
            totals[i] = combine(Mode.SUM, found)
        return totals


def combine(mode: Mode, contributions: list[Contribution]) -> int | float:
    """Return what contributions make by a mode; 0 for none, of mode *all* the sum."""
    if not contributions:
        return 0
    base = mode.base
    values = [contribution.value for contribution in contributions]
    if base in (Mode.MIN, Mode.MAX) and any(map(math.isnan, values)):
        return math.nan  # a worker cannot tell: the others alone would look as if all were well
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
    """Return pid and contribution of each process; of a pid that was given out again the last one."""
    return list({each.signature >> 32: each for each in contributions}.items())
