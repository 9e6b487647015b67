"""The pure Python twin of groups.h, exposition.h and fill.h: the text of an exposition from records and heap."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

#: As the record of a name is laid out: `shmstats.block.layout.NAME`.
_RECORD = struct.Struct("<BBBBIIIIIQIIQIIQ")
_PLACE = struct.Struct("<III")
_GROUP = struct.Struct("<III")

_LIVE, _MONOTONIC, _FAMILY = 1, 1, 2
_COUNTER, _TIMESTAMP = 1, 4
_INTEGER, _GAUGE, _SECONDS, _NOTHING = range(4)

#: Cells that each form looks at.
_CELLS = (2, 3, 2, 0)
_NO_GROUP = _MIXED = 2**32 - 1


class _Record(NamedTuple):
    """What is shown of a record."""

    state: int
    kind: int
    mode: int
    flags: int
    width: int
    cell: int
    family: int
    hash: int
    declaration: int
    key: int
    room: int
    length: int
    note: int
    note_room: int
    members: int
    created: int

    def parts(self, heap: bytes) -> list[bytes]:
        """Return category, metric, names and values of labels; nothing where they cannot be that."""
        key = heap[self.key : self.key + self.length]
        parts = key.split(b"\0")
        try:
            key.decode()
        except ValueError:
            return []
        return parts if len(key) == self.length and len(parts) % 2 == 0 and self.kind >= _COUNTER else []


def _records(records: bytes) -> Iterator[_Record]:
    if len(records) % _RECORD.size:
        raise ValueError("these are not whole records")
    return map(_Record._make, _RECORD.iter_unpack(records))


def group_series(records: bytes, heap: bytes, apart: bytes) -> tuple[bytes, bytes, list[tuple[str, ...]]]:
    """Put records that are shown alike into groups; see `shmstats.core._cells`."""
    group_of: list[int] = []
    groups: dict[tuple[object, ...], list[int]] = {}
    label_sets: dict[tuple[bytes, ...], int] = {}
    numbers: dict[tuple[object, ...], int] = {}
    for number, record in enumerate(_records(records)):
        if record.state != _LIVE or record.flags & _FAMILY or record.declaration:
            group_of.append(_NO_GROUP)
            continue
        parts = record.parts(heap)
        if not parts:
            raise ValueError(f"record {number} has a key or a kind that cannot be")
        category, metric, *labels = parts
        if category == apart:
            group_of.append(_NO_GROUP)
            continue
        alike = record.family, record.kind, record.mode, record.flags & _MONOTONIC, metric
        key = (*alike, category if metric == b"total" else None)
        group = groups.setdefault(key, [number, 0, 0])
        group_of.append(numbers.setdefault(key, len(numbers)))
        if labels:
            names = label_sets.setdefault(tuple(labels[::2]), len(label_sets) + 1)
            group[1] = names if group[1] in (0, names) else _MIXED
            group[2] |= b"" in labels[1::2]
    found = b"".join([_GROUP.pack(*group) for group in groups.values()])
    return struct.pack(f"<{len(group_of)}I", *group_of), found, [_decoded(names) for names in label_sets]


def _decoded(names: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple([name.decode() for name in names])


def plan_text(
    records: bytes,
    heap: bytes,
    group_of: bytes,
    rank_of: bytes,
    lines: tuple[tuple[bytes, bytes, bytes] | None, ...],
    heads: tuple[bytes, ...],
) -> tuple[bytes, bytes, bytes]:
    """Write the lines of groups with a place for each value; see `shmstats.core._cells`."""
    found = list(_records(records))
    groups, ranks = memoryview(group_of).cast("I"), memoryview(rank_of).cast("I")
    if len(groups) != len(found) or len(ranks) != len(lines):
        raise ValueError("the groups are not those of these records")
    families: list[list[int]] = [[] for _ in heads]
    for number, group in enumerate(groups):
        if group < len(ranks) and ranks[group] < len(heads):
            families[ranks[group]].append(number)
    text, places = bytearray(), bytearray()
    ends: list[int] = []
    for head, family in zip(heads, families, strict=True):
        before = len(text)
        text += head
        for number in family:
            for line, cell, form in _lines_of(found[number], heap, lines[groups[number]]):
                text += line
                places += _PLACE.pack(len(text) - before, cell, form)
                before = len(text)
        ends += (len(text), len(places))
    return bytes(text), bytes(places), struct.pack(f"<{len(ends)}Q", *ends)


def _lines_of(
    record: _Record, heap: bytes, lines: tuple[bytes, bytes, bytes] | None
) -> Iterator[tuple[bytes, int, int]]:
    """Give the lines of a record up to their values, with cell and form of these."""
    parts = record.parts(heap)
    if not parts or lines is None:
        raise ValueError("the groups are not those of these records")
    prefix, after, created = lines
    category, _, *labels = parts
    pairs = zip(labels[::2], labels[1::2], strict=True)
    rest = after + b"".join([b',%s="%s"' % (name, _escaped(value)) for name, value in pairs]) + b"} "
    form = {_COUNTER: _INTEGER, _TIMESTAMP: _SECONDS}.get(record.kind, _GAUGE)
    yield prefix + _escaped(category) + rest, record.cell, form
    if created and record.created:
        moment = b"%d.%09d" % divmod(record.created, 10**9)
        yield created + _escaped(category) + rest + moment, 0, _NOTHING


def _escaped(text: bytes) -> bytes:
    return text.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")


def fill_text(text: bytes, places: bytes, totals: bytes | bytearray) -> bytes:
    """Put values into their places; see `shmstats.core._cells`."""
    if len(places) % _PLACE.size:
        raise ValueError("text, places and totals do not fit together")
    found = list(_PLACE.iter_unpack(places))
    ends = list(accumulate(before for before, _, _ in found))
    cells = len(totals) // 8
    needed = (cell + _CELLS[form] if form < len(_CELLS) else cells + 1 for _, cell, form in found)
    if (ends[-1] if ends else 0) != len(text) or any(need > cells for need in needed):
        raise ValueError("text, places and totals do not fit together")
    view = memoryview(totals)
    integers, reals, words = view.cast("q"), view.cast("d"), view.cast("I")
    filled: list[bytes] = []
    for (before, cell, form), end in zip(found, ends, strict=True):
        if form == _NOTHING:
            value = ""
        elif form == _GAUGE and words[2 * cell + 1] & 1:
            value = repr(reals[cell + 2])
        elif form == _SECONDS:
            whole, fraction = divmod(abs(integers[cell + 1]), 1_000_000)
            value = f"{'-' if integers[cell + 1] < 0 else ''}{whole}.{fraction:06d}"
        else:
            value = str(integers[cell + 1])
        filled += (text[end - before : end], value.encode(), b"\n")
    return b"".join(filled)
