"""The name table: which statistic has which cells.

A name's *key* is its category, metric, and label names and values, in UTF-8, joined by NUL bytes (which
none of them may contain), labels sorted by name. A keyed hash of it (BLAKE2b, with the block's own
salt, so that nobody can aim at one spot) leads through an open-addressing index to the record.

Names are looked up without a lock, and added, removed and changed under the table lock:

- A name is added behind all others: heap, record, then the count of names, then the index. Who looks
  it up meanwhile finds it or does not, and whoever does not looks again under the lock.
- A removed name's record stays, marked, and its cells with it, until a new name of the same width
  takes both over. The names generation is raised *before* the cells are emptied, and every addition to
  a cell looks at the generation inside the cell's lock, so nobody with an old binding can count into
  a stranger, however long it slept.
- ``header.changing`` is 1 during a change. Whoever takes the table lock and finds it so came after a
  process that was killed in the middle, and rebuilds from the records all that can be derived.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from ..series import Kind
from .cells import Cells
from .layout import DELETED, HEADER, NAME, PAGE, Layout, field_offset, struct_of

UNUSED, LIVE, REMOVED = 0, 1, 2

#: Flag: a counter that was never decremented.
MONOTONIC = 1

#: The upper bounds in ms of a histogram's buckets where none are declared: 1-2.5-5 in each decade.
DEFAULT_BOUNDS = (
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0),
    *(1000.0, 2500.0, 5000.0, 10000.0, 25000.0, 50000.0, 60000.0),
)

#: Cells of one series of each kind. A gauge: one for an int, one for a float; a timestamp likewise. A
#: histogram: its sum, its maximum, and a bucket more than bounds.
WIDTHS = {
    Kind.COUNTER: 1,
    Kind.GAUGE: 2,
    Kind.TIMESTAMP: 2,
    Kind.HISTOGRAM: 2 + len(DEFAULT_BOUNDS) + 1,
}

MAX_TEXT_BYTES = 255

_NAME = struct_of(NAME)
_STATE, _KIND, _MODE, _FLAGS, _WIDTH, _CELL, _FAMILY, _HASH, _KEY, _ROOM, _LENGTH = range(11)
_ROOM_STEP = 16
_KINDS = {int(kind): kind for kind in Kind}


class BlockFullError(Exception):
    """There is no room for another name; the message says what ran out."""


class Record(NamedTuple):
    """A live name, as it is counted into.

    Attributes:
        number: of the record.
        kind: of the statistic.
        monotonic: whether it is a counter that was never decremented.
        cell: its first column.
        width: how many columns it has.
    """

    number: int
    kind: Kind
    monotonic: bool
    cell: int
    width: int


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


def encode_key(category: str, metric: str, labels: tuple[tuple[str, str], ...] = ()) -> bytes:
    """Return the key of a name whose parts were checked."""
    return "\0".join((category, metric, *(part for pair in labels for part in pair))).encode()


def decode_key(key: bytes) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Return category, metric and labels of a key."""
    category, metric, *rest = key.decode().split("\0")
    return category, metric, tuple(zip(rest[::2], rest[1::2], strict=True))


class _Field:
    """A number in the block's header."""

    def __init__(self, name: str) -> None:
        self._start = field_offset(HEADER, name)
        self._end = self._start + HEADER[name].itemsize

    def __get__(self, table: NameTable, owner: type[NameTable]) -> int:
        return int.from_bytes(table._buf[self._start : self._end], "little")

    def __set__(self, table: NameTable, value: int) -> None:
        table._buf[self._start : self._end] = value.to_bytes(self._end - self._start, "little")


