"""The pure Python twin of groups.h, exposition.h and fill.h: the text of an exposition from records and heap."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import accumulate

from ..frozen import NamedTuple
from ..layout import INT64_MAX, NAME, minimum_of

#: Text before the category of each line, text after it, and text before the category of the line with the creation time
#: (empty: no such line). For a histogram these are for its buckets; then follow the text before the category in the
#: lines of sum and count, the divisor of the sum, and for each bucket line its number and the text after the labels.
Lines = tuple[bytes, bytes, bytes] | tuple[bytes, bytes, bytes, bytes, bytes, int, tuple[tuple[int, bytes], ...]]

#: A part of a text.
Text = bytes | memoryview

_RECORD = NAME.struct
_PLACE = struct.Struct("<IIII")
_GROUP = struct.Struct("<III")

_LIVE, _MONOTONIC, _FAMILY = 1, 1, 2
_COUNTER, _KIND_OF_GAUGES, _HISTOGRAM, _TIMESTAMP = 1, 2, 3, 4
_NOT_IN_JSON = re.compile(rb'[\0-\x1f"\\]')
_INTEGER, _GAUGE, _SECONDS, _NOTHING, _SUM, _BUCKET, _MAXIMUM, _MINIMUM, _IN_USE = range(9)

#: Cells that each form reads; of a bucket those before the first bucket, and itself.
_CELLS = (2, 3, 2, 0, 2, 5, 3, 4, 4)

_FIRST_BUCKET = 4

_NO_GROUP = _MIXED = 2**32 - 1


class _Record(NamedTuple):
    """The shown fields of a record."""

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
        """Return category, metric, names and values of labels; empty if the key is invalid."""
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
    """Put the shown series into groups: each has one metric, kind, mode and declaration.

    A metric called *total*, which is shown as its category, has a group for each category.

    Args:
        records: copies of a block's, `shmstats.block.layout.NAME`.
        heap: a copy of the block's.
        apart: a category whose series are in no group.

    Returns:
        The number of each record's group (u32; 2**32 - 1: it is not shown), three u32 for each group in the order of
        their first records, and the lists of label names. The three are the first record, the number + 1 of the
        label names (0: no series has labels; 2**32 - 1: they have different ones), and whether some label is empty.

    Raises:
        ValueError: a record has an invalid key or kind.
    """
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
            raise BufferError(f"record {number} has a key or a kind that cannot be")
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
    lines: tuple[Lines | None, ...],
    heads: tuple[bytes, ...],
) -> tuple[bytes, bytes, bytes]:
    """Write the lines of groups, with a place for each value.

    Args:
        records: as for `group_series`.
        heap: as for `group_series`.
        group_of: as `group_series` returns it.
        rank_of: the position on the page of each group's family (u32); beyond the last family: the group is left out.
        lines: the shared parts of the lines of each group.
        heads: the text before each family.

    Returns:
        The text, its places, and for each family the ends of its text and of its places (u64 each).

    Raises:
        ValueError: the groups are not those of the records.
    """
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
            for line, cell, form, argument in _lines_of(found[number], heap, lines[groups[number]]):
                text += line
                places += _PLACE.pack(len(text) - before, cell, form, argument)
                before = len(text)
        ends += (len(text), len(places))
    return bytes(text), bytes(places), struct.pack(f"<{len(ends)}Q", *ends)


def _lines_of(record: _Record, heap: bytes, lines: Lines | None) -> Iterator[tuple[bytes, int, int, int]]:
    """Give the lines of a record up to their values, with cell, form and argument of each value."""
    parts = record.parts(heap)
    if not parts or lines is None or (len(lines) > 3 and record.width <= _FIRST_BUCKET):
        raise ValueError("the groups are not those of these records")
    prefix, after, created = lines[:3]
    category, _, *labels = parts
    pairs = zip(labels[::2], labels[1::2], strict=True)
    rest = _escaped(category) + after + b"".join([b',%s="%s"' % (name, _escaped(value)) for name, value in pairs])
    if len(lines) > 3:
        _, _, _, total, count, divisor, limits = lines
        for bucket, limit in limits:
            yield prefix + rest + limit + b"} ", record.cell, _BUCKET, bucket
        yield total + rest + b"} ", record.cell, _SUM, divisor
        yield count + rest + b"} ", record.cell, _BUCKET, record.width - _FIRST_BUCKET - 1
    else:
        form = {_COUNTER: _INTEGER, _TIMESTAMP: _SECONDS}.get(record.kind, _GAUGE)
        yield prefix + rest + b"} ", record.cell, form, 0
    if created and record.created:
        moment = b"%d.%09d" % divmod(record.created, 10**9)
        yield created + rest + b"} " + moment, 0, _NOTHING, 0


def _escaped(text: bytes) -> bytes:
    return text.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")


def fill_text(pieces: tuple[tuple[Text, Text], ...], totals: bytes | bytearray) -> bytes:
    """Join pieces of text, with the values of one moment in their places, mostly without the GIL.

    Args:
        pieces: text and places from `plan_text`, or those of some consecutive families; a text without places
            stays unchanged.
        totals: see `sum_columns` and `merge_histograms`.

    Raises:
        ValueError: they do not fit together.
    """
    return b"".join([each for text, places in pieces for each in _filled(text, places, totals)])


def _filled(text: Text, places: Text, totals: bytes | bytearray) -> list[Text]:
    if len(places) % _PLACE.size:
        raise ValueError("text, places and totals do not fit together")
    found = list(_PLACE.iter_unpack(places))
    ends = list(accumulate((place[0] for place in found), initial=0))
    cells = len(totals) // 8
    fits = all(form < len(_CELLS) and cell + _needed(form, argument) <= cells for _, cell, form, argument in found)
    if ends[-1] > len(text) or not fits:
        raise ValueError("text, places and totals do not fit together")
    view = memoryview(totals)[: 8 * cells]
    integers, reals, words = view.cast("q"), view.cast("d"), view.cast("I")
    filled: list[Text] = []
    for (_, cell, form, argument), start, end in zip(found, ends, ends[1:], strict=False):
        if form == _NOTHING:
            value = ""
        elif form == _BUCKET:
            value = str(sum(integers[cell + _FIRST_BUCKET : cell + _FIRST_BUCKET + argument + 1]))
        elif form == _SUM:
            value = repr(reals[cell + 1] / argument)
        elif form == _MAXIMUM:
            value = repr(reals[cell + 2])
        elif form == _MINIMUM:
            value = repr(minimum_of(integers[cell + 3]) if integers[cell + 3] else 0.0)
        elif form == _IN_USE:
            value = _in_use(integers[cell + _FIRST_BUCKET : cell + _FIRST_BUCKET + argument].tolist())
        elif form == _GAUGE and words[2 * cell + 1] & 1:
            value = repr(reals[cell + 2])
        elif form == _SECONDS:
            whole, fraction = divmod(abs(integers[cell + 1]), 1_000_000)
            value = f"{'-' if integers[cell + 1] < 0 else ''}{whole}.{fraction:06d}"
        else:
            value = str(integers[cell + 1])
        filled += (text[start:end], value.encode(), b"\n")
    return [*filled, text[ends[-1] :]]


def _in_use(buckets: list[int]) -> str:
    """Return the number of the first bucket that is not 0, and the list of buckets from there to the last one."""
    used = [number for number, count in enumerate(buckets) if count]
    first, behind = (used[0], used[-1] + 1) if used else (0, 0)
    return f"{first},[{','.join(map(str, buckets[first:behind]))}]"


def plan_save(records: bytes, heap: bytes, numbers: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Write what a saved snapshot contains of some records; see `shmstats.snapshot.format`.

    Args:
        records: as for `group_series`.
        heap: as for `group_series`.
        numbers: of counters, gauges and histograms (u32).

    Returns:
        The items of the lists ``names``, ``kinds`` and ``created``, and those of ``values`` as text and places for
        `fill_text`.

    Raises:
        ValueError: the numbers are not those of records that can be saved.
    """
    found = list(_records(records))
    chosen = memoryview(numbers).cast("I").tolist() if len(numbers) % 4 == 0 else [len(found)]
    if not all(number < len(found) and _can_be_saved(found[number], heap) for number in chosen):
        raise ValueError("the numbers are not those of records that can be saved")
    saved = [found[number] for number in chosen]
    keys = b",".join([_json_key(heap[record.key : record.key + record.length]) for record in saved])
    kinds = b",".join([b"%d" % _saved_kind(record) for record in saved])
    created = b",".join([b"%d" % (record.created if record.created <= INT64_MAX else 0) for record in saved])
    text, places = bytearray(), bytearray()
    for number, record in enumerate(saved):
        text += b"," if number else b""
        before = len(text) - (1 if number else 0)
        if record.kind == _HISTOGRAM:
            for sign, form in zip(b"[,,,]", (_SUM, _MAXIMUM, _MINIMUM, _IN_USE, _NOTHING), strict=True):
                text.append(sign)
                argument = record.width - _FIRST_BUCKET if form == _IN_USE else 1
                places += _PLACE.pack(len(text) - before, record.cell, form, argument)
                before = len(text)
        else:
            form = _GAUGE if record.kind == _KIND_OF_GAUGES else _INTEGER
            places += _PLACE.pack(len(text) - before, record.cell, form, 1)
    return keys, kinds, created, bytes(text), bytes(places)


def _can_be_saved(record: _Record, heap: bytes) -> bool:
    is_empty = record.kind == _HISTOGRAM and record.width <= _FIRST_BUCKET
    return bool(record.parts(heap)) and not is_empty


def _saved_kind(record: _Record) -> int:
    return -record.kind if record.kind == _COUNTER and not record.flags & _MONOTONIC else record.kind


def _json_key(key: bytes) -> bytes:
    return _NOT_IN_JSON.sub(_json_escape, key).join((b'"', b'"'))


def _json_escape(match: re.Match[bytes]) -> bytes:
    return b"\\" + match[0] if match[0] in b'"\\' else b"\\u%04x" % match[0][0]


def _needed(form: int, argument: int) -> int:
    """Return the number of cells that a place reads."""
    return _CELLS[form] + (argument if form in (_BUCKET, _IN_USE) else 0)
