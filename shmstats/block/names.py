"""The name table: which statistic has which cells.

A keyed hash of a name's key (SipHash, with the block's own salt, so that nobody can aim at one spot) leads through an
open-addressing index (`shmstats.core.NameIndex`) to its record.

A metric with labels, and one with a declaration, has a *family*: a record without cells, which counts the label sets,
and whose note says what is declared. What an outdated declaration left has a family of its own: the hash of its names
is combined with the number of that declaration, so `find` leads there only by it (`shmstats.block.outdated`).

Names are looked up without a lock, and added, removed and changed under the table lock:

- A name is added behind all others: heap, record, then the count of names, then the index. Who looks
  it up meanwhile finds it or does not, and whoever does not looks again under the lock.
- A removed name's record stays, marked, and its cells with it, until a new name of the same width
  takes both over. The names generation is raised *before* the cells are emptied, and every addition to
  a cell looks at the generation inside the cell's lock, so nobody with an old binding can count into
  a stranger, however long it slept.
- ``header.changing`` is 1 during a change. Whoever takes the table lock and finds it so came after a
  process that was killed in the middle, and rebuilds from the records all that can be derived
  (`shmstats.block.repairing`).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from ..core import Cells, NameIndex
from ..layout import CELL, NAME, PAGE
from ..series import Kind, Mode
from .errors import BlockFullError, capacity_is_used
from .keys import family_key
from .layout import HEADER, Layout
from .notes import next_half, room_for
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
    packed,
)
from .stripes import Stripes

_ROOM_STEP = 16

#: Two fields that change together: by what the index finds a record, and where its note is, and the room there.
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
    """Return the index of a block's names; with a read-only ``buf`` nothing can be added to it."""
    sections = layout.index, layout.index_slots, layout.names, layout.capacity, layout.heap, layout.heap_bytes
    return NameIndex(buf, (*sections, layout.columns), _HEADER, Record, KINDS, MODES)


class Find(Protocol):
    """Looks a name up."""

    def __call__(self, key: bytes, declaration: int = 0, /) -> Record | None:
        """Return the record of a name; None where there is none."""


