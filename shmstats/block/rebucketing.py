"""Histograms whose buckets a release has changed: what was saved goes on in the new ones, put by its bounds.

Only what processes have left that are gone: a series that a process of today has made is set aside, as with any other
change of a declaration. New series are made ready beside the former ones, hidden; once the new declaration is noted
they are the ones that count. So whoever is killed on the way leaves either the former ones or these.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ..bounds import DEFAULT_BOUNDS, Bounds, rebucketed, stay_exact
from ..layout import INT64_MAX, minimum_of
from ..series import Declaration, Distribution, Kind
from .block import Block
from .declarations import INTERNAL, fits
from .errors import memory_is_full
from .ready import number_of_ready
from .records import CARRIED, INHERITED, MEMBER, READY, Record, width_of
from .repairing import repair
from .stripes import SHARED_ROW


def can_go_on(record: Record, used: Declaration, declared: Declaration) -> bool:
    """Tell whether a series is one that was left, and differs from what is declared in its buckets alone."""
    if not record.flags & INHERITED or not used.kind is declared.kind is Kind.HISTOGRAM:
        return False
    if record.width != width_of(used):  # damage
        return False
    return INTERNAL not in used.help + declared.help and fits(used._replace(bounds=declared.bounds), declared)


@contextmanager
def carried_over(block: Block, former: list[Record], family: Record, declared: Declaration) -> Iterator[None]:
    """Have series go on in other buckets, if what is done meanwhile notes the declaration. The table lock is held.

    Args:
        block: that they are in.
        former: the series.
        family: of their metric.
        declared: what is being declared.

    Raises:
        BlockFullError: there is no room for them. Nothing has changed for those who take the table lock next.
    """
    if not former:
        yield
        return
    names = block.names
    names.broken_off = 1  # until the end: `repair` does the rest here, and the same for one that was killed
    wanted = Record(-1, Kind.HISTOGRAM, READY, 0, width_of(declared), declared.mode, family.number)
    wanted = wanted._replace(declaration=number_of_ready(declared))
    ready = [
        names.add(names.key(record.number), wanted._replace(flags=READY | record.flags & MEMBER)) for record in former
    ]
    for record in former:  # nobody counts into it from now on: who looks it up waits for the table lock
        names.index.leave(record.number, names.hash_of(record.number))
    names.cells.raise_generation()
    for record, successor in zip(former, ready, strict=True):
        _fill(block, record, successor, declared)
    names.raise_revision()  # who has read the names before they were all ready is to read them again
    yield
    repair(names)


def _fill(block: Block, record: Record, successor: Record, declared: Declaration) -> None:
    """Give a series that is made ready what another one has."""
    block.names.set_created(successor.number, block.names.created(record.number))
    if not block.stripes.reserve_cells(SHARED_ROW, successor.cell, successor.width):
        raise memory_is_full()
    value, bounds = _value(block, record), declared.bounds or DEFAULT_BOUNDS
    carry(block, successor, value, block.bounds_of(record), bounds, bool(record.flags & CARRIED))


def carry(
    block: Block, record: Record, value: Distribution, bounds: Bounds, wanted: Bounds, is_carried: bool = False
) -> None:
    """Add observations to the shared row of a histogram, put by their bounds. The table lock is held.

    Where some may get into a wrong bucket by that, the series is marked: the error of its percentiles is not known.

    Args:
        block: that the histogram is in.
        record: of it.
        value: the observations.
        bounds: of their buckets.
        wanted: of its buckets.
        is_carried: some may be in a wrong bucket already.
    """
    figures = value.sum, value.max, value.min, rebucketed(value.buckets, bounds, wanted)
    if any(value.buckets) and (is_carried or not stay_exact(value.buckets, bounds, wanted)):
        mark_carried(block, record)
    block.cells.add_distribution(SHARED_ROW, record.cell, *figures, block.cells.generation)


def mark_carried(block: Block, record: Record) -> None:
    """Note that a histogram may have observations in wrong buckets. The table lock is held."""
    flags = block.names.record(record.number).flags
    if not flags & CARRIED:
        block.names.set_flags(record, flags | CARRIED)


def _value(block: Block, record: Record) -> Distribution:
    """Return what all rows have of a histogram that nobody adds to any more."""
    rows, nothing = block.stripes.rows_of(record), (0,) * (record.width - 4)
    for row in rows:  # waits for who is at it: that one has begun before
        block.cells.add_distribution(row, record.cell, 0.0, 0.0, 0.0, nothing, block.cells.generation)
    columns = range(record.cell, record.cell + record.width - 1)
    parts = [[block.cells.load(row, column) for column in columns] for row in rows]
    doubles = [struct.unpack("<2d", struct.pack("<2q", *part[:2])) for part in parts]
    buckets = tuple(min(sum(column), INT64_MAX) for column in zip(*(part[3:] for part in parts), strict=True))
    smallest = min((minimum_of(part[2]) for part in parts if part[2]), default=0.0)
    return Distribution(sum(each[0] for each in doubles), max(each[1] for each in doubles), buckets, smallest)
