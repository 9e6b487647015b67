"""The values of the rows of a block, for the series of a catalog."""

from __future__ import annotations

from ..layout import BEFORE_BUCKETS
from ..series import Kind, Mode, Name, Value
from .catalog import Catalog
from .columns import Columns
from .gauges import GAUGE_CELLS, Gauges
from .histograms import Histograms


def by_row(columns: Columns, catalog: Catalog, living: set[int]) -> dict[int, list[Value | None]]:
    """Return for each row with memory its values, one for each name; None for no value.

    Args:
        columns: the cells of the block.
        catalog: of its names.
        living: signatures of the living workers.
    """
    return {
        row: [
            _in_row(columns, row, cell, name, living) for name, cell in zip(catalog.names, catalog.cells, strict=True)
        ]
        for row in columns.rows_in_use()
    }


def _in_row(columns: Columns, row: int, cell: int, name: Name, living: set[int]) -> Value | None:
    if not columns.has(row, cell, 2 if name.mode is Mode.LAST else GAUGE_CELLS):
        return None
    if name.mode is not Mode.LAST:
        found = Gauges(columns).contribution(row, cell, living if name.mode.live else None)
        return None if found is None else found.value
    if name.kind is Kind.TIMESTAMP:
        return columns.moment(cell) if row == 0 else None
    if name.kind is Kind.GAUGE:
        return columns.gauge(cell) if row == 0 else None
    if name.kind is Kind.HISTOGRAM:
        distribution = Histograms(columns).one(cell, len(name.bounds) + 1 + BEFORE_BUCKETS, row)
        return distribution if any(distribution.buckets) else None
    return columns.integer(row, cell + 1) or None
