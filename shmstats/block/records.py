"""The records of a block's names, each read and written separately, and the fields of the header about them.

Readers need no lock. No place in a record is trusted: one that is outside of the block is damage.

A note is a text that belongs to a record. Its place in the heap has two halves, written in turn. The valid half with
the higher number is the note, so a killed writer leaves the previous note, and a reader finds either one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import compress

from ..bounds import DEFAULT_BOUNDS
from ..frozen import NamedTuple
from ..hashing import blake2b
from ..layout import COUNTER_WIDTH, LIVE, NAME, PAGE
from ..series import Declaration, Kind, Mode
from .errors import DamagedBlockError
from .header import HeaderField
from .keys import is_labelled
from .layout import HEADER, Layout

#: Flags: a counter that was never decremented; a record for a whole metric (family); a family with a
#: declaration; a name that live processes have from earlier ones; a label set that its family counts;
#: a family whose metric was withdrawn in favour of another one; a series prepared for the next declaration; a histogram
#: with observations from other buckets, which may be in wrong ones.
MONOTONIC, FAMILY, DECLARED, INHERITED, MEMBER, WITHDRAWN, READY, CARRIED = 1, 2, 4, 8, 16, 32, 64, 128

_NAME = NAME.struct
_STATE, _KIND, _MODE, _FLAGS, _WIDTH, _CELL, _FAMILY, _, _DECLARATION = range(9)
_KEY, _ROOM, _LENGTH, _NOTE, _NOTE_ROOM = range(9, 14)
_SALT = HEADER.offset("salt")

#: Before the text of a note: its length, its number among the record's notes, and a checksum.
_HEAD = struct.Struct("<IQ8s")

_LEAST_HALF = 64

#: Kinds and modes by their numbers; None for an invalid number.
KINDS = tuple(map({int(kind): kind for kind in Kind}.get, range(max(Kind) + 1)))
MODES = tuple(map({int(mode): mode for mode in Mode}.get, range(max(Mode) + 1)))


class Record(NamedTuple):
    """A live name.

    Attributes:
        number: of the record.
        kind: of the statistic.
        flags: see above.
        cell: its first column.
        width: number of its columns.
        mode: of a gauge.
        family: number of the record for the metric; -1 if there is none.
        declaration: number of the outdated declaration that it belongs to; 0 for the current one.
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
        """Whether it is the family of a declared metric."""
        return bool(self.flags & DECLARED)

    @property
    def shared(self) -> bool:
        """Whether all workers write to the one cell in row 0."""
        return self.kind is Kind.TIMESTAMP or (self.kind is Kind.GAUGE and self.mode is Mode.LAST)


def width_of(declared: Declaration) -> int:
    """Return the number of cells of a series: its lock, and its values.

    A gauge has one for an int and one for a float, and if each worker has its own value, one for its
    owner and one for its time. A histogram has its sum, maximum and minimum, and one bucket more than bounds.
    """
    if declared.kind is Kind.COUNTER:
        return COUNTER_WIDTH
    if declared.kind is Kind.HISTOGRAM:
        return 1 + 3 + len(declared.bounds or DEFAULT_BOUNDS) + 1
    return 3 if declared.mode is Mode.LAST else 5


def packed(wanted: Record, created: int, length: int = 0) -> bytes:
    """Return a record to be added as the bytes of a `NAME`, still without its places.

    Args:
        wanted: the record.
        created: when it was made, in ns since 1970; 0 if unknown.
        length: of its key.
    """
    _, kind, flags, _, width, mode, family, declaration = wanted
    return _NAME.pack(0, kind, mode, flags, width, 0, family + 1, 0, declaration, 0, 0, length, 0, 0, 0, created)


#: The declaration of a name without a family, by its kind.
PLAIN = {
    kind: Record(-1, kind, MONOTONIC if kind is Kind.COUNTER else 0, 0, width_of(Declaration(kind))) for kind in Kind
}


