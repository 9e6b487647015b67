"""The pure Python twin of names.h: the index of a block's names, and the changes of names under the table lock."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from ..layout import DELETED, LIVE, NAME, REMOVED, UINT64_MAX, fits_kind

_NAME = NAME.struct
_WORD = struct.Struct("<Q")
_STATE, _KIND, _MODE, _FLAGS, _WIDTH, _CELL, _FAMILY, _HASH, _DECLARATION, _KEY, _ROOM, _LENGTH = range(12)
_NOTE, _CREATED = 12, 15
_MEMBERS_WORD = NAME.offset("members") // 4

#: The place of a key in the heap has a multiple of this number of bytes.
_ROOM_STEP = 16

RECORD_LAYOUT = NAME.fields | {"size": NAME.size}

#: Flags of a record, as in `shmstats.block.records`.
_OF_FAMILY, _OF_MEMBER = 2, 16


def hash_key(key: bytes, salt: bytes) -> int:
    """Return the hash of a name's key in the index: 32 bits of SipHash-1-3, with a salt of 16 bytes."""
    if len(salt) != 2 * _WORD.size:
        raise ValueError(f"a salt has {2 * _WORD.size} bytes, not {len(salt)}")
    first, second = int.from_bytes(salt[:8], "little"), int.from_bytes(salt[8:], "little")
    a, b = first ^ 0x736F6D6570736575, second ^ 0x646F72616E646F6D
    c, d = first ^ 0x6C7967656E657261, second ^ 0x7465646279746573
    ended = key + bytes(7 - len(key) % 8) + bytes((len(key) & 0xFF,))
    for (word,) in _WORD.iter_unpack(ended):
        a, b, c, d = _sip_round(a, b, c, d ^ word)
        a ^= word
    c ^= 0xFF
    for _ in range(3):
        a, b, c, d = _sip_round(a, b, c, d)
    return (a ^ b ^ c ^ d) & 0xFFFFFFFF