class NameTable:
    """The names of a block.

    Args:
        buf: the block; writable for everything but `find` and reading attributes.
        layout: of the block.

    Attributes:
        count: records in use or removed.
        removed: of these, the removed ones.
        cells_used: columns in use.
        heap_used: bytes of the heap in use.
        revision: moves whenever any name changes.
    """

    count = _Field("names")
    removed = _Field("removed")
    cells_used = _Field("cells")
    heap_used = _Field("heap")
    revision = _Field("revision")
    _changing = _Field("changing")

    def __init__(self, buf: memoryview, layout: Layout) -> None:
        self._buf = buf
        self._layout = layout
        self._index = buf[layout.index : layout.index + 4 * layout.index_slots].cast("I")
        self._mask = layout.index_slots - 1
        salt = field_offset(HEADER, "salt")
        self._salt = bytes(buf[salt : salt + 16])
        self._names, self._heap = layout.names, layout.heap
        self._count_offset = field_offset(HEADER, "names")

    def close(self) -> None:
        """Let go of the buffer."""
        self._index.release()

    def find(self, key: bytes) -> Record | None:
        """Look a name up, without a lock: None is certain only under the table lock."""
        wanted = self._hash(key)
        count = self.count
        for slot in self._probe(wanted):
            entry = self._index[slot]
            if entry == 0:
                return None
            if entry != DELETED and entry <= count:
                record = self._match(entry - 1, wanted, key)
                if record is not None:
                    return record
        return None

    def key(self, number: int) -> bytes:
        """Return the key of a record."""
        fields = _NAME.unpack_from(self._buf, self._names + number * NAME.itemsize)
        start = self._heap + fields[_KEY]
        return bytes(self._buf[start : start + fields[_LENGTH]])

    def records(self) -> Iterator[Record]:
        """Go through the live names, in the order of their registration."""
        for number in range(self.count):
            fields = _NAME.unpack_from(self._buf, self._names + number * NAME.itemsize)
            if fields[_STATE] == LIVE:
                yield _record(number, fields)

    def add(
        self,
        key: bytes,
        kind: Kind,
        width: int,
        cells: Cells,
        reserve: Callable[[int, int], None],
        place: Callable[[int, int], None],
    ) -> Record:
        """Add a name that `find` does not find. The table lock is held.

        Args:
            key: of the name.
            kind: of the statistic.
            width: how many consecutive cells it needs.
            cells: to publish with, and to empty cells that were another's.
            reserve: called with a range of bytes of the block, to have memory behind it.
            place: called with the first cell and the width, to have memory behind some row's and,
                if they were another's, to empty every row's.

        Raises:
            BlockFullError: no record, cell, heap or shared memory is left. Nothing was changed.
        """
        number = self._removed_record(len(key), width) if self.removed else None
        if number is not None:
            return self._take_over(number, key, kind, cells, place)
        number, cell, heap = self.count, self.cells_used, self.heap_used
        room = -(-len(key) // _ROOM_STEP) * _ROOM_STEP
        if number >= self._layout.capacity or cell + width > self._layout.capacity:
            raise BlockFullError(f"all {self._layout.capacity} cells of the block are in use")
        if heap + room > self._layout.heap_bytes:
            raise BlockFullError(f"all {self._layout.heap_bytes} bytes for names in the block are in use")
        offset = self._names + number * NAME.itemsize
        _reserve_growth(reserve, self._names, number * NAME.itemsize, NAME.itemsize)
        _reserve_growth(reserve, self._heap, heap, room)
        place(cell, width)
        wanted = self._hash(key)
        flags = MONOTONIC if kind is Kind.COUNTER else 0
        with self.changing():
            start = self._heap + heap
            self._buf[start : start + len(key)] = key
            fields = (LIVE, kind, 0, flags, width, cell, 0, wanted, heap, room, len(key), 0, 0, 0, 0)
            _NAME.pack_into(self._buf, offset, *fields)
            self.heap_used = heap + room
            self.cells_used = cell + width
            cells.publish(self._count_offset, number + 1)
            self._enter(number, wanted)
        return Record(number, kind, flags == MONOTONIC, cell, width)

    def remove(self, records: list[Record], cells: Cells) -> None:
        """Remove names, from now on and for every worker. The table lock is held."""
        with self.changing():
            for record in records:
                key = self.key(record.number)
                self._leave(record.number, self._hash(key))
                self._set_state(record.number, REMOVED)
            self.removed += len(records)
            cells.raise_generation()

    def clear_monotonic(self, record: Record) -> None:
        """Note that a counter has been decremented. The table lock is held."""
        offset = self._names + record.number * NAME.itemsize + 3
        if self._buf[offset] & MONOTONIC:
            self._buf[offset] &= ~MONOTONIC
            self.revision += 1

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
        if not self._changing:
            return False
        count = self.count
        records = np.frombuffer(self._buf, NAME, count, self._names)
        live = records["state"] == LIVE
        self._index[:] = memoryview(bytes(4 * len(self._index))).cast("I")
        for number in np.flatnonzero(live).tolist():
            self._enter(number, int(records["hash"][number]))
        self.removed = int(count - live.sum())
        self.cells_used = int((records["cell"] + records["width"]).max(initial=0))
        self.heap_used = int((records["key"] + records["room"]).max(initial=0))
        self.revision += 1
        cells.raise_generation()
        self._changing = 0
        return True

    def _take_over(
        self, number: int, key: bytes, kind: Kind, cells: Cells, place: Callable[[int, int], None]
    ) -> Record:
        """Give a removed record, with its cells and its place in the heap, to a new name."""
        offset = self._names + number * NAME.itemsize
        fields = _NAME.unpack_from(self._buf, offset)
        width, cell, heap = fields[_WIDTH], fields[_CELL], fields[_KEY]
        place(cell, width)
        wanted = self._hash(key)
        flags = MONOTONIC if kind is Kind.COUNTER else 0
        with self.changing():
            self._buf[self._heap + heap : self._heap + heap + len(key)] = key
            # Field by field: `struct` empties a record first, and its place is what a repair goes by.
            new = {"kind": kind, "mode": 0, "flags": flags, "family": 0, "hash": wanted, "length": len(key)}
            for field, value in new.items():
                start, size = offset + field_offset(NAME, field), NAME[field].itemsize
                self._buf[start : start + size] = value.to_bytes(size, "little")
            self._set_state(number, LIVE)
            self.removed -= 1
            self._enter(number, wanted)
        return Record(number, kind, flags == MONOTONIC, cell, width)

    def _removed_record(self, length: int, width: int) -> int | None:
        records = np.frombuffer(self._buf, NAME, self.count, self._names)
        fits = (records["state"] == REMOVED) & (records["width"] == width) & (records["room"] >= length)
        found = np.flatnonzero(fits)
        return int(found[0]) if len(found) else None

    def _hash(self, key: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(key, digest_size=8, salt=self._salt).digest(), "little")

    def _probe(self, wanted: int) -> Iterator[int]:
        """Go through the index slots where a hash may be, each once."""
        mask = self._mask
        start = wanted & mask
        yield start
        for step in range(1, mask + 1):
            yield (start + step) & mask

    def _match(self, number: int, wanted: int, key: bytes) -> Record | None:
        fields = _NAME.unpack_from(self._buf, self._names + number * NAME.itemsize)
        if fields[_STATE] != LIVE or fields[_HASH] != wanted or fields[_LENGTH] != len(key):
            return None
        start = self._heap + fields[_KEY]
        return _record(number, fields) if self._buf[start : start + len(key)] == key else None

    def _enter(self, number: int, wanted: int) -> None:
        slot = next(slot for slot in self._probe(wanted) if self._index[slot] in (0, DELETED))
        self._index[slot] = number + 1

    def _leave(self, number: int, wanted: int) -> None:
        slot = next(slot for slot in self._probe(wanted) if self._index[slot] in (0, number + 1))
        if not self._index[slot]:
            return
        self._index[slot] = DELETED
        # At the end of a run nothing lies behind that a search would have to go on to.
        if self._index[(slot + 1) & self._mask] == 0:
            while self._index[slot] == DELETED:
                self._index[slot] = 0
                slot = (slot - 1) & self._mask

    def _set_state(self, number: int, state: int) -> None:
        self._buf[self._names + number * NAME.itemsize] = state


def _record(number: int, fields: tuple[int, ...]) -> Record:
    monotonic = bool(fields[_FLAGS] & MONOTONIC)
    return Record(number, _KINDS[fields[_KIND]], monotonic, fields[_CELL], fields[_WIDTH])


def _reserve_growth(reserve: Callable[[int, int], None], section: int, used: int, more: int) -> None:
    """Reserve the pages that ``more`` bytes behind the ``used`` ones of a section begin."""
    first = -(-used // PAGE) * PAGE
    if used + more > first:
        reserve(section + first, -(-(used + more) // PAGE) * PAGE - first)