class Records:
    """The records of a block.

    Args:
        buf: the block; writable in order to store.
        layout: of the block.

    Attributes:
        buffer: the block.
        count: records in use or removed.
        removed: number of removed ones among these.
        families: number of live records for a whole metric.
        cells_used: columns in use.
        heap_used: bytes of the heap in use.
        revision: changes whenever a name changes, but not when one is added at the end.
        broken_off: 1 while the names are being changed, and afterwards if that was interrupted.
    """

    count = HeaderField("names")
    removed = HeaderField()
    families = HeaderField()
    cells_used = HeaderField("cells")
    heap_used = HeaderField("heap")
    revision = HeaderField()
    broken_off = HeaderField("changing")
    index_slots = HeaderField()

    def __init__(self, buf: memoryview, layout: Layout) -> None:
        self.buffer = buf
        self._layout = layout
        self.words, self.longs = buf[:PAGE].cast("I"), buf[:PAGE].cast("Q")
        self.salt = bytes(buf[_SALT : _SALT + 16])

    def close(self) -> None:
        """Release the buffer."""
        for view in (self.words, self.longs):
            view.release()

    @property
    def is_full(self) -> bool:
        """Whether not even the smallest series can be added at the end."""
        return self.count >= self._layout.capacity or self.cells_used + COUNTER_WIDTH > self._layout.columns

    def set_used(self, cells: int, heap: int) -> None:
        """Store how many columns, and bytes of the heap, are in use. The table lock is held.

        Raises:
            DamagedBlockError: there are fewer.
        """
        if cells > self._layout.columns or heap > self._layout.heap_bytes:
            raise DamagedBlockError(
                f"records use {cells} columns and {heap} bytes for names; the block has {self._layout.columns} and"
                f" {self._layout.heap_bytes}"
            )
        self.cells_used, self.heap_used = cells, heap

    def record(self, number: int) -> Record:
        """Return a record by its number.

        Raises:
            DamagedBlockError: it is invalid.
        """
        return self._record(number, self._fields(number))

    def key(self, number: int) -> bytes:
        """Return the key of a record.

        Raises:
            DamagedBlockError: it is not in the block.
        """
        fields = self._fields(number)
        return self._text(number, fields[_KEY], fields[_LENGTH])

    def created(self, number: int) -> int:
        """Return when a name was made, in ns since 1970; 0 if unknown."""
        return self._fields(number)[-1]

    def note(self, number: int) -> bytes:
        """Return the note of a record, without a lock; empty if it has none, or no complete one."""
        return read_note(self.note_place(number))

    def note_place(self, number: int) -> bytes:
        """Return the bytes in the place of a record's note, from which `read_note` reads its text.

        Raises:
            DamagedBlockError: the place is not in the block.
        """
        fields = self._fields(number)
        return self._text(number, fields[_NOTE], fields[_NOTE_ROOM])

    def records(self) -> Iterator[Record]:
        """Give the live names, in the order of registration, without families and outdated series."""
        for number in range(self.count):
            fields = self._fields(number)
            if fields[_STATE] == LIVE and not fields[_FLAGS] & FAMILY and not fields[_DECLARATION]:
                yield self._record(number, fields)

    def sections(self) -> tuple[bytes, memoryview]:
        """Return a copy of the records in use or removed, and a view of the heap."""
        layout = self._layout
        records = bytes(self.buffer[layout.names : layout.names + self.count * NAME.size])
        return records, self.buffer[layout.heap : layout.heap + layout.heap_bytes]

    def column(self, field: str) -> memoryview:
        """Return one numeric field of all records in use or removed, as a view of the block, which stays mapped."""
        start = self._layout.names
        return NAME.column(self.buffer[start : start + self.count * NAME.size], field)

    def members(self, family: Record) -> int:
        """Return the number of label sets of a metric, without overflow sets."""
        start = self._field(family.number, "members")
        return int.from_bytes(self.buffer[start : start + 4], "little")

    def set_members(self, number: int, members: int) -> None:
        """Store the number of label sets of a metric. The table lock is held."""
        self._store(number, "members", members)

    def members_of(self, family: Record) -> list[Record]:
        """Return the series of a metric with a family. The table lock is held."""
        return [self.record(number) for number in self.numbers_of(family.number)]

    def overflow_sets(self, family: Record) -> int:
        """Return the number of overflow sets of a metric. The table lock is held."""
        keys = [self.key(record.number) for record in self.members_of(family) if not record.flags & MEMBER]
        return sum(map(is_labelled, keys))

    def deserted(self, families: set[int]) -> list[Record]:
        """Return those of some families without series and without declaration. The table lock is held."""
        found = [family for number in sorted(families) if not (family := self.record(number)).declared]
        if all(map(self.members, found)):
            return []
        of_records, states = self.column("family").tolist(), self.column("state").tobytes()
        alive = {family for family, state in zip(of_records, states, strict=True) if state == LIVE}
        return [family for family in found if not self.members(family) and family.number + 1 not in alive]

    def numbers_of(self, family: int) -> list[int]:
        """Return the numbers of the series of a metric with a family. The table lock is held."""
        families, states = self.column("family").tolist(), self.column("state")
        members = compress(range(len(families)), map((family + 1).__eq__, families))
        return [number for number in members if states[number] == LIVE]

    def _fields(self, number: int) -> tuple[int, ...]:
        if not 0 <= number < self._layout.capacity:
            raise DamagedBlockError(f"there is no record {number}: the block has {self._layout.capacity}")
        return _NAME.unpack_from(self.buffer, self._layout.names + number * NAME.size)

    def _record(self, number: int, fields: tuple[int, ...]) -> Record:
        cell, width = fields[_CELL], fields[_WIDTH]
        kind = KINDS[fields[_KIND]] if fields[_KIND] < len(KINDS) else None
        mode = MODES[fields[_MODE]] if fields[_MODE] < len(MODES) else None
        if kind is None or mode is None or cell + width > self._layout.columns:
            raise DamagedBlockError(
                f"record {number} has kind {fields[_KIND]}, mode {fields[_MODE]}, and {width} cells from {cell} on,"
                " which cannot be"
            )
        return Record(
            *(number, kind, fields[_FLAGS], cell, width, mode, fields[_FAMILY] - 1, fields[_DECLARATION]),
        )

    def _text(self, number: int, start: int, length: int) -> bytes:
        if start + length > self._layout.heap_bytes:
            raise DamagedBlockError(f"record {number} has a text of {length} bytes at {start}, which cannot be")
        start += self._layout.heap
        return bytes(self.buffer[start : start + length])

    def _field(self, number: int, field: str) -> int:
        """Return the offset of a record's field in the block."""
        return self._layout.names + number * NAME.size + NAME.offset(field)

    def _store(self, number: int, field: str, value: int) -> None:
        start, size = self._field(number, field), NAME.fields[field][1]
        self.buffer[start : start + size] = value.to_bytes(size, "little")