def _sip_round(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    a = a + b & UINT64_MAX
    b = (b << 13 & UINT64_MAX | b >> 51) ^ a
    c = c + d & UINT64_MAX
    d = (d << 16 & UINT64_MAX | d >> 48) ^ c
    a = (a << 32 & UINT64_MAX | a >> 32) + d & UINT64_MAX
    d = (d << 21 & UINT64_MAX | d >> 43) ^ a
    c = c + b & UINT64_MAX
    b = (b << 17 & UINT64_MAX | b >> 47) ^ c
    return a, b, c << 32 & UINT64_MAX | c >> 32, d


class NameIndex:
    """The index of a block's names: finds records by key, and adds, replaces and removes them.

    Finding needs no lock; everything else needs the table lock and reserved memory. A `BufferError`
    means that the block is damaged, or that there is no room.

    Args:
        block: the block. A read-only one cannot be changed.
        sections: offset of the index and its most slots; offset of the records and their most number; offset of
            the heap and its bytes; columns of a row.
        header: offsets of the fields of the header: records in use, removed ones, families, columns in use, slots of
            the index in use, whether the names are changing; in 8 bytes the heap in use and the revision; the salt; the
            generation, in 8 bytes.
        record: the class of returned records.
        kinds: the kind for each number; None for an invalid number.
        modes: likewise the mode.
    """

    def __init__(
        self,
        block: memoryview,
        sections: tuple[int, ...],
        header: tuple[int, ...],
        record: type[tuple[Any, ...]],
        kinds: tuple[Any, ...],
        modes: tuple[Any, ...],
    ) -> None:
        index, self._index_slots, self._names, self._capacity, self._heap, self._heap_bytes, self._columns = sections
        *words, heap_used, revision, salt, generation = header
        words = [at // 4 for at in words]
        self._names_used, self._removed, self._families, self._cells, self._slots, self._changing = words
        self._heap_used, self._revision, self._generation = heap_used // 8, revision // 8, generation // 8
        self._record, self._kinds, self._modes = record, kinds, modes
        self._block = block
        whole = len(block) // 8 * 8
        self._words, self._longs = block[:whole].cast("I"), block[:whole].cast("Q")
        self._index = block[index : index + 4 * self._index_slots].cast("I")
        self._salt = bytes(block[salt : salt + 16])
        self._hashed = (b"", 0)
        self._free: dict[tuple[int, int], list[int]] = {}
        self._free_revision = -1

    def close(self) -> None:
        """Release the block."""
        for view in (self._index, self._words, self._longs):
            view.release()

    def hash(self, key: bytes) -> int:
        """Return the hash of a key; the last one is cached, because a name that is not found is mostly added next."""
        last, hashed = self._hashed
        if last is not key:
            hashed = hash_key(key, self._salt)
            self._hashed = key, hashed
        return hashed

    def find(self, key: bytes, declaration: int = 0) -> Any:
        """Look a name up.

        Returns:
            Its record: number, kind, flags, first cell, width, mode, family (-1: none) and declaration; None if it
            was not found.
        """
        index, mask, count = self._index, self._mask, self._words[self._names_used]
        wanted = self.hash(key) ^ declaration
        slot = wanted & mask
        for _ in range(mask + 1):
            entry = index[slot]
            if entry == 0:
                return None
            if entry != DELETED and entry <= count:
                found = self._match(entry - 1, wanted, declaration, key)
                if found is not None:
                    return found
            slot = slot + 1 & mask
        return None

    def usage(self) -> tuple[int, ...]:
        """Return the number of records in use, of removed ones, of columns in use and of slots of the index, whether
        the names are changing, and the bytes of the heap in use.
        """
        places = self._names_used, self._removed, self._cells, self._slots, self._changing
        return (*(self._words[place] for place in places), self._longs[self._heap_used])

    def room_for(self, records: bytes) -> int:
        """Return the bytes of the heap that the keys of records take, which have their lengths."""
        return sum(-(-length // _ROOM_STEP) for length in NAME.column(records, "length")) * _ROOM_STEP

    def append(self, keys: bytes, records: bytes, families: bytes | None = None) -> int:
        """Add new names at the end, in one step; returns the number of the first.

        Args:
            keys: of the names, concatenated.
            records: a record for each, with the length of its key. State, cell, hash and place are filled in.
            families: if given, records refer to their family by its position in here (u32).
        """
        words, longs = self._words, self._longs
        first, cell, heap = words[self._names_used], words[self._cells], longs[self._heap_used]
        if len(records) % NAME.size:
            raise BufferError("the names do not fit into the block")
        templates = list(_NAME.iter_unpack(records))
        if families is not None:
            places = memoryview(families).cast("I")
            if any(template[_FAMILY] >= len(places) for template in templates):
                raise BufferError("the names do not fit into the block")
            templates = [(*each[:_FAMILY], places[each[_FAMILY]], *each[_FAMILY + 1 :]) for each in templates]
        lengths = [template[_LENGTH] for template in templates]
        rooms = [-(-length // _ROOM_STEP) * _ROOM_STEP for length in lengths]
        columns = sum(template[_WIDTH] for template in templates)
        if (
            sum(lengths) != len(keys)
            or first + len(templates) > self._capacity
            or cell + columns > self._columns
            or heap + sum(rooms) > self._heap_bytes
        ):
            raise BufferError("the names do not fit into the block")
        before = self._begin_change()
        hashes = []
        begin = 0
        for number, (length, room, template) in enumerate(zip(lengths, rooms, templates, strict=True), first):
            key = keys[begin : begin + length]
            begin += length
            self._block[self._heap + heap : self._heap + heap + length] = key
            hashes.append(self.hash(key) ^ template[_DECLARATION])
            _NAME.pack_into(
                *(self._block, self._names + number * NAME.size, LIVE, *template[_KIND:_CELL], cell),
                *(template[_FAMILY], hashes[-1], template[_DECLARATION], heap, room, length, 0, 0, 0),
                template[_CREATED],
            )
            heap += room
            cell += template[_WIDTH]
        longs[self._heap_used], words[self._cells] = heap, cell
        for template in templates:
            self._count(template[_FLAGS], template[_FAMILY], 1)
        words[self._names_used] = first + len(templates)
        for number, hashed in enumerate(hashes, first):
            self._enter(number, hashed)
        words[self._changing] = before
        return int(first)

    def free_for(self, length: int, width: int) -> int:
        """Return the number of a removed record that a new name can take over; -1 if there is none.

        Args:
            length: of the name's key.
            width: cells of the name.
        """
        # What is known about removed records is valid as long as no other process has changed any name.
        if self._free_revision != self._longs[self._revision]:
            self._free_revision = self._longs[self._revision]
            self._know_free()
        rooms = [room for (of, room), free in self._free.items() if free and of == width and room >= length]
        return self._free[width, min(rooms)][-1] if rooms else -1

    def replace(self, number: int, key: bytes, record: bytes) -> None:
        """Give the record of a removed name, with its cells and its place in the heap, to another name.

        Args:
            number: of the record.
            key: of the name; there is room for it.
            record: as for `append`, of the same width.
        """
        former, wanted = _NAME.unpack_from(self._block, self._names + number * NAME.size), _NAME.unpack(record)
        place, room, note, note_room = former[_KEY], former[_ROOM], *former[_NOTE : _NOTE + 2]
        if (
            former[_STATE] != REMOVED
            or former[_WIDTH] != wanted[_WIDTH]
            or len(key) > room
            or max(place + room, note + note_room) > self._heap_bytes
        ):
            raise BufferError(f"record {number} leads out of the block")
        before = self._begin_change()
        self._block[self._heap + place : self._heap + place + len(key)] = key
        self._block[self._heap + note : self._heap + note + note_room] = bytes(note_room)
        # Field by field: `struct` would clear the record first, but a repair needs its place.
        hashed = self.hash(key) ^ wanted[_DECLARATION]
        for field, value in (
            *(("kind", wanted[_KIND]), ("mode", wanted[_MODE]), ("flags", wanted[_FLAGS]), ("members", 0)),
            *(("family", wanted[_FAMILY]), ("hash", hashed), ("declaration", wanted[_DECLARATION])),
            *(("length", len(key)), ("created", wanted[_CREATED]), ("state", LIVE)),
        ):
            self._store(number, field, value)
        self._count(wanted[_FLAGS], wanted[_FAMILY], 1)
        self._words[self._removed] = self._words[self._removed] - 1 & 0xFFFFFFFF
        self._enter(number, hashed)
        free = self._free.get((wanted[_WIDTH], room), [])
        if free and free[-1] == number:
            free.pop()
        else:
            self._free_revision = -1  # the caller took a record of its own choice
        self._end_change(before)

    def discard(self, numbers: Sequence[int]) -> None:
        """Remove names by the numbers of their records; the records and their places stay.

        The new generation invalidates all bindings.
        """
        before = self._begin_change()
        for number in numbers:
            fields = _NAME.unpack_from(self._block, self._names + number * NAME.size)
            self.leave(number)
            self._store(number, "state", REMOVED)
            self._count(fields[_FLAGS], fields[_FAMILY], -1)
            self._free.setdefault((fields[_WIDTH], fields[_ROOM]), []).append(number)
        self._words[self._removed] = self._words[self._removed] + len(numbers) & 0xFFFFFFFF
        self._longs[self._generation] = self._longs[self._generation] + 1 & UINT64_MAX
        self._end_change(before)

    def _begin_change(self) -> int:
        """Begin a change of names; returns the previous mark, which a change within another one restores."""
        before = self._words[self._changing]
        self._words[self._changing] = 1
        return int(before)

    def _end_change(self, before: int) -> None:
        """End a change of existing names: what is known of removed ones stays valid, as this process changed them."""
        revision = self._longs[self._revision]
        self._free_revision += self._free_revision == revision
        self._longs[self._revision] = revision + 1 & UINT64_MAX
        self._words[self._changing] = before

    def _know_free(self) -> None:
        """Find the removed records by their width and the room of their keys, the lowest one last."""
        records = self._block[self._names :][: min(self._words[self._names_used], self._capacity) * NAME.size]
        states, widths, rooms = (NAME.column(records, field).tolist() for field in ("state", "width", "room"))
        self._free = {}
        for number in reversed([number for number, state in enumerate(states) if state == REMOVED]):
            self._free.setdefault((widths[number], rooms[number]), []).append(number)

    def _enter(self, number: int, hashed: int) -> None:
        """Add a record to the index."""
        self._index[self._search(hashed, (0, DELETED))] = number + 1

    def leave(self, number: int) -> None:
        """Remove a record from the index."""
        index, mask = self._index, self._mask
        fields = _NAME.unpack_from(self._block, self._names + number * NAME.size)
        slot = self._search(fields[_HASH], (0, number + 1))
        if not index[slot]:
            return
        index[slot] = DELETED
        # If the next slot is free, no search has to continue past this one.
        if index[(slot + 1) & mask] == 0:
            while index[slot] == DELETED:
                index[slot] = 0
                slot = (slot - 1) & mask

    def rebuild(self) -> None:
        """Rebuild the index from the records; BufferError if the number of slots is invalid."""
        if self._mask & self._mask + 1:  # a search would only visit a part of the slots
            raise BufferError("the index of the names is damaged")
        records = self._block[self._names :][: min(self._words[self._names_used], self._capacity) * NAME.size]
        states, hashes = NAME.column(records, "state").tolist(), NAME.column(records, "hash").tolist()
        self._index[: self._mask + 1] = memoryview(bytes(4 * (self._mask + 1))).cast("I")
        for number, (state, hashed) in enumerate(zip(states, hashes, strict=True)):
            if state == LIVE:
                self._enter(number, hashed)

    @property
    def _mask(self) -> int:
        """The number of slots of the index in use, minus one."""
        return self._words[self._slots] - 1 & self._index_slots - 1

    def _match(self, number: int, wanted: int, declaration: int, key: bytes) -> Any:
        fields = _NAME.unpack_from(self._block, self._names + number * NAME.size)
        if fields[_STATE] != LIVE or fields[_HASH] != wanted or fields[_LENGTH] != len(key):
            return None
        if fields[_DECLARATION] != declaration:
            return None
        place, cell, width = fields[_KEY], fields[_CELL], fields[_WIDTH]
        if place + len(key) > self._heap_bytes or cell + width > self._columns:
            raise BufferError(f"record {number} leads out of the block")
        start = self._heap + place
        if self._block[start : start + len(key)] != key:
            return None
        if not fits_kind(fields[_KIND], fields[_MODE], width, fields[_FLAGS] & _OF_FAMILY):
            told = f"kind {fields[_KIND]}, mode {fields[_MODE]} and {width} cells"
            raise BufferError(f"record {number} has {told}, which cannot be")
        kind = self._item(self._kinds, fields[_KIND], "kind", number)
        mode = self._item(self._modes, fields[_MODE], "mode", number)
        values = number, kind, fields[_FLAGS], cell, width, mode, fields[_FAMILY] - 1, declaration
        return tuple.__new__(self._record, values)

    @staticmethod
    def _item(items: tuple[Any, ...], number: int, what: str, of: int) -> Any:
        if number >= len(items) or items[number] is None:
            raise BufferError(f"record {of} has {what} {number}, which cannot be")
        return items[number]

    def _count(self, flags: int, family: int, n: int) -> None:
        """Count a name that is added (1) or removed (-1), in its family, or in the number of families."""
        if flags & _OF_FAMILY:
            self._words[self._families] = self._words[self._families] + n & 0xFFFFFFFF
        elif flags & _OF_MEMBER and 0 < family <= self._capacity:
            place = (self._names + (family - 1) * NAME.size) // 4 + _MEMBERS_WORD
            self._words[place] = self._words[place] + n & 0xFFFFFFFF

    def _store(self, number: int, field: str, value: int) -> None:
        start, size = self._names + number * NAME.size + NAME.offset(field), NAME.fields[field][1]
        self._block[start : start + size] = value.to_bytes(size, "little")

    def _search(self, hashed: int, entries: tuple[int, int]) -> int:
        """Return the first slot of the index, starting from a hash, that has one of two entries.

        Raises:
            BufferError: there is none, so the index is damaged: the next holder of the table lock rebuilds it.
        """
        index, mask = self._index, self._mask
        slot = hashed & mask
        for _ in range(mask + 1):
            if index[slot] in entries:
                return slot
            slot = slot + 1 & mask
        self._words[self._changing] = 1
        raise BufferError("the index of the names is damaged")
