"""Restoring the series of a saved snapshot into a new block that no other process uses yet.

They are registered together, with their values, in one step. If there is not enough room for all of them, halves are
tried, so that each series is restored that fits after the ones before it in the snapshot.
"""

from __future__ import annotations

from array import array
from collections.abc import Container, Sequence
from itertools import compress

from ..frozen import NamedTuple
from ..layout import CELL, NAME
from ..series import Kind
from .block import Block
from .errors import BlockFullError
from .keys import family_key
from .records import FAMILY, Record, packed
from .repairing import mark_inherited


class Packed(NamedTuple):
    """Series in the form of a block: see `shmstats.snapshot.packing`.

    Attributes:
        keys: of the series, concatenated.
        records: a `NAME` for each, with the number of its metric + 1 as family, and 1 as members if it has labels.
        cells: of all series, concatenated.
        metrics: category and metric, joined by NUL, by those numbers.
    """

    keys: bytes
    records: bytes
    cells: bytes
    metrics: Sequence[str]

    @property
    def number(self) -> int:
        """The number of series."""
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
        """Return the series without those of some numbered metrics."""
        families = NAME.column(self.records, "family").tolist()
        kept = [not family or self.metrics[family - 1] not in metrics for family in families]
        return self.of(list(compress(self.rows(), kept)))

    def families(self) -> dict[int, Kind]:
        """Return the kind of each numbered metric, by its number + 1; if there are several kinds, histogram wins."""
        families, kinds = (NAME.column(self.records, field).tolist() for field in ("family", "kind"))
        found = dict(sorted(set(zip(families, kinds, strict=True))))  # the last one stays: its bounds are needed
        return {number: Kind(kind) for number, kind in found.items() if number}

    def labelled(self) -> set[int]:
        """Return the numbers + 1 of the metrics with labels."""
        families, members = (NAME.column(self.records, field).tolist() for field in ("family", "members"))
        return set(compress(families, members))


def restore(block: Block, series: Packed) -> list[tuple[bytes, str]]:
    """Register the series of a saved snapshot, with their values in row 0.

    Args:
        block: to restore into. No other process uses it yet.
        series: that it does not have, all different. Their metrics are already declared there.

    Returns:
        The keys of the series that were not restored, and why.
    """
    with block.exclusive():
        failed = _register_what_fits(block, series)
        mark_inherited(block.names)
    return failed


def _register_what_fits(block: Block, series: Packed) -> list[tuple[bytes, str]]:
    """Register as many series as fit, in their order; return the keys of the others, and why."""
    try:
        _register(block, series)
        return []
    except BlockFullError as error:
        rows = series.rows()
        if len(rows) == 1 or block.names.is_full:
            return [(key, str(error)) for key, _, _ in rows]
    middle = len(rows) // 2
    return _register_what_fits(block, series.of(rows[:middle])) + _register_what_fits(block, series.of(rows[middle:]))


def _register(block: Block, series: Packed) -> None:
    """Register some series, with their values.

    Raises:
        BlockFullError: there is not enough room for all of them. None was registered.
    """
    families = array("I", bytes(4 * (len(series.metrics) + 1)))
    missing: dict[int, tuple[bytes, Record]] = {}
    labelled = series.labelled() if series.metrics else set()
    for number, kind in series.families().items() if series.metrics else ():
        key = family_key(series.metrics[number - 1].encode())
        family = block.names.find(key)
        if family is not None:
            families[number] = family.number + 1
        elif number in labelled:
            missing[number] = key, Record(-1, kind, FAMILY, 0, 0)
    if missing:
        families_too = b"".join([packed(record, 0, len(key)) for key, record in missing.values()])
        block.names.have_room(series.records + families_too, len(series.cells) // CELL.size)
    for number, (key, wanted) in missing.items():
        families[number] = block.names.add(key, wanted).number + 1
    block.names.add_all(series.keys, series.records, series.cells, families.tobytes())
