"""Histograms whose buckets a release has changed: saved observations are moved into the new buckets by their bounds.

That is only for series of ended processes: a series of a live process is set aside, as for any other
change of a declaration. New series are prepared beside the old ones, hidden; once the new declaration is stored
they become the current ones. So a kill on the way leaves either the old series or the new ones.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ..bounds import DEFAULT_BOUNDS, Bounds, rebucketed, stay_exact
from ..layout import minimum_of
from ..series import Declaration, Distribution, Kind
from .block import Block
from .declarations import INTERNAL, fits
from .errors import memory_is_full
from .records import CARRIED, INHERITED, MEMBER, READY, Record, width_of
from .repairing import number_of_ready, repair
from .stripes import SHARED_ROW


def can_go_on(record: Record, used: Declaration, declared: Declaration) -> bool:
    """Tell whether a series is of ended processes, and differs from a declaration only in its buckets."""
    if not record.flags & INHERITED or not used.kind is declared.kind is Kind.HISTOGRAM:
        return False
    if record.width != width_of(used):  # damaged
        return False
    return INTERNAL not in used.help + declared.help and fits(used._replace(bounds=declared.bounds), declared)


@contextmanager
def carried_over(block: Block, former: list[Record], family: Record, declared: Declaration) -> Iterator[None]:
    """Move series into other buckets, if the code inside the context stores the declaration. The table lock is held.

    Args:
        block: of the series.
        former: the series.
        family: of their metric.
        declared: the new declaration.

    Raises:
        BlockFullError: there is no room for them. For later holders of the table lock nothing has changed.
    """
    if not former:
        yield
        return
    names = block.names
    names.broken_off = 1  # until the end: `repair` finishes the change here, and also after a kill
    wanted = Record(-1, Kind.HISTOGRAM, READY, 0, width_of(declared), declared.mode, family.number)
    wanted = wanted._replace(declaration=number_of_ready(declared))
    ready = [
        names.add(names.key(record.number), wanted._replace(flags=READY | record.flags & MEMBER)) for record in former
    ]
    for record in former:  # no process counts into it from now on: a lookup waits for the table lock
        names.index.leave(record.number)
    names.cells.raise_generation()
    for record, successor in zip(former, ready, strict=True):
        _fill(block, record, successor, declared)
    names.raise_revision()  # a reader that has read the names before all were prepared must read them again
    yield
    repair(names)


def _fill(block: Block, record: Record, successor: Record, declared: Declaration) -> None:
    """Copy the values of a series into the one prepared for it."""
    block.names.set_created(successor.number, block.names.created(record.number))
    if not block.stripes.reserve_cells(SHARED_ROW, successor.cell, successor.width):
        raise memory_is_full()
    bounds, wanted = block.bounds_of(record), declared.bounds or DEFAULT_BOUNDS
    for value in _values(block, record):
        carry(block, successor, value, bounds, wanted, bool(record.flags & CARRIED))


def carry(
    block: Block, record: Record, value: Distribution, bounds: Bounds, wanted: Bounds, is_carried: bool = False
) -> None:
    """Add observations to the shared row of a histogram, by the bounds of their buckets. The table lock is held.

    If some may get into a wrong bucket, the series is marked: the error of its percentiles is unknown.

    Args:
        block: of the histogram.
        record: of the histogram.
        value: the observations.
        bounds: of their buckets.
        wanted: of its buckets.
        is_carried: whether some may already be in a wrong bucket.
    """
    figures = value.sum, value.max, value.min, rebucketed(value.buckets, bounds, wanted)
    if any(value.buckets) and (is_carried or not stay_exact(value.buckets, bounds, wanted)):
        mark_carried(block, record)
    block.cells.add_distribution(SHARED_ROW, record.cell, *figures, block.cells.generation)


def mark_carried(block: Block, record: Record) -> None:
    """Mark that a histogram may have observations in wrong buckets. The table lock is held."""
    block.names.set_flags(record, block.names.record(record.number).flags | CARRIED)


def _values(block: Block, record: Record) -> Iterator[Distribution]:
    """Give the values in each row of a histogram that no process adds to any more."""
    nothing, columns = (0,) * (record.width - 4), range(record.cell, record.cell + record.width - 1)
    for row in block.stripes.rows_of(record.cell, record.width):
        # This waits for a process that began to add before.
        block.cells.add_distribution(row, record.cell, 0.0, 0.0, 0.0, nothing, block.cells.generation)
        *figures, least = (block.cells.load(row, column) for column in columns[:3])
        buckets = tuple(block.cells.load(row, column) for column in columns[3:])
        total, maximum = struct.unpack("<2d", struct.pack("<2q", *figures))
        yield Distribution(total, maximum, buckets, minimum_of(least) if least else 0.0)
