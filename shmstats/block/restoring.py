"""Restoring the series of a saved snapshot into a block that was just made, and is not yet anyone else's.

They are registered together, with their values, in one step. Where there is not room for all of them, halves are
tried, so that as many are there as fit, in the order of the snapshot.
"""

from __future__ import annotations

from array import array
from collections.abc import Container, Iterable, Sequence
from itertools import compress
from typing import NamedTuple

from ..layout import CELL, NAME
from ..series import Distribution, Kind, Name, Value
from .block import Block
from .errors import BlockFullError, capacity_is_used
from .keys import encode_key, family_key
from .rebucketing import carry
from .records import FAMILY, Record
from .repairing import mark_inherited
from .stripes import SHARED_ROW


class Packed(NamedTuple):
    """Series, as `shmstats.core.pack_series` makes them.

    Attributes:
        keys: of the series, one behind the other.
        records: a `NAME` for each, with the number of its metric + 1 as family, and 1 as members where it has labels.
        cells: of all, one behind the other.
        metrics: category and metric, joined by NUL, by those numbers.
    """

    keys: bytes
    records: bytes
    cells: bytes
    metrics: Sequence[str]

    @property
    def number(self) -> int:
        """How many series there are."""
        return len(self.records) // NAME.size

    def rows(self) -> list[tuple[bytes, bytes, bytes]]:
        """Return key, record and cells of each series."""
        lengths, widths = (NAME.column(self.records, field).tolist() for field in ("length", "width"))
        rows = []
        key = cell = 0
        for number, (length, width) in enumerate(zip(lengths, widths, strict=True)):
            record = self.records[number * NAME.size : (number + 1) * NAME.size]
            rows.append((self.keys[key : key + length], record, self.cells[cell : cell + width * CELL.size]))
            key, cell = key + length, cell + width * CELL.size
        return rows

    def of(self, rows: Sequence[tuple[bytes, bytes, bytes]]) -> Packed:
        """Return some of the series."""
        keys, records, cells = map(b"".join, zip(*rows, strict=True)) if rows else (b"",) * 3
        return self._replace(keys=keys, records=records, cells=cells)

    def without(self, metrics: Container[str]) -> Packed:
        """Return the series of all but some metrics that have a number."""
        families = NAME.column(self.records, "family").tolist()
        kept = [not family or self.metrics[family - 1] not in metrics for family in families]
        return self.of(list(compress(self.rows(), kept)))

    def families(self) -> dict[int, Kind]:
        """Return the kind of each metric that has a number, by that + 1; of several kinds, histogram goes first."""
        families, kinds = (NAME.column(self.records, field).tolist() for field in ("family", "kind"))
        found = dict(sorted(set(zip(families, kinds, strict=True))))  # the last one stays: its bounds are needed
        return {number: Kind(kind) for number, kind in found.items() if number}

    def labelled(self) -> set[int]:
        """Return the numbers + 1 of the metrics that have labels."""
        families, members = (NAME.column(self.records, field).tolist() for field in ("family", "members"))
        return set(compress(families, members))


def restore(block: Block, series: Packed, there: Iterable[tuple[Name, Value]] = ()) -> list[tuple[bytes, str]]:
    """Register the series of a saved snapshot, with their values in row 0.

    Args:
        block: to restore into. It is not yet anyone else's.
        series: that it does not have; no two are the same. What is declared of them is declared there.
        there: names and values of series that it has.

    Returns:
        The keys of what was not restored, and why.
    """
    with block.exclusive():
        for name, value in there:
            record = block.find_or_add(encode_key(name.category, name.metric, name.labels), name.kind)
            block.names.set_created(record.number, name.created)
            if record.kind is name.kind:
                _put(block, record, name, value)
        failed = _register_what_fits(block, series)
        mark_inherited(block.names)
    return failed


def _register_what_fits(block: Block, series: Packed) -> list[tuple[bytes, str]]:
    """Register as many series as there is room for; return the keys of the others, and why."""
    try:
        _register(block, series)
    except BlockFullError:
        pass
    else:
        return []
    rows = series.rows()
    start, size = 0, max(len(rows) // 2, 1)
    while start < len(rows):
        try:
            _register(block, series.of(rows[start : start + size]))
            start += size
        except BlockFullError as error:
            if size == 1:
                return [(key, str(error)) for key, _, _ in rows[start:]]
            size //= 2
    return []


def _register(block: Block, series: Packed) -> None:
    """Register some series, with their values.

    Raises:
        BlockFullError: there is not room for all of them. None was registered.
    """
    families = array("I", bytes(4 * (len(series.metrics) + 1)))
    missing: dict[int, Record] = {}
    labelled = series.labelled() if series.metrics else set()
    for number, kind in series.families().items() if series.metrics else ():
        family = block.names.find(family_key(series.metrics[number - 1].encode()))
        if family is not None:
            families[number] = family.number + 1
        elif number in labelled:
            missing[number] = Record(-1, kind, FAMILY, 0, 0)
    if missing and block.names.count + len(missing) + series.number > block.layout.capacity:
        raise capacity_is_used(block.layout.capacity)
    for number, wanted in missing.items():
        families[number] = block.names.add(family_key(series.metrics[number - 1].encode()), wanted).number + 1
    block.names.add_all(series.keys, series.records, series.cells, families.tobytes())


def _put(block: Block, record: Record, name: Name, value: Value) -> None:
    """Put a restored value into row 0."""
    block.space.reserve_cells(SHARED_ROW, record.cell, record.width)
    cells, generation = block.cells, block.cells.generation
    if record.kind is Kind.GAUGE:
        cells.set_gauge(SHARED_ROW, record.cell, value, generation)
    elif isinstance(value, Distribution):
        carry(block, record, value, name.bounds, block.bounds_of(record), name.carried)
    elif isinstance(value, int):
        cells.add(SHARED_ROW, record.cell, value, generation)
        if not name.monotonic:
            block.names.clear_monotonic(record)