def key_in(records: bytes, heap: bytes | memoryview, number: int) -> bytes:
    """Return the key of a record, from copies of a block's records and heap."""
    fields = _NAME.unpack_from(records, number * NAME.size)
    return bytes(heap[fields[_KEY] : fields[_KEY] + fields[_LENGTH]])


def note_in(records: bytes | memoryview, heap: bytes | memoryview, number: int) -> bytes:
    """Return the note of a record, from copies of a block's records and heap; empty if there is none."""
    fields = _NAME.unpack_from(records, number * NAME.size)
    return read_note(bytes(heap[fields[_NOTE] : fields[_NOTE] + fields[_NOTE_ROOM]]))


def read_note(content: bytes) -> bytes:
    """Return the text of a note, from the content of its place; empty if there is none."""
    return max(_halves(content))[1]


def next_half(content: bytes, text: bytes) -> tuple[int, bytes]:
    """Return the offset in a note's place for the next note, and its bytes.

    Args:
        content: of the place.
        text: of the next note.

    Returns:
        The offset, -1 if a half has no room for the text; and head and text.
    """
    halves = _halves(content)
    turn = 1 + max(number for number, _ in halves)
    half = len(content) // 2
    place = half if halves[0] >= halves[1] else 0
    return place if _HEAD.size + len(text) <= half else -1, _HEAD.pack(len(text), turn, _checksum(turn, text)) + text


def room_for(note: bytes) -> int:
    """Return the size of the place for a note that was packed by `next_half`."""
    return 2 * max(_LEAST_HALF, 1 << (len(note) - 1).bit_length())


def _halves(content: bytes) -> list[tuple[int, bytes]]:
    """Return number and text of the notes in the two halves of a place; 0 and empty for one that is not whole."""
    half = len(content) // 2
    return [_half(content[:half]), _half(content[half:])]


def _half(content: bytes) -> tuple[int, bytes]:
    if len(content) < _HEAD.size:
        return 0, b""
    length, turn, checksum = _HEAD.unpack_from(content)
    text = content[_HEAD.size : _HEAD.size + length]
    return (turn, text) if len(text) == length and _checksum(turn, text) == checksum else (0, b"")


def _checksum(turn: int, text: bytes) -> bytes:
    return blake2b(text, digest_size=8, salt=turn.to_bytes(8, "little")).digest()