class NameTable(Records):
    """The names of a block.

    Args:
        buf: the block.
        layout: of the block.
        cells: the cells of this process.
        stripes: of the block.

    Attributes:
        cells: as the argument.
        index: finds records by key.
        find: looks a name up without a lock, by key and, for what an outdated declaration left, the number of that;
            None is certain only under the table lock. Raises `BufferError` where the record is damaged.
    """

    def __init__(self, buf: memoryview, layout: Layout, cells: Cells, stripes: Stripes) -> None:
        super().__init__(buf, layout)
        self.cells = cells
        self._stripes = stripes
        self.index = make_index(buf, layout)
        self.find: Find = self.index.find
        self.discard: Callable[[list[int]], None] = self.index.discard

    def close(self) -> None:
        """Let go of the buffer."""
        self.index.close()
        super().close()

    def family_of(self, key: bytes) -> Record | None:
        """Look up the family of the metric that a name with that key belongs to."""
        return self.find(family_key(key))

    def add(self, key: bytes, wanted: Record) -> Record:
        """Add a name that `find` does not find. The table lock is held.

        Args:
            key: of the name.
            wanted: what it is; its number and cell are yet to be found.

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
        """Add many names that are not there, with their values, in one step. The table lock is held.

        They go behind all others, without looking for room that removed ones left, and nobody may look at the block
        yet.

        Args:
            keys: of the names, all different, one behind the other.
            records: what each is, as the bytes of a `NAME`: kind, mode, flags, width, family, declaration, length of
                the key, and when it was made. The rest is filled in.
            cells: of the names, one behind the other, as they are to be in the shared row.
            families: numbers of records + 1 (u32): that of a name is the one at its ``family``.

        Raises:
            BlockFullError: there is not room for all of them. Nothing was changed.
        """
        self.have_room(records, len(cells) // CELL.size)
        _, _, first, *_ = self.index.usage()
        self._stripes.store(first, cells)
        self.index.append(keys, records, families)

    def have_room(self, records: bytes, cells: int) -> None:
        """Have room for names that are to be added behind all others. The table lock is held.

        Args:
            records: of them, as for `add_all`.
            cells: of all of them.

        Raises:
            BlockFullError: there is not.
        """
        self._have_room(self.index.usage(), len(records) // NAME.size, cells, self.index.room_for(records))

    def set_created(self, number: int, moment: int) -> None:
        """Note when a name was made, in ns since 1970. The table lock is held; readers are to look anew afterwards."""
        self._store(number, "created", moment)

    def remove(self, records: list[Record]) -> None:
        """Remove names, from now on and for every worker. The table lock is held."""
        self.discard([record.number for record in records])

    def clear_monotonic(self, record: Record) -> None:
        """Note that a counter has been decremented. The table lock is held."""
        flags = self.record(record.number).flags
        if flags & MONOTONIC:
            self.set_flags(record, flags & ~MONOTONIC)

    def set_flags(self, record: Record, flags: int) -> None:
        """Change the flags of a name. The table lock is held."""
        self._store(record.number, "flags", flags)
        self.raise_revision()

    def set_family(self, record: Record, family: Record) -> None:
        """Make a name, which had none, one of a metric's family. The table lock is held."""
        with self.changing():
            self._store(record.number, "family", family.number + 1)
            self._count_in(record._replace(family=family.number), 1)

    def regroup(self, records: list[Record], family: Record) -> None:
        """Give series of a metric to another of its families, with its declaration. The table lock is held.

        Whoever has them bound looks them up again.
        """
        with self.changing():
            for record in records:
                self.index.leave(record.number, self.hash_of(record.number))
                self._count_in(record, -1)
                self._store(record.number, "family", family.number + 1)  # a repair derives the rest from it
                self.set_declaration(record.number, family.declaration)
                self._count_in(record._replace(family=family.number), 1)
                self.index.enter(record.number, self.hash_of(record.number))
            self.cells.raise_generation()

    def set_declaration(self, number: int, declaration: int) -> None:
        """Have a record be found under another declaration, but for the index. The table lock is held."""
        place = self._field(number, "hash")  # and the declaration behind it: one word, that a kill does not part
        both = self.index.hash(self.key(number)) ^ declaration, declaration
        self.buffer[place : place + _HASH_AND_DECLARATION.size] = _HASH_AND_DECLARATION.pack(*both)

    def redeclare(self, family: Record, kind: Kind, mode: Mode, flags: int) -> None:
        """Change what a family is; none of its series is left that is not so. The table lock is held."""
        with self.changing():
            for field, value in (("kind", kind), ("mode", mode), ("flags", flags)):
                self._store(family.number, field, value)

    def annotate(self, number: int, text: bytes) -> None:
        """Give a record a note. The table lock is held.

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
        # The place may have been that of another note, whose writer was killed before it was noted down here.
        self.buffer[start : start + room] = bytes(room)
        self.buffer[start : start + len(packed)] = packed
        with self._marked():
            self.heap_used = note + room
            place = self._field(number, "note")
            self.buffer[place : place + _NOTE_PLACE.size] = _NOTE_PLACE.pack(note, room)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Mark the names as being changed, and raise the revision then. If it is broken off, the mark stays."""
        with self._marked():
            yield
            self.raise_revision()

    @contextmanager
    def _marked(self) -> Iterator[None]:
        """Mark the names as being changed; a change within another one leaves the mark to that."""
        before = self.broken_off
        self.broken_off = 1
        yield
        self.broken_off = before

    def raise_revision(self) -> None:
        """Have readers look at the names anew. The table lock is held."""
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
        """Count a name that comes (1) or goes (-1) where its family, or all families, are counted."""
        if record.flags & FAMILY:
            self.families += n
        elif record.flags & MEMBER and record.family >= 0:
            family = self.record(record.family)
            self.set_members(family.number, self.members(family) + n & 0xFFFFFFFF)

    def _have_room(self, usage: tuple[int, ...], names: int, cells: int, heap: int) -> None:
        """Have records, cells, heap and slots of the index for so many names more.

        Raises:
            BlockFullError: there are not.
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
        """Reserve the pages that ``more`` bytes behind the ``used`` ones of a section begin."""
        first = -(-used // PAGE) * PAGE
        if used + more > first:
            self._stripes.reserve(section + first, -(-(used + more) // PAGE) * PAGE - first)

    def _grow_index(self, names: int) -> None:
        """Have at least twice as many slots in the index as there will be names."""
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
