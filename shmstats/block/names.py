"""The name table: which statistic has which cells.

A keyed hash of a name's key leads through an index (`shmstats.core.NameIndex`) to its record. A metric with labels or a
declaration has a *family*: a record without cells that counts its label sets, with the declaration as its note.
Names are looked up without a lock, and changed under the table lock; see `NameTable`.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..core import Cells, NameIndex, hash_key
from ..layout import CELL, NAME, PAGE
from ..series import Kind, Mode
from .errors import BlockFullError, capacity_is_used
from .keys import family_key
from .layout import HEADER, Layout
from .records import (
    _CELL,
    _NOTE,
    FAMILY,
    KINDS,
    MEMBER,
    MODES,
    MONOTONIC,
    Record,
    Records,
    next_half,
    packed,
    room_for,
)
from .stripes import Stripes

_ROOM_STEP = 16

#: Two fields that change together: the hash in the index, and the number of the declaration.
_HASH_AND_DECLARATION = struct.Struct("<II")
_NOTE_PLACE = struct.Struct("<QI")

_HEADER = tuple(
    HEADER.offset(field)
    for field in (
        *("names", "removed", "families", "cells", "index_slots", "changing"),
        *("heap", "revision", "salt", "generation"),
    )
)


def make_index(buf: memoryview, layout: Layout) -> NameIndex:
    """Return the index of a block's names; with a read-only ``buf`` it cannot change them."""
    sections = layout.index, layout.index_slots, layout.names, layout.capacity, layout.heap, layout.heap_bytes
    return NameIndex(buf, (*sections, layout.columns), _HEADER, Record, KINDS, MODES)


