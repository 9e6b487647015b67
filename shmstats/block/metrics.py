"""The metrics of an attached block: its names, their declarations, their cells, and its workers."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..bounds import DEFAULT_BOUNDS, Bounds, scale_of
from ..core import Cells, Section
from ..series import Declaration
from .declarations import Definition, decode_definition
from .layout import HEADER, Layout
from .names import NameTable
from .records import DECLARED, Record, read_note
from .repairing import repair
from .segment import Segment
from .stripes import Stripes
from .workers import WorkerTable

_GENERATION = HEADER.offset("generation")


class Metrics:
    """The parts of a block that a worker needs to count.

    Args:
        segment: of the block.
        layout: of the block. The table lock is held.

    Attributes:
        layout: of the block, chosen by the process that created it.
        locks: the record locks.
        workers: the worker slots.
        worker: this process's slot and row.
        cells: the cells.
        stripes: the rows of cells, and their memory.
        row_for: gives the row to count a name in.
        names: the name table.
    """

    def __init__(self, segment: Segment, layout: Layout) -> None:
        self.layout = layout
        self.locks = segment.locks
        self._buf = segment.buf
        self.workers = WorkerTable(self._buf, layout, self.locks)
        self.worker = self.workers.claim()
        self.cells = self._make_cells(pages=self.layout.pages, bitmap_bytes=self.layout.bitmap_bytes)
        self.stripes = Stripes(self._buf, self.locks, layout, self.cells, self.worker.row)
        self.row_for = self.stripes.row_for
        self.names = NameTable(self._buf, layout, self.cells, self.stripes)
        self._exclusive = Section(self.locks.table(), partial(repair, self.names))
        self._definitions: dict[int, tuple[bytes, Definition]] = {}

    def exclusive(self) -> Section:
        """Hold the table lock, with the names repaired if necessary."""
        return self._exclusive

    def find(self, key: bytes, declaration: int = 0) -> Record | None:
        """Return the record of a name, if it is registered; the second argument is for `NameTable.find`."""
        record = self.names.find(key, declaration)
        if record is None:
            # Another process may rebuild the index just now, or may have been killed while it did.
            with self.exclusive():
                record = self.names.find(key, declaration)
        return record

    def declared(self, family: Record) -> Declaration | None:
        """Return the declaration of a metric; None for none."""
        definition = self.definition(family)
        return None if definition is None else definition.declared

    def definition(self, family: Record) -> Definition | None:
        """Return the declaration of a metric with its time; None for none."""
        if not family.flags & DECLARED:
            return None
        place = self.names.note_place(family.number)
        known = self._definitions.get(family.number)
        if known is not None and known[0] == place:
            return known[1]
        note = read_note(place)
        if not note:
            return None
        definition = decode_definition(note)
        self._definitions[family.number] = place, definition
        return definition

    def scale_of(self, record: Record) -> bytes:
        """Return the bytes by which the core finds the buckets of a histogram."""
        return scale_of(self.bounds_of(record))

    def bounds_of(self, record: Record) -> Bounds:
        """Return the bounds of a histogram's buckets."""
        declared = self.declared(self.names.record(record.family)) if record.family >= 0 else None
        return (declared.bounds if declared else ()) or DEFAULT_BOUNDS

    def remove(self, numbers: list[int]) -> None:
        """Remove series, by the numbers of their records, and families that become empty.

        The table lock is held.
        """
        column = self.names.column("family")
        families = {column[number] - 1 for number in numbers if column[number]}
        self.names.discard(numbers)
        self.names.remove(self.names.deserted(families))

    def _make_cells(self, **buffer: Any) -> Cells:
        return Cells(
            self._buf,
            offset=self.layout.cells,
            rows=self.layout.rows,
            capacity=self.layout.columns,
            row_bytes=self.layout.row_bytes,
            generation_offset=_GENERATION,
            owner=self.worker.word,
            is_live=self.workers.is_live,
            locks=self.locks,
            **buffer,
        )
