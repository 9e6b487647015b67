"""What every room knows of the memory that is shared: a cell, a page, a name, a request, and whose a lock is.

`shmstats.block.layout` has the layout of a whole block. The word in ``CELL.lock`` is 0 when free, else the owner's
worker slot + 1 (12 bits) and the low 20 bits of its claim number: `owner_word`.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

PAGE = 4096

#: What the integer of a cell can be.
INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1

#: The byte of the lock file that is the lock of cell 0, in the pure Python core; behind it those of the others.
FIRST_CELL = 1

#: A series' first cell is its lock; each of the others is a value, an integer or a double.
CELL = np.dtype({"names": ["lock", "seq", "value"], "formats": ["<u4", "<u4", "<i8"], "offsets": [0, 4, 0]})

CELLS_PER_PAGE = PAGE // CELL.itemsize

#: Cells of a counter, the smallest series.
COUNTER_WIDTH = 2

#: What a process is serving at one time, at most, as far as others can see it.
REQUESTS_PER_WORKER = 16
REQUEST = np.dtype(
    [
        ("start", "<u8"),  # ns since 1970; 0: the entry is free
        ("sequence", "<u8"),  # odd while the entry is being written
        ("length", "<u2"),  # of the text
        ("text", "S110"),  # method and path without the query in UTF-8, cut
    ]
)

#: An index slot whose record was removed; a search goes on behind it.
DELETED = 0xFFFFFFFF

#: States of a record.
UNUSED, LIVE, REMOVED = 0, 1, 2

NAME = np.dtype(
    [
        ("state", "<u1"),  # 0 unused, 1 live, 2 removed
        ("kind", "<u1"),  # shmstats.series.Kind
        ("mode", "<u1"),  # how a per-worker gauge is combined
        ("flags", "<u1"),
        ("width", "<u4"),  # consecutive cells
        ("cell", "<u4"),  # the first of them
        ("family", "<u4"),  # record + 1 of the metric's family; 0: it has none
        ("hash", "<u4"),
        ("declaration", "<u4"),  # of a family: the number of its declaration; of a series: that it was made under
        ("key", "<u8"),  # offset in the heap
        ("room", "<u4"),  # bytes there
        ("length", "<u4"),  # of the key
        ("note", "<u8"),  # offset of a text in the heap, see shmstats.block.notes
        ("note_room", "<u4"),  # bytes there
        ("members", "<u4"),  # of a family: its label sets
        ("created", "<u8"),  # ns since 1970
    ]
)

_STRUCT_CODES = {"|u1": "B", "<u2": "H", "<u4": "I", "<u8": "Q", "<i8": "q"}


def struct_of(dtype: np.dtype[Any]) -> struct.Struct:
    """Return the `struct.Struct` of a structured dtype, for quick reads and writes of whole records."""
    codes = []
    for name in dtype.names or ():
        field = dtype[name]
        code = f"{field.itemsize}s" if field.kind == "S" else _STRUCT_CODES[field.base.str]
        codes.append(code * int(np.prod(field.shape, dtype=int)))
    packed = struct.Struct("<" + "".join(codes))
    if packed.size != dtype.itemsize:
        raise AssertionError(f"{dtype} has padding: {packed.size} bytes of {dtype.itemsize}")
    return packed


def field_offset(dtype: np.dtype[Any], name: str) -> int:
    """Return where field ``name`` begins in a structured dtype, in bytes."""
    fields = dtype.fields
    assert fields is not None
    return int(fields[name][1])


def minimum_of(kept: int) -> float:
    """Return the smallest observation, as a histogram keeps it: its bits plus 1; infinity where it keeps none."""
    if not kept:
        return math.inf
    (minimum,) = struct.unpack("<d", struct.pack("<Q", kept - 1 & 2**64 - 1))
    return float(minimum)


def owner_word(slot: int, claim: int) -> int:
    """Return what a cell's lock holds while worker ``slot`` (0 to 4094) with number ``claim`` has it."""
    return (slot + 1) << 20 | claim & 0xFFFFF