class NameTable(Records):
    """The names of a block.

    A name is added at the end: heap, record, then the count of names, then the index. A lookup meanwhile finds it or
    not, and looks again under the lock if not. A removed name's record and cells stay until a new name of the same
    width takes them over. The generation is raised *before* the cells are cleared, and every addition to a cell checks
    it under the cell's lock, so a stale binding cannot count into another name. ``header.changing`` is 1 during a
    change: if it is 1 when the table lock is taken, the last change was killed, and is repaired
        (`shmstats.block.repairing`).

    Args:
        buf: the block.
        layout: of the block.
        cells: the cells of this process.
        stripes: of the block.

    Attributes:
        cells: as the argument.
        index: finds records by key.
        find: looks a name up without a lock, by key and, for an outdated series, the number of its declaration;
            None is only certain under the table lock. Raises `BufferError` if the record is damaged.
    """

    def __init__(self, buf: memoryview, layout: Layout, cells: Cells, stripes: Stripes) -> None:
        super().__init__(buf, layout)
        self.cells = cells
        self._stripes = stripes
        self.index = make_index(buf, layout)
        self.find: Callable[..., Record | None] = self.index.find
        self.discard: Callable[[list[int]], None] = self.index.discard

    def close(self) -> None:
        """Release the buffer."""
        self.index.close()
        super().close()

    def family_of(self, key: bytes) -> Record | None:
        """Look up the family of the metric of the name with that key."""
        return self.find(family_key(key))

    def add(self, key: bytes, wanted: Record) -> Record:
        """Add a name that `find` has not found. The table lock is held.

        Args:
            key: of the name.
            wanted: its record, still without number and cell.

        Raises:
            BlockFullError: no record, cell, heap or shared memory is left. Nothing was changed.
        """
        usage = count, removed, cells, *_ = self.index.usage()
        number = self.index.free_for(len(key), wanted.width) if removed else -1
        if number >= 0:
            return self._take_over(number, key, wanted)
        record = wanted._replace(number=count, cell=cells)
        self._have_room(usage, 1, wanted.width, -(-len(key) // _ROOM_STEP) * _ROOM_STEP)
        if wanted.width:
            self._stripes.place(record)
        self.index.append(key, packed(wanted, time.time_ns(), len(key)))
        return record

    def add_all(self, keys: bytes, records: bytes, cells: bytes, families: bytes) -> None:
        """Add many new names, with their values, in one step. The table lock is held.

        They go to the end, without using the records of removed names, and no other process may see the block
        yet.

        Args:
            keys: of the names, all different, concatenated.
            records: a `NAME` for each, with kind, mode, flags, width, family, declaration, length of
                the key, and creation time. The rest is filled in.
            cells: of the names in the shared row, concatenated.
            families: numbers of records + 1 (u32): a name's family is the one at its field ``family``.

        Raises:
            BlockFullError: there is not room for all of them. Nothing was changed.
        """
        self.have_room(records, len(cells) // CELL.size)
        _, _, first, *_ = self.index.usage()
        self._stripes.store(first, cells)
        self.index.append(keys, records, families)

    def have_room(self, records: bytes, cells: int) -> None:
        """Reserve room for names that will be added at the end. The table lock is held.

        Args:
            records: of the names, as for `add_all`.
            cells: number of all their cells.

        Raises:
            BlockFullError: there is not enough.
        """
        self._have_room(self.index.usage(), len(records) // NAME.size, cells, self.index.room_for(records))

    def set_created(self, number: int, moment: int) -> None:
        """Store when a name was made, in ns since 1970. The table lock is held; the caller raises the revision."""
        self._store(number, "created", moment)

    def remove(self, records: list[Record]) -> None:
        """Remove names for every worker. The table lock is held."""
        if records:
            self.discard([record.number for record in records])

    def clear_monotonic(self, record: Record) -> None:
        """Mark that a counter has been decremented. The table lock is held."""
        self.set_flags(record, self.record(record.number).flags & ~MONOTONIC)

    def set_flags(self, record: Record, flags: int) -> None:
        """Change the flags of a name, if they differ. The table lock is held."""
        if flags != self.record(record.number).flags:
            self._store(record.number, "flags", flags)
            self.raise_revision()

    def set_family(self, record: Record, family: Record) -> None:
        """Put a name without a family into a metric's family. The table lock is held."""
        with self.changing():
            self._store(record.number, "family", family.number + 1)
            self._count_in(record._replace(family=family.number), 1)

    def regroup(self, records: list[Record], family: Record) -> None:
        """Move series of a metric to another of its families, with its declaration. The table lock is held.

        Processes with bindings look the series up again.
        """
        with self.changing():
            for record in records:
                self._count_in(record, -1)
                self._store(record.number, "family", family.number + 1)  # from which a repair derives the rest
                self.set_declaration(record.number, family.declaration)
                self._count_in(record._replace(family=family.number), 1)
            self.index.rebuild()
            self.cells.raise_generation()

    def set_declaration(self, number: int, declaration: int) -> None:
        """Put a record under another declaration, except in the index. The table lock is held."""
        place = self._field(number, "hash")  # followed by the declaration: one word, which a kill does not split
        both = hash_key(self.key(number), self.salt) ^ declaration, declaration
        self.buffer[place : place + _HASH_AND_DECLARATION.size] = _HASH_AND_DECLARATION.pack(*both)

    def redeclare(self, family: Record, kind: Kind, mode: Mode, flags: int) -> None:
        """Change the definition of a family; all remaining series fit it. The table lock is held."""
        with self.changing():
            for field, value in (("kind", kind), ("mode", mode), ("flags", flags)):
                self._store(family.number, field, value)

    def annotate(self, number: int, text: bytes) -> None:
        """Set the note of a record. The table lock is held.

        Args:
            number: of the record.
            text: of the note.

        Raises:
            BlockFullError: the heap is full. Nothing was changed.
        """
        place, packed = next_half(self.note_place(number), text)
        if place >= 0:
            start = self._layout.heap + self._fields(number)[_NOTE] + place
            self.buffer[start : start + len(packed)] = packed
            return
        room = room_for(packed)
        note = self.heap_used
        self._have_heap(note, room)
        start = self._layout.heap + note
        # The place may have been that of another note, whose writer was killed before it stored the place here.
        self.buffer[start : start + room] = bytes(room)
        self.buffer[start : start + len(packed)] = packed
        with self._marked():
            self.heap_used = note + room
            place = self._field(number, "note")
            self.buffer[place : place + _NOTE_PLACE.size] = _NOTE_PLACE.pack(note, room)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Mark the names as being changed, and raise the revision. If the change is interrupted, the mark stays."""
        with self._marked():
            yield
            self.raise_revision()

    @contextmanager
    def _marked(self) -> Iterator[None]:
        """Mark the names as being changed; the outermost change removes the mark."""
        before = self.broken_off
        self.broken_off = 1
        yield
        self.broken_off = before

    def raise_revision(self) -> None:
        """Make readers read the names again. The table lock is held."""
        self.revision += 1

    def _take_over(self, number: int, key: bytes, wanted: Record) -> Record:
        """Give a removed record, with its cells and its place in the heap, to a new name."""
        record = wanted._replace(number=number, cell=self._fields(number)[_CELL])
        if record.width:
            self._stripes.place(record)
            self._stripes.clear(record)
        self.index.replace(number, key, packed(wanted, time.time_ns()))
        return record

    def _count_in(self, record: Record, n: int) -> None:
        """Count a name that is added (1) or removed (-1), in its family, or in the number of families."""
        if record.flags & FAMILY:
            self.families += n
        elif record.flags & MEMBER and record.family >= 0:
            family = self.record(record.family)
            self.set_members(family.number, self.members(family) + n & 0xFFFFFFFF)

    def _have_room(self, usage: tuple[int, ...], names: int, cells: int, heap: int) -> None:
        """Reserve records, cells, heap and slots of the index for so many more names.

        Raises:
            BlockFullError: there is not enough.
        """
        (number, _, cells_used, slots, _, heap_used), layout = usage, self._layout
        if number + names > layout.capacity or cells_used + cells > layout.columns:
            raise capacity_is_used(layout.capacity)
        self._have_heap(heap_used, heap)
        self._reserve_growth(layout.names, number * NAME.size, names * NAME.size)
        if 2 * (number + names) - 1 > slots:
            self._grow_index(number + names)

    def _have_heap(self, used: int, room: int) -> None:
        if used + room > self._layout.heap_bytes:
            raise BlockFullError(
                f"all {self._layout.heap_bytes} bytes for names in the block are in use: raise stats.capacity"
            )
        self._reserve_growth(self._layout.heap, used, room)

    def _reserve_growth(self, section: int, used: int, more: int) -> None:
        """Reserve the pages for ``more`` bytes after the ``used`` ones of a section."""
        first = -(-used // PAGE) * PAGE
        if used + more > first:
            self._stripes.reserve(section + first, -(-(used + more) // PAGE) * PAGE - first)

    def _grow_index(self, names: int) -> None:
        """Make the index at least twice as large as the number of names."""
        most = self._layout.index_slots
        slots = before = (self.index_slots - 1 & most - 1) + 1
        while slots < 2 * names and slots < most:
            slots *= 2
        if slots == before:
            return
        self._stripes.reserve(self._layout.index, 4 * slots)
        with self.changing():
            self.index_slots = slots
            self.index.rebuild()
