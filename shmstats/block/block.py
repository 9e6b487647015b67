"""A block as a worker has it attached: made or found, counted into, left.

The block outlives a crash: it is unlinked only by a worker that leaves in good order and finds no other live one;
whoever comes first after a crash adopts it as it stands.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..bounds import Bounds, scale_of
from ..core import Cells, Requests, Section
from ..layout import CELL, REQUEST, REQUESTS_PER_WORKER, field_offset
from ..series import Declaration, Kind
from . import attaching
from .declarations import Definition, decode_definition, digest
from .errors import BlockFullError, DamagedBlockError, DeclarationError, SeriesLimitError, damage_named
from .header import Header
from .identity import Identity, identify
from .layout import HEADER, SAVER, WORKER, Layout
from .lock import process_guard
from .names import (
    DEFAULT_BOUNDS,
    FAMILY,
    MAX_OVERFLOW_SETS,
    MEMBER,
    MONOTONIC,
    NameTable,
    Record,
    decode_key,
    family_key,
    is_labelled,
    overflow_key,
    read_note,
    width_of,
)
from .outdated import counted_under, family_for, note_user
from .segment import Segment, attach_segment, make_segment, unlink
from .space import Space
from .workers import WorkerTable

SHARED_ROW = 0


class Block:
    """An attached block. Get one by `attach`.

    Attributes:
        name: of the segment.
        identity: of the data directory: whose the block is, and where its statistics are saved.
        layout: of the block, which is that of who made it.
        locks: the record locks.
        workers: the worker slots.
        worker: this process's slot and row.
        cells: the cells.
        header: the fields of the header that change.
        names: the name table.
        space: the memory behind it.
    """

    def __init__(self, segment: Segment, layout: Layout, identity: Identity) -> None:
        self.name = segment.name
        self.identity = identity
        self.layout = layout
        self.locks = segment.locks
        self._segment = segment
        self._buf = segment.buf
        self.header = Header(self._buf)
        self.space = Space(segment, layout, self.locks)
        self.names = NameTable(self._buf, layout)
        self.workers = WorkerTable(self._buf, layout, self.locks)
        self._bounds: dict[int, Bounds] = {}
        self._bounds_revision = -1
        self._definitions: dict[int, tuple[bytes, Definition]] = {}
        self.worker = self.workers.claim(segment.reserve)
        self._slot = layout.workers + self.worker.slot * WORKER.itemsize
        self._held = self._slot + field_offset(WORKER, "held")
        self._requests: Requests | None = None
        self.cells = self._make_cells(pages=self.layout.pages, bitmap_bytes=self.layout.bitmap_bytes)

    @property
    def requests(self) -> Requests:
        """What this process serves, for others to see; there is memory for it from its first use on.

        Raises:
            OSError: shared memory is full.
        """
        if self._requests is None:
            size = REQUESTS_PER_WORKER * REQUEST.itemsize
            entries = self.layout.requests + self.worker.slot * size
            self._segment.reserve(entries, size)
            self._requests = Requests(self._buf, entries, self._slot + field_offset(WORKER, "further"))
            serving = self._slot + field_offset(WORKER, "serving")
            self._buf[serving : serving + 4] = (1).to_bytes(4, "little")
        return self._requests

    def _make_cells(self, **buffer: Any) -> Cells:
        return Cells(
            self._buf,
            offset=self.layout.cells,
            rows=self.layout.rows,
            capacity=self.layout.columns,
            row_bytes=self.layout.row_bytes,
            generation_offset=field_offset(HEADER, "generation"),
            owner=self.worker.word,
            is_live=self.workers.is_live,
            locks=self.locks,
            **buffer,
        )

    def buffer_cells(self, limit: int, flush: Callable[[], object]) -> Cells:
        """Return a row of this process's own, flushed to the block when ``limit`` operations are in it.

        ``flush`` is called where that cannot be done at once.
        """
        return self._make_cells(limit=limit, flush=flush, held_offset=self._held, target=self.cells)

    @property
    def held(self) -> int:
        """Operations in this process's buffer, as anyone can see."""
        return int.from_bytes(self._buf[self._held : self._held + 8], "little")

    @held.setter
    def held(self, held: int) -> None:
        self._buf[self._held : self._held + 8] = held.to_bytes(8, "little")

    @classmethod
    def attach(
        cls,
        directory: Path,
        capacity: int,
        max_workers: int,
        fill: Callable[[Self], None] = lambda block: None,
    ) -> Self:
        """Attach the block of a data directory as a worker; make it where there is none.

        Args:
            directory: the data directory; it is made where it is missing, if that is possible.
            capacity: cells of a row, if the block is made.
            max_workers: rows, if the block is made.
            fill: called with a block that was just made, before anyone else sees it.

        Raises:
            BlockError: there is a block that must not be used, or this user may not use it.
            OSError: shared memory is full or not usable.
        """
        while True:
            identity = identify(directory, make=True)
            identity.check_user()
            with process_guard():
                attaching.retire_legacy(identity)
                segment = attach_segment(identity)
                if segment is None:
                    block = cls._make(identity, Layout(capacity, max_workers), fill)
                else:
                    block = cls._join(segment, identity, capacity, max_workers)
            if block is not None:
                return block

    @classmethod
    def _make(cls, identity: Identity, layout: Layout, fill: Callable[[Self], None]) -> Self | None:
        """Make the block; None where another process was quicker."""
        segment = make_segment(identity, layout.size)
        try:
            with segment.locks.table():
                try:
                    attaching.lay_out(segment, identity, layout)
                    segment.publish(identity.segment)
                    block = cls(segment, layout, identity)
                    fill(block)
                    attaching.finish(segment)
                except BaseException:
                    unlink(segment.path)  # with the lock held: the next one is another process's
                    raise
        except (FileExistsError, FileNotFoundError):
            segment.close()
            return None
        except BaseException:
            segment.close()
            raise
        return block

    @classmethod
    def _join(cls, segment: Segment, identity: Identity, capacity: int, max_workers: int) -> Self | None:
        """Attach a block that is there; None where it has its place no longer."""
        block = None
        try:
            with segment.locks.table():
                if segment.is_linked():
                    try:
                        block = cls._join_linked(segment, identity, capacity, max_workers)
                    except DamagedBlockError as error:
                        attaching.set_aside(segment, error)
        except BaseException:
            segment.close()
            raise
        if block is None:
            segment.close()
        return block

    @classmethod
    def _join_linked(cls, segment: Segment, identity: Identity, capacity: int, max_workers: int) -> Self | None:
        """Attach the block that has its place, or take that from it. The table lock is held."""
        if attaching.is_abandoned(segment, identity) or attaching.retire_other_layout(segment):
            return None
        layout, live = attaching.check_usable(segment, capacity, max_workers)
        if not live:
            attaching.adopt(segment, layout)
        block = cls(segment, layout, identity)
        block.names.repair(block.cells)
        if not live:
            block.names.mark_inherited()
        return block

    def is_current(self) -> bool:
        """Tell whether this is the block of its data directory, or there is none.

        Its file may have been removed, and another one made. Where the directory was removed and made again, the block
        becomes that of the new one, if that has none.
        """
        if not self.identity.is_current():
            identity = identify(self.identity.directory)
            if identity.owner != self.identity.owner or not self._segment.move(identity.segment):
                return False
            self.identity = identity
            self.header.birth = identity.birth()
        return self._segment.is_linked() or not os.path.lexists(self.identity.segment)

    def exclusive(self) -> Section:
        """Hold the table lock, with the names in order."""
        return Section(self.locks.table(), lambda: self.names.repair(self.cells))

    def find(self, key: bytes) -> Record | None:
        """Return the record of a name, if it is registered."""
        record = self.names.find(key)
        if record is None:
            # It may be that somebody was killed while the index was rebuilt.
            with self.exclusive():
                record = self.names.find(key)
        return record

    def find_or_add(self, key: bytes, kind: Kind, limit: int = 0, mine: Declaration | None = None) -> Record:
        """Return the record of a name, which is registered if it is not there.

        Args:
            key: of the name.
            kind: of the statistic, if it is registered; what is declared for the metric comes first.
            limit: most label sets that the metric may have; 0: any number.
            mine: what this process has declared of the metric; None where it has not. Where a later declaration is
                another one, the record is that of what is outdated.

        Raises:
            BlockFullError: there is no room for it.
            SeriesLimitError: the metric has so many label sets already.
            DeclarationError: its label names are not those that are declared.
        """
        record = self.names.find(key)
        if record is not None and record.kind is kind and record.family < 0:
            return record
        outdated = counted_under(self, key, kind, mine)
        if record is not None and outdated is None:
            return record
        with self.locks.table():
            self.names.repair(self.cells)
            outdated = counted_under(self, key, kind, mine)
            # Whoever held the lock may have added it, also while we looked.
            record = self.names.find(key, 0 if outdated is None else digest(outdated))
            if record is None:
                record = self._register(key, kind, limit, outdated)
            if outdated is not None:
                note_user(self, record)
        return record

    def _register(self, key: bytes, kind: Kind, limit: int, outdated: Declaration | None) -> Record:
        """Register a name that is not there. The table lock is held."""
        labelled = is_labelled(key)
        family = self.names.family_of(key) if outdated is None else family_for(self, key, outdated)
        if family is None and not labelled:
            return self.add(key, PLAIN[kind])
        if family is None:
            family = self.add(family_key(key), Record(-1, kind, FAMILY, 0, 0))
        declared = self.declared(family) or Declaration(kind)
        _check_label_names(key, declared)
        counted = labelled and key != overflow_key(key)
        if limit and counted and self.names.members(family) >= limit:
            raise SeriesLimitError(f"it has {limit} label sets already")
        if limit and labelled and not counted and self.names.overflow_sets(family) >= MAX_OVERFLOW_SETS:
            raise SeriesLimitError(f"its label sets have different label names, {MAX_OVERFLOW_SETS} of them already")
        flags = (MONOTONIC if declared.kind is Kind.COUNTER else 0) | (MEMBER if counted else 0)
        wanted = Record(
            *(-1, declared.kind, flags, 0, width_of(declared), declared.mode, family.number, family.declaration)
        )
        return self.add(key, wanted)

    def declared(self, family: Record) -> Declaration | None:
        """Return what is declared about a metric; None for nothing."""
        definition = self.definition(family)
        return None if definition is None else definition.declared

    def definition(self, family: Record) -> Definition | None:
        """Return what is declared about a metric, and when it was; None for nothing."""
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
        """Return what the core finds the buckets of a histogram by."""
        return scale_of(self.bounds_of(record))

    def bounds_of(self, record: Record) -> Bounds:
        """Return the bounds of a histogram's buckets."""
        if self._bounds_revision != self.names.revision:
            self._bounds.clear()
            self._bounds_revision = self.names.revision
        bounds = self._bounds.get(record.family)
        if bounds is None:
            declared = self.declared(self.names.record(record.family)) if record.family >= 0 else None
            bounds = self._bounds[record.family] = (declared.bounds if declared else ()) or DEFAULT_BOUNDS
        return bounds

    def annotate(self, record: Record, text: bytes) -> None:
        """Keep a text with a name; ``reader.notes`` gives it back.

        Raises:
            BlockFullError: there is no room for it.
        """
        with self.exclusive():
            self.names.annotate(record.number, text, self.space.reserve)

    def add(self, key: bytes, wanted: Record) -> Record:
        """Register a name that is not there. The table lock is held.

        Args:
            key: of the name.
            wanted: what it is; its number and cell are found here.

        Raises:
            BlockFullError: there is no room for it.
        """
        return self.names.add(key, wanted, self.cells, self.space.reserve, self._place)

    def _place(self, record: Record) -> None:
        """Have memory behind the cells of a name that is being added, and nothing in them."""
        row = SHARED_ROW if record.shared else self.worker.row
        if not (self.space.has(row, record) or self.space.reserve_cells(row, record.cell, record.width)):
            raise BlockFullError("shared memory is full")
        if record.cell < self.names.cells_used:
            self.clear(record)

    def row_for(self, record: Record) -> int:
        """Return the row to count a name in: this worker's, or one that has memory for it if ours cannot."""
        if record.shared:
            return SHARED_ROW
        row = self.worker.row
        if self.space.has(row, record) or self.space.reserve_cells(row, record.cell, record.width):
            return row
        return self.rows_of(record)[0]

    def rows_of(self, record: Record) -> list[int]:
        """Return the rows that have memory for a name: at least one."""
        return [row for row in range(self.layout.rows) if self.space.has(row, record)]

    def remove(self, records: list[Record]) -> None:
        """Remove series, and what stands for a metric of which nothing is left. The table lock is held."""
        self.names.remove(records, self.cells)
        deserted = self.names.deserted({record.family for record in records if record.family >= 0})
        if deserted:
            self.names.remove(deserted, self.cells)
        for record in records:
            self.clear(record)

    def clear(self, record: Record) -> None:
        """Set a name's cells to 0 in every row."""
        for row in self.rows_of(record):
            self.cells.clear(row, record.cell, record.width, record.kind is Kind.HISTOGRAM)

    def store_counters(self, columns: list[int], values: list[Any]) -> None:
        """Set counters to integers in row 0, which has memory there. The block is not yet anyone else's."""
        row = np.frombuffer(self._buf, CELL, self.layout.columns, self.layout.cells)
        row["value"][np.array(columns, np.intp) + 1] = values

    def leave(self, save: Callable[[Self], None] = lambda block: None) -> None:
        """Give up the slot. The last live worker saves and unlinks the block.

        Nothing can be counted into it any more once this has begun.

        Args:
            save: called, by the last one, before the block is unlinked. If it raises, the block stays.

        Raises:
            DamagedBlockError: it is damaged. It was left all the same, and stays.
        """
        with self.locks.table(), damage_named(self.name):
            try:
                try:
                    self.names.repair(self.cells)
                finally:
                    # Closed before the values are read to be saved, and before the slot is another's.
                    self.cells.close()
                    self.workers.release(self.worker)
                    self.locks.unlock(SAVER)
                if not self.workers.live():
                    if self.is_current():
                        save(self)
                    if self._segment.is_linked():
                        unlink(self._segment.path)  # also that of a directory that is gone: nobody comes to it again
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Let go of the memory without a word to the others: what the child of a fork does."""
        self.cells.close()
        if self._requests is not None:
            self._requests.close()
        self.names.close()
        self.header.close()
        self._segment.close()


#: What a name becomes that no family says anything of.
PLAIN = {
    kind: Record(-1, kind, MONOTONIC if kind is Kind.COUNTER else 0, 0, width_of(Declaration(kind))) for kind in Kind
}


def _check_label_names(key: bytes, declared: Declaration) -> None:
    """Check the label names of a series against what is declared.

    Raises:
        DeclarationError: they are others.
    """
    if declared.labelnames is None:
        return
    category, metric, labels = decode_key(key)
    found = tuple(name for name, _ in labels)
    if found != declared.labelnames:
        raise DeclarationError(
            f"metric {metric!r} of category {category!r} is declared with the label names"
            f" {declared.labelnames}, not {found}"
        )
