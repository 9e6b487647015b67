"""Histograms whose buckets a release has changed: what was saved goes on in the new ones, put by its bounds.

Only what processes have left that are gone: a series that a process of today has made is set aside, as with any other
change of a declaration.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ..bounds import Bounds, rebucketed
from ..layout import INT64_MAX, minimum_of
from ..series import Declaration, Distribution, Kind
from .block import Block
from .declarations import INTERNAL, fits
from .records import INHERITED, Record
from .stripes import SHARED_ROW


class Carried(NamedTuple):
    """A series on its way from one declaration to the next.

    Attributes:
        key: of it.
        created: when it was made, in ns since 1970.
        bounds: of its buckets before.
        value: what was observed.
    """

    key: bytes
    created: int
    bounds: Bounds
    value: Distribution


def can_go_on(record: Record, used: Declaration, declared: Declaration) -> bool:
    """Tell whether a series is one that was left, and differs from what is declared in its buckets alone."""
    if not record.flags & INHERITED or not used.kind is declared.kind is Kind.HISTOGRAM:
        return False
    return INTERNAL not in used.help + declared.help and fits(used._replace(bounds=declared.bounds), declared)


def take_out(block: Block, records: list[Record]) -> list[Carried]:
    """Remove series, and return what they have. The table lock is held.

    Who is killed before `put_back` loses what these series had, once, where a release changes their buckets.
    """
    carried = [
        Carried(
            block.names.key(record.number),
            block.names.created(record.number),
            block.bounds_of(record),
            _value(block, record),
        )
        for record in records
    ]
    block.names.remove(records)
    return carried


def put_back(block: Block, carried: list[Carried]) -> None:
    """Register series anew, as they are declared now, with what they had. The table lock is held.

    Raises:
        BlockFullError: there is no room for them.
    """
    for key, created, bounds, value in carried:
        record = block.find_or_add(key, Kind.HISTOGRAM)
        block.names.set_created(record.number, created)
        if block.space.reserve_cells(SHARED_ROW, record.cell, record.width):
            buckets = rebucketed(value.buckets, bounds, block.bounds_of(record))
            figures = value.sum, value.max, value.min, buckets
            block.cells.add_distribution(SHARED_ROW, record.cell, *figures, block.cells.generation)


def _value(block: Block, record: Record) -> Distribution:
    """Return what all rows have of a histogram."""
    columns = range(record.cell, record.cell + record.width - 1)
    parts = [[block.cells.load(row, column) for column in columns] for row in block.stripes.rows_of(record)]
    doubles = [struct.unpack("<2d", struct.pack("<2q", *part[:2])) for part in parts]
    buckets = tuple(min(sum(column), INT64_MAX) for column in zip(*(part[3:] for part in parts), strict=True))
    smallest = min((minimum_of(part[2]) for part in parts if part[2]), default=0.0)
    return Distribution(sum(each[0] for each in doubles), max(each[1] for each in doubles), buckets, smallest)
