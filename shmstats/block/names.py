"""The name table: which statistic has which cells.

A name's *key* is its category, metric, and label names and values, in UTF-8, joined by NUL bytes (which
none of them may contain), labels sorted by name. A keyed hash of it (BLAKE2b, with the block's own
salt, so that nobody can aim at one spot) leads through an open-addressing index to the record.

A metric with labels, and one with a declaration, has a *family*: a record without cells whose key is the
metric's with one NUL more. It counts the label sets, and its note says what is declared. What an outdated
declaration left has a family of its own: the hash of its names is combined with the number of that declaration, so
`find` leads there only by it (`shmstats.block.outdated`).

Names are looked up without a lock, and added, removed and changed under the table lock:

- A name is added behind all others: heap, record, then the count of names, then the index. Who looks
  it up meanwhile finds it or does not, and whoever does not looks again under the lock.
- A removed name's record stays, marked, and its cells with it, until a new name of the same width
  takes both over. The names generation is raised *before* the cells are emptied, and every addition to
  a cell looks at the generation inside the cell's lock, so nobody with an old binding can count into
  a stranger, however long it slept.
- ``header.changing`` is 1 during a change. Whoever takes the table lock and finds it so came after a
  process that was killed in the middle, and rebuilds from the records all that can be derived.

A *note* is a text kept with a record. Its place in the heap has two halves, written in turn: the text's
length, its number, a checksum, and the bytes. The valid half with the higher number holds the note, so a writer
that is killed in the middle leaves the note before, and who reads meanwhile finds the one or the other.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ..core import Cells
from ..hashing import blake2b
from ..layout import COUNTER_WIDTH, PAGE, field_offset, struct_of
from ..series import Declaration, Kind, Labels, Mode
from .errors import BlockError, BlockFullError
from .layout import DELETED, HEADER, NAME, Layout

UNUSED, LIVE, REMOVED = 0, 1, 2

#: Flags: a counter that was never decremented; a record that stands for a whole metric; such a one with a
#: declaration; a name that the processes of today have from those before them; a label set that its family counts;
#: a family whose metric has given way to another one.
MONOTONIC, FAMILY, DECLARED, INHERITED, MEMBER, WITHDRAWN = 1, 2, 4, 8, 16, 32

#: The value of every label of the set that takes up what is beyond the bound on label sets.
OVERFLOW = "__overflow__"

#: Such sets that a metric may have: one for each choice of label names, of which there should be one only.
MAX_OVERFLOW_SETS = 16

#: The upper bounds in ms of a histogram's buckets where none are declared: 1-2.5-5 in each decade.
DEFAULT_BOUNDS = (
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0),
    *(1000.0, 2500.0, 5000.0, 10000.0, 25000.0, 50000.0, 60000.0),
)

MAX_TEXT_BYTES = 255

_NAME = struct_of(NAME)
_STATE, _KIND, _MODE, _FLAGS, _WIDTH, _CELL, _FAMILY, _HASH, _DECLARATION = range(9)
_KEY, _ROOM, _LENGTH, _NOTE, _NOTE_ROOM = range(9, 14)
_ROOM_STEP = 16
_KINDS = {int(kind): kind for kind in Kind}
_MODES = {int(mode): mode for mode in Mode}

#: What stands before the text of a note: its length, its number among those of the record, and a checksum.
_NOTE_HEAD = struct.Struct("<IQ8s")


class Record(NamedTuple):
    """A live name, as it is counted into.

    Attributes:
        number: of the record.
        kind: of the statistic.
        flags: see above.
        cell: its first column.
        width: how many columns it has.
        mode: of a gauge.
        family: number of the record that stands for the metric; -1 where there is none.
        declaration: of what an outdated declaration left: the number of that; 0 for the current one.
    """

    number: int
    kind: Kind
    flags: int
    cell: int
    width: int
    mode: Mode = Mode.LAST
    family: int = -1
    declaration: int = 0

    @property
    def monotonic(self) -> bool:
        """Whether it is a counter that was never decremented."""
        return bool(self.flags & MONOTONIC)

    @property
    def declared(self) -> bool:
        """Whether it is the family of a metric that is declared."""
        return bool(self.flags & DECLARED)

    @property
    def shared(self) -> bool:
        """Whether all workers write to the one cell in row 0."""
        return self.kind is Kind.TIMESTAMP or (self.kind is Kind.GAUGE and self.mode is Mode.LAST)


def width_of(declared: Declaration) -> int:
    """Return how many cells a series has: its lock, and its values.

    A gauge has one for an int and one for a float, and where each worker has its own value, one that says
    whose it is and one for its time. A histogram has its sum, maximum and minimum, and a bucket more than bounds.
    """
    if declared.kind is Kind.COUNTER:
        return COUNTER_WIDTH
    if declared.kind is Kind.HISTOGRAM:
        return 1 + 3 + len(declared.bounds or DEFAULT_BOUNDS) + 1
    return 3 if declared.mode is Mode.LAST else 5


def check_text(what: str, text: object) -> str:
    """Check one part of a name.

    Args:
        what: the argument's name, for the error.
        text: 1 to 255 bytes of UTF-8 as a str, without NUL or lone surrogates.

    Returns:
        The text, as an exact str.

    Raises:
        TypeError: it is not a str.
        ValueError: it breaks one of the rules.
    """
    if type(text) is str and text.isascii() and 0 < len(text) <= MAX_TEXT_BYTES and "\0" not in text:
        return text
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {type(text).__name__} ({text!r:.80})")
    text = str.__str__(text)  # what a subclass makes of str() is not its characters
    if not text:
        raise ValueError(f"{what} must not be empty")
    if "\0" in text:
        raise ValueError(f"{what} must not contain a NUL character: {text!r:.80}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} must not contain a lone surrogate: {text!a:.80}") from None
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"{what} must be at most {MAX_TEXT_BYTES} bytes of UTF-8, not {size}: {text!r:.80}…")
    return text


def encode_key(category: str, metric: str, labels: Labels = ()) -> bytes:
    """Return the key of a name whose parts were checked."""
    if not labels:
        return f"{category}\0{metric}".encode()
    return "\0".join((category, metric, *(part for pair in labels for part in pair))).encode()


def decode_key(key: bytes) -> tuple[str, str, Labels]:
    """Return category, metric and labels of a key."""
    category, metric, *rest = key.decode().split("\0")
    return category, metric, tuple(zip(rest[::2], rest[1::2], strict=True))


def family_key(key: bytes) -> bytes:
    """Return the key of the family that a name with that key has, if it has one."""
    category, metric, *_ = key.split(b"\0", 2)
    return b"\0".join((category, metric, b""))


def is_labelled(key: bytes) -> bool:
    """Tell whether the name with that key has labels."""
    return key.count(b"\0") > 2


def overflow_key(key: bytes) -> bytes:
    """Return the key of the set that takes up a labelled name which is beyond the bound."""
    category, metric, labels = decode_key(key)
    return encode_key(category, metric, tuple((name, OVERFLOW) for name, _ in labels))


class _Field:
    """A number in the block's header."""

    def __init__(self, name: str) -> None:
        self._size = HEADER[name].itemsize
        self._at = field_offset(HEADER, name) // self._size

    def __get__(self, table: NameTable, owner: type[NameTable]) -> int:
        words = table._words if self._size == 4 else table._longs
        return words[self._at]

    def __set__(self, table: NameTable, value: int) -> None:
        words = table._words if self._size == 4 else table._longs
        words[self._at] = value


