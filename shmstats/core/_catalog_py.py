"""The pure Python twin of catalog.h: the series that are shown."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..layout import LIVE, NAME, fits_kind

_FAMILY = 2
_COUNTER, _TIMESTAMP = 1, 4
_COMBINED = 2


def list_series(
    records: bytes | memoryview, modes: bytes, columns: int
) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes]:
    """Return the series that some records show, in columns; an invalid one raises BufferError.

    ``modes`` classifies each of 256 modes: 0 invalid, 1 gauges with one value, or summed contributions, 2 gauges whose
    contributions are combined otherwise. The result has, of all series but the latter, the numbers of the records,
    first columns, widths (u32 each), kinds and modes (u8 each); then the numbers of the latter, and last those of all
    that have room for a note (u32 each).
    """
    if len(records) % NAME.size or len(modes) != 256:
        raise ValueError("these are not whole records, and 256 modes")
    listed: list[tuple[int, int, int, int, int]] = []
    aside: list[int] = []
    noted: list[int] = []
    for number, fields in enumerate(NAME.struct.iter_unpack(records)):
        state, kind, mode, flags, width, cell, _, _, declaration, *_, note_room, _, _ = fields
        if state != LIVE or flags & _FAMILY or declaration:
            continue
        known = _COUNTER <= kind <= _TIMESTAMP and modes[mode]
        if not known or cell + width > columns or not fits_kind(kind, mode, width, False):
            raise BufferError("a record has a kind, a mode or cells that cannot be")
        if note_room:
            noted.append(number)
        if modes[mode] == _COMBINED:
            aside.append(number)
        else:
            listed.append((number, cell, width, kind, mode))
    numbers, cells, widths, kinds, modes_of = zip(*listed, strict=True) if listed else ((),) * 5
    columns_of_words = _packed(numbers), _packed(cells), _packed(widths)
    return *columns_of_words, bytes(kinds), bytes(modes_of), _packed(aside), _packed(noted)


def _packed(words: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)