class NameTable:
    """The names of a block.

    Args:
        buf: the block; writable for everything but `find` and reading attributes.
        layout: of the block.

    Attributes:
        count: records in use or removed.
        removed: of these, the removed ones.
        families: of the live ones, those that stand for a whole metric.
        cells_used: columns in use.
        heap_used: bytes of the heap in use.
        revision: moves whenever a name changes; not when one is added behind the others.
    """

    count = _Field("names")
    removed = _Field("removed")
    families = _Field("families")
    cells_used = _Field("cells")
    heap_used = _Field("heap")
    revision = _Field("revision")
    _changing = _Field("changing")

    def __init__(self, buf: memoryview, layout: Layout) -> None:
        self._buf = buf
        self._layout = layout
        self._words, self._longs = buf[:PAGE].cast("I"), buf[:PAGE].cast("Q")
        self._index = buf[layout.index : layout.index + 4 * layout.index_slots].cast("I")
        self._most = layout.index_slots - 1
        salt = field_offset(HEADER, "salt")
        self._salt = bytes(buf[salt : salt + 16])
        self._names, self._heap = layout.names, layout.heap
        self._count_offset = field_offset(HEADER, "names")
        self._hashed = (b"", 0)

    @property
    def buffer(self) -> memoryview:
        """The block."""
        return self._buf

    def close(self) -> None:
        """Let go of the buffer."""
        for view in (self._index, self._words, self._longs):
            view.release()

    def find(self, key: bytes, declaration: int = 0) -> Record | None:
        """Look a name up, without a lock: None is certain only under the table lock.

        Args:
            key: of the name.
            declaration: the number of an outdated declaration, for what that left; 0 for the current one.
        """
        index, mask, count = self._index, self._mask, self._words[_COUNT]
        wanted = self._hash(key) ^ declaration
        slot = wanted & mask
        for _ in range(mask + 1):
            entry = index[slot]
            if entry == 0:
                return None
            if entry != DELETED and entry <= count:
                record = self._match(entry - 1, wanted, declaration, key)
                if record is not None:
                    return record
            slot = slot + 1 & mask
        return None

    @property
    def _mask(self) -> int:
        """The number of slots of the index in use, less one."""
        return self._words[_INDEX_SLOTS] - 1 & self._most

    def family_of(self, key: bytes) -> Record | None:
        """Look up the family of the metric that a name with that key belongs to."""
        return self.find(family_key(key)) if self.families else None

    def members(self, family: Record) -> int:
        """Return how many label sets a metric has, without the one that takes up what is beyond the bound."""
        start = self._field(family.number, "members")
        return int.from_bytes(self._buf[start : start + 4], "little")

    def record(self, number: int) -> Record:
        """Return a record by its number."""
        return _record(number, self._fields(number))

    def key(self, number: int) -> bytes:
        """Return the key of a record."""
        fields = self._fields(number)
        start = self._heap + fields[_KEY]
        return bytes(self._buf[start : start + fields[_LENGTH]])

    def note(self, number: int) -> bytes:
        """Return the note of a record, without a lock; empty where it has none that is whole."""
        return read_note(self.note_place(number))

    def note_place(self, number: int) -> bytes:
        """Return what is in the place of a record's note: `read_note` makes its text of that."""
        fields = self._fields(number)
        start, room = self._heap + fields[_NOTE], fields[_NOTE_ROOM]
        return bytes(self._buf[start : start + room])

    def records(self) -> Iterator[Record]:
        """Go through the live names, in the order of registration; families and what is outdated are none."""
        for number in range(self.count):
            fields = self._fields(number)
            if fields[_STATE] == LIVE and not fields[_FLAGS] & FAMILY and not fields[_DECLARATION]:
                yield _record(number, fields)

    def members_of(self, family: Record) -> list[Record]:
        """Return the series of a metric that has a family. The table lock is held."""
        return [self.record(number) for number in self._numbers_of(family.number)]

    def overflow_sets(self, family: Record) -> int:
        """Return how many label sets a metric has that take up what is beyond the bound. The table lock is held."""
        keys = [self.key(record.number) for record in self.members_of(family) if not record.flags & MEMBER]
        return sum(map(is_labelled, keys))

    def deserted(self, families: set[int]) -> list[Record]:
        """Return those of some families that have no series, and no declaration. The table lock is held."""
        found = [self.record(number) for number in sorted(families) if not self._numbers_of(number)]
        return [family for family in found if not family.declared]

    def _numbers_of(self, family: int) -> list[int]:
        records = np.frombuffer(self._buf, NAME, self.count, self._names)
        found: list[int] = np.flatnonzero((records["state"] == LIVE) & (records["family"] == family + 1)).tolist()
        return found

    def add(
        self,
        key: bytes,
        wanted: Record,
        cells: Cells,
        reserve: Callable[[int, int], None],
        place: Callable[[Record], None],
    ) -> Record:
        """Add a name that `find` does not find. The table lock is held.

        Args:
            key: of the name.
            wanted: what it is; its number and cell are yet to be found.
            cells: to publish with, and to empty cells that were another's.
            reserve: called with a range of bytes of the block, to have memory behind it.
            place: called with the record as it will be, to have memory behind some row's cells and, if they
                were another's, to empty every row's.

        Raises:
            BlockFullError: no record, cell, heap or shared memory is left. Nothing was changed.
        """
        words, longs = self._words, self._longs
        if words[_REMOVED]:
            number = self._removed_record(len(key), wanted.width)
            if number is not None:
                return self._take_over(number, key, wanted, place)
        number, cell, heap = words[_COUNT], words[_CELLS], longs[_HEAP]
        _, kind, flags, _, width, mode, family, declaration = wanted
        if number >= self._layout.capacity or cell + width > self._layout.columns:
            raise BlockFullError(f"the capacity of the block, {self._layout.capacity}, is in use")
        room = -(-len(key) // _ROOM_STEP) * _ROOM_STEP
        self._check_heap(room, reserve)
        offset = number * _NAME.size
        _reserve_growth(reserve, self._names, offset, _NAME.size)
        if 2 * number > self._mask:
            self._grow_index(number + 1, reserve)
        record = Record(number, kind, flags, cell, width, mode, family, declaration)
        if width:
            place(record)
        hashed = self._hash(key) ^ declaration
        start = self._heap + heap
        words[_CHANGING] = 1
        self._buf[start : start + len(key)] = key
        _NAME.pack_into(
            *(self._buf, self._names + offset, LIVE, kind, mode, flags, width, cell, family + 1),
            *(hashed, declaration, heap, room, len(key), 0, 0, 0, time.time_ns()),
        )
        longs[_HEAP] = heap + room
        words[_CELLS] = cell + width
        if flags & (FAMILY | MEMBER):
            self._count_in(wanted, 1)
        cells.publish(self._count_offset, number + 1)
        self._enter(number, hashed)
        words[_CHANGING] = 0
        return record

    def set_created(self, number: int, moment: int) -> None:
        """Note when a name was made, in ns since 1970. The table lock is held; readers are to look anew afterwards."""
        self._store(number, "created", moment)

    def add_all(
        self,
        keys: list[bytes],
        wanted: list[Record],
        created: list[int],
        cells: Cells,
        reserve: Callable[[int, int], None],
    ) -> tuple[int, list[int]]:
        """Add many names that are not there, behind all others, without looking for room that removed ones left.

        The table lock is held. Returns the number of the first record, and the first cell of each.

        Args:
            keys: of the names, all different.
            wanted: what each is; the numbers and cells are yet to be given.
            created: when each was made, in ns since 1970; 0 where that is not known.
            cells: to publish with.
            reserve: as for `add`; memory behind the cells is the caller's to reserve.

        Raises:
            BlockFullError: there is not room for all of them. Nothing was changed.
        """
        number, cell, heap = self.count, self.cells_used, self.heap_used
        widths = np.array([record.width for record in wanted], np.int64)
        lengths = np.array([len(key) for key in keys], np.int64)
        rooms = -(-lengths // _ROOM_STEP) * _ROOM_STEP
        total = int(widths.sum())
        if number + len(keys) > self._layout.capacity or cell + total > self._layout.columns:
            raise BlockFullError(f"the capacity of the block, {self._layout.capacity}, is in use")
        self._check_heap(int(rooms.sum()), reserve)
        _reserve_growth(reserve, self._names, number * _NAME.size, len(keys) * _NAME.size)
        self._grow_index(number + len(keys), reserve)
        hashes = [self._hash(key) for key in keys]
        records = np.zeros(len(keys), NAME)
        records["state"], records["width"], records["length"], records["room"] = LIVE, widths, lengths, rooms
        records["kind"] = [record.kind for record in wanted]
        records["mode"] = [record.mode for record in wanted]
        records["flags"] = [record.flags for record in wanted]
        records["family"] = [record.family + 1 for record in wanted]
        records["cell"] = firsts = cell + np.cumsum(widths) - widths
        records["hash"] = hashes
        records["created"] = created
        records["key"] = heap + np.cumsum(rooms) - rooms
        text = b"".join([key.ljust(room, b"\0") for key, room in zip(keys, rooms.tolist(), strict=True)])
        self._changing = 1
        self._buf[self._heap + heap : self._heap + heap + len(text)] = text
        start = self._names + number * _NAME.size
        self._buf[start : start + records.nbytes] = records.tobytes()
        self.heap_used, self.cells_used = heap + len(text), cell + total
        for record in wanted:
            if record.flags & (FAMILY | MEMBER):
                self._count_in(record, 1)
        cells.publish(self._count_offset, number + len(keys))
        self._make_index()
        self._changing = 0
        return number, firsts.tolist()

    def remove(self, records: list[Record], cells: Cells) -> None:
        """Remove names, from now on and for every worker. The table lock is held."""
        with self.changing():
            for record in records:
                self._leave(record.number, self._fields(record.number)[_HASH])
                self._set_state(record.number, REMOVED)
                self._count_in(record, -1)
            self.removed += len(records)
            cells.raise_generation()

    def clear_monotonic(self, record: Record) -> None:
        """Note that a counter has been decremented. The table lock is held."""
        flags = self._fields(record.number)[_FLAGS]
        if flags & MONOTONIC:
            self.set_flags(record, flags & ~MONOTONIC)

    def set_flags(self, record: Record, flags: int) -> None:
        """Change the flags of a name. The table lock is held."""
        self._buf[self._field(record.number, "flags")] = flags
        self.revision += 1

    def set_family(self, record: Record, family: Record) -> None:
        """Make a name, which had none, one of a metric's family. The table lock is held."""
        with self.changing():
            self._store(record.number, "family", family.number + 1)
            self._count_in(record._replace(family=family.number), 1)

    def regroup(self, records: list[Record], family: Record, cells: Cells) -> None:
        """Give series of a metric to another of its families, with its declaration. The table lock is held.

        Whoever has them bound looks them up again.
        """
        with self.changing():
            for record in records:
                self._leave(record.number, self._fields(record.number)[_HASH])
                self._count_in(record, -1)
                self._store(record.number, "family", family.number + 1)  # a repair derives the rest from it
                self._set_declaration(record.number, family.declaration)
                self._count_in(record._replace(family=family.number), 1)
                self._enter(record.number, self._fields(record.number)[_HASH])
            cells.raise_generation()

    def _set_declaration(self, number: int, declaration: int) -> None:
        self._store(number, "hash", self._hash(self.key(number)) ^ declaration)
        self._store(number, "declaration", declaration)  # last: by this a repair sees that all is done

    def redeclare(self, family: Record, kind: Kind, mode: Mode, flags: int) -> None:
        """Change what a family is; none of its series is left that is not so. The table lock is held."""
        with self.changing():
            for field, value in (("kind", kind), ("mode", mode), ("flags", flags)):
                self._store(family.number, field, value)

    def annotate(self, number: int, text: bytes, reserve: Callable[[int, int], None]) -> None:
        """Give a record a note. The table lock is held.

        Args:
            number: of the record.
            text: of the note.
            reserve: as for `add`.

        Raises:
            BlockFullError: the heap is full. Nothing was changed.
        """
        fields = self._fields(number)
        size = _NOTE_HEAD.size + len(text)
        note, room = fields[_NOTE], fields[_NOTE_ROOM]
        start = self._heap + note
        halves = _halves(bytes(self._buf[start : start + room]))
        turn = 1 + max(number for number, _ in halves)
        if size <= room // 2:
            start += room // 2 if halves[0] >= halves[1] else 0
            self._buf[start : start + size] = _NOTE_HEAD.pack(len(text), turn, _checksum(turn, text)) + text
            return
        room = 2 * max(64, 1 << (size - 1).bit_length())
        self._check_heap(room, reserve)
        note = self.heap_used
        start = self._heap + note
        # The place may have been that of another note, whose writer was killed before it was noted down here.
        self._buf[start : start + room] = bytes(room)
        self._buf[start : start + size] = _NOTE_HEAD.pack(len(text), turn, _checksum(turn, text)) + text
        self._changing = 1
        self.heap_used = note + room
        place = self._field(number, "note")
        self._buf[place : place + _NOTE_PLACE.size] = _NOTE_PLACE.pack(note, room)
        self._changing = 0

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Mark the names as being changed. If the change is broken off, the mark stays."""
        self._changing = 1
        yield
        self.revision += 1
        self._changing = 0

    def repair(self, cells: Cells) -> bool:
        """Put right what a process left that was killed while it changed the names.

        The table lock is held. Returns whether there was anything to do.
        """
        if not self._words[_CHANGING]:
            return False
        count = self.count
        records = np.frombuffer(self._buf, NAME, count, self._names)
        live = records["state"] == LIVE
        self._repair_declarations(records, live)
        self._make_index()
        self.removed = int(count - live.sum())
        self.cells_used = int((records["cell"] + records["width"]).max(initial=0))
        keys, notes = records["key"] + records["room"], records["note"] + records["note_room"]
        self.heap_used = int(max(keys.max(initial=0), notes.max(initial=0)))
        self.families = int((live & (records["flags"] & FAMILY != 0)).sum())
        members = np.zeros(count, "<u4")
        counted = records["family"][live & (records["flags"] & MEMBER != 0)]
        np.add.at(members, counted[counted > 0] - 1, 1)
        records["members"] = members
        self.revision += 1
        cells.raise_generation()
        self._changing = 0
        return True

    def _repair_declarations(self, records: np.ndarray[Any, Any], live: np.ndarray[Any, Any]) -> None:
        """Have series be found under the declaration of the family that they were given to."""
        members = np.flatnonzero(live & (records["family"] > 0))
        expected = records["declaration"][records["family"][members] - 1]
        differ = records["declaration"][members] != expected
        for number, declaration in zip(members[differ].tolist(), expected[differ].tolist(), strict=True):
            self._set_declaration(number, declaration)

    def mark_inherited(self) -> None:
        """Mark all names as those of processes that are gone. The table lock is held."""
        records = np.frombuffer(self._buf, NAME, self.count, self._names)
        records["flags"] |= INHERITED
        self.revision += 1

    def _take_over(self, number: int, key: bytes, wanted: Record, place: Callable[[Record], None]) -> Record:
        """Give a removed record, with its cells and its place in the heap, to a new name."""
        fields = self._fields(number)
        heap = fields[_KEY]
        record = wanted._replace(number=number, cell=fields[_CELL])
        if record.width:
            place(record)
        hashed = self._hash(key) ^ wanted.declaration
        with self.changing():
            self._buf[self._heap + heap : self._heap + heap + len(key)] = key
            note, note_room = self._heap + fields[_NOTE], fields[_NOTE_ROOM]
            self._buf[note : note + note_room] = bytes(note_room)
            # Field by field: `struct` empties a record first, and its place is what a repair goes by.
            new = {
                "kind": wanted.kind,
                "mode": wanted.mode,
                "flags": wanted.flags,
                "members": 0,
                "family": wanted.family + 1,
                "hash": hashed,
                "declaration": wanted.declaration,
                "length": len(key),
                "created": time.time_ns(),
            }
            for field, value in new.items():
                self._store(number, field, value)
            self._set_state(number, LIVE)
            self.removed -= 1
            self._count_in(wanted, 1)
            self._enter(number, hashed)
        return record

    def _removed_record(self, length: int, width: int) -> int | None:
        records = np.frombuffer(self._buf, NAME, self.count, self._names)
        fits = (records["state"] == REMOVED) & (records["width"] == width) & (records["room"] >= length)
        found = np.flatnonzero(fits)
        return int(found[0]) if len(found) else None

    def _count_in(self, record: Record, n: int) -> None:
        """Count a name that comes (1) or goes (-1) where its family, or all families, are counted."""
        if record.flags & FAMILY:
            self.families += n
        elif record.flags & MEMBER and record.family >= 0:
            start = self._field(record.family, "members")
            members = int.from_bytes(self._buf[start : start + 4], "little") + n
            self._buf[start : start + 4] = members.to_bytes(4, "little")

    def _check_heap(self, room: int, reserve: Callable[[int, int], None]) -> None:
        used = self._longs[_HEAP]
        if used + room > self._layout.heap_bytes:
            raise BlockFullError(f"all {self._layout.heap_bytes} bytes for names in the block are in use")
        _reserve_growth(reserve, self._heap, used, room)

    def _hash(self, key: bytes) -> int:
        """Return the hash of a key; that of the last one is kept, for what is not found is mostly added."""
        last, hashed = self._hashed
        if last is not key:
            hashed = int.from_bytes(blake2b(key, digest_size=4, salt=self._salt).digest(), "little")
            self._hashed = key, hashed
        return hashed

    def _match(self, number: int, wanted: int, declaration: int, key: bytes) -> Record | None:
        fields = self._fields(number)
        if fields[_STATE] != LIVE or fields[_HASH] != wanted or fields[_LENGTH] != len(key):
            return None
        if fields[_DECLARATION] != declaration:
            return None
        start = self._heap + fields[_KEY]
        return _record(number, fields) if self._buf[start : start + len(key)] == key else None

    def _grow_index(self, names: int, reserve: Callable[[int, int], None]) -> None:
        """Have at least twice as many slots in the index as there will be names."""
        slots = before = self._mask + 1
        while slots < 2 * names and slots <= self._most:
            slots *= 2
        if slots == before:
            return
        reserve(self._layout.index, 4 * slots)
        with self.changing():
            self._words[_INDEX_SLOTS] = slots
            self._make_index()

    def _make_index(self) -> None:
        """Make the index anew from the records.

        In the order of the slots that they hash to, each goes to the first that is free from there on: that is
        the larger of its own and the one behind its predecessor's.
        """
        records = np.frombuffer(self._buf, NAME, self.count, self._names)
        numbers = np.flatnonzero(records["state"] == LIVE)
        wanted = (records["hash"][numbers] & np.uint32(self._mask)).astype(np.int64)
        order = np.argsort(wanted, kind="stable")
        behind = np.arange(len(order))
        slots = np.maximum.accumulate(wanted[order] - behind) + behind
        inside = slots <= self._mask
        index = np.zeros(self._mask + 1, "<u4")
        index[slots[inside]] = numbers[order[inside]] + 1
        self._index[: len(index)] = memoryview(index.tobytes()).cast("I")
        for number in numbers[order[~inside]].tolist():  # beyond the end: from the beginning on
            self._enter(number, int(records["hash"][number]))

    def _enter(self, number: int, wanted: int) -> None:
        self._index[self._search(wanted, (0, DELETED))] = number + 1

    def _leave(self, number: int, wanted: int) -> None:
        index, mask = self._index, self._mask
        slot = self._search(wanted, (0, number + 1))
        if not index[slot]:
            return
        index[slot] = DELETED
        # At the end of a run nothing lies behind that a search would have to go on to.
        if index[(slot + 1) & mask] == 0:
            while index[slot] == DELETED:
                index[slot] = 0
                slot = (slot - 1) & mask

    def _search(self, wanted: int, entries: tuple[int, int]) -> int:
        """Return the first slot of the index, from where a hash leads, that has one of two entries.

        Raises:
            BlockError: there is none, and that cannot be: the next who takes the table lock makes it anew.
        """
        index, mask = self._index, self._mask
        slot = wanted & mask
        for _ in range(mask + 1):
            if index[slot] in entries:
                return slot
            slot = slot + 1 & mask
        self._changing = 1
        raise BlockError("the index of the names is damaged")

    def _fields(self, number: int) -> tuple[int, ...]:
        return _NAME.unpack_from(self._buf, self._names + number * NAME.itemsize)

    def _field(self, number: int, field: str) -> int:
        """Return where a field of a record is in the block."""
        return self._names + number * NAME.itemsize + _OFFSETS[field]

    def _store(self, number: int, field: str, value: int) -> None:
        start, size = self._field(number, field), NAME[field].itemsize
        self._buf[start : start + size] = value.to_bytes(size, "little")

    def _set_state(self, number: int, state: int) -> None:
        self._buf[self._names + number * NAME.itemsize] = state


#: Where a record's note is, and the room there: two fields that change together.
_NOTE_PLACE = struct.Struct("<QI")

#: Where numbers of the header are, counted in their own size.
_COUNT, _REMOVED, _CELLS, _CHANGING, _INDEX_SLOTS = (
    field_offset(HEADER, field) // 4 for field in ("names", "removed", "cells", "changing", "index_slots")
)
_HEAP = field_offset(HEADER, "heap") // 8

_OFFSETS = {field: field_offset(NAME, field) for field in NAME.names or ()}


def _record(number: int, fields: tuple[int, ...]) -> Record:
    return Record(
        number,
        _KINDS[fields[_KIND]],
        fields[_FLAGS],
        fields[_CELL],
        fields[_WIDTH],
        _MODES[fields[_MODE]],
        fields[_FAMILY] - 1,
        fields[_DECLARATION],
    )


def _checksum(turn: int, text: bytes) -> bytes:
    return blake2b(text, digest_size=8, salt=turn.to_bytes(8, "little")).digest()


def read_note(content: bytes) -> bytes:
    """Return the text of a note, given what is in its place; empty where there is none."""
    return max(_halves(content))[1]


def _halves(content: bytes) -> list[tuple[int, bytes]]:
    """Return number and text of the notes in the two halves of a place; 0 and nothing for one that is not whole."""
    half = len(content) // 2
    return [_half(content[:half]), _half(content[half:])]


def _half(content: bytes) -> tuple[int, bytes]:
    if len(content) < _NOTE_HEAD.size:
        return 0, b""
    length, turn, checksum = _NOTE_HEAD.unpack_from(content)
    text = content[_NOTE_HEAD.size : _NOTE_HEAD.size + length]
    return (turn, text) if len(text) == length and _checksum(turn, text) == checksum else (0, b"")


def _reserve_growth(reserve: Callable[[int, int], None], section: int, used: int, more: int) -> None:
    """Reserve the pages that ``more`` bytes behind the ``used`` ones of a section begin."""
    first = -(-used // PAGE) * PAGE
    if used + more > first:
        reserve(section + first, -(-(used + more) // PAGE) * PAGE - first)
