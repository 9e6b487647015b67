"""The parts of the block's layout that every room needs: a cell, a page, a name, a request, and the owner of a lock.

`shmstats.block.layout` has the layout of a whole block. The word in ``CELL.lock`` is 0 when free, else the owner's
worker slot + 1 (12 bits) and the low 20 bits of its claim number: `shmstats.block.workers.Worker.word`.
"""

from __future__ import annotations

import math
import struct
from array import array
from typing import TYPE_CHECKING, Any

from .once import lazy_property

if TYPE_CHECKING:
    import numpy as np

PAGE = 4096


class Structure:
    """A structure in the block: the only definition of its fields' places. C compares its own structs with it.

    Args:
        form: the form of each field, as for `struct`, little-endian and without padding.
        over: a further field, name and form, that overlays the first ones.

    Attributes:
        fields: offset and size of each field in bytes, by name, in order.
        size: of the structure in bytes.
        empty: the value of each field in memory that was never written: 0, or no bytes.
        struct: reads and writes the whole structure.
    """

    def __init__(self, form: dict[str, str], over: tuple[str, str] | None = None) -> None:
        self._forms = form if over is None else form | dict([over])
        self.struct = struct.Struct("<" + "".join(form.values()))
        self.size = self.struct.size
        self.empty: dict[str, Any] = {name: b"" if code.endswith("s") else 0 for name, code in form.items()}
        self.fields: dict[str, tuple[int, int]] = {}
        offset = 0
        for name, code in form.items():
            size = struct.calcsize(f"<{code}")
            self.fields[name] = offset, size
            offset += size
        if over is not None:
            self.fields[over[0]] = 0, struct.calcsize(f"<{over[1]}")

    def offset(self, field: str) -> int:
        """Return the offset of a field in bytes."""
        return self.fields[field][0]

    def column(self, content: bytes | bytearray | memoryview, field: str) -> memoryview:
        """Return one numeric field of all structures in some bytes, as a view of these bytes."""
        offset, size = self.fields[field]
        form: Any = self._forms[field]
        return memoryview(content).cast(form)[offset // size :: self.size // size]

    @lazy_property
    def dtype(self) -> np.dtype[Any]:
        """The structure as a numpy dtype; asking for it imports numpy."""
        import numpy as np

        formats = [f"S{code[:-1]}" if code[-1] == "s" else f"<{_NUMPY[code]}" for code in self._forms.values()]
        offsets = [offset for offset, _ in self.fields.values()]
        return np.dtype({"names": list(self.fields), "formats": formats, "offsets": offsets, "itemsize": self.size})


_NUMPY = {"B": "u1", "H": "u2", "I": "u4", "Q": "u8", "q": "i8"}

#: Range of the integer of a cell.
INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
UINT64_MAX = 2**64 - 1

#: In the pure Python core, the byte of the lock file that is the lock of cell 0; those of the other cells follow.
FIRST_CELL = 1

#: A series' first cell is its lock; each of the others is a value, an integer or a double.
CELL = Structure({"lock": "I", "seq": "I"}, over=("value", "q"))

CELLS_PER_PAGE = PAGE // CELL.size

#: Cells of a counter, the smallest series; of a gauge, without and with a value for each worker; and those of a
#: histogram before its first bucket: the lock, the sum, the maximum and the minimum.
COUNTER_WIDTH = 2
_GAUGE_WIDTH, _OWN_GAUGE_WIDTH = 3, 5
BEFORE_BUCKETS = 4

_COUNTER, _GAUGE, _HISTOGRAM = 1, 2, 3

#: Most requests of one worker that other processes can see at the same time.
REQUESTS_PER_WORKER = 16
REQUEST = Structure(
    {
        "start": "Q",  # ns since 1970; 0: the entry is free
        "sequence": "Q",  # odd while the entry is being written
        "length": "H",  # of the text
        "text": "110s",  # method and path without the query in UTF-8, cut
    }
)

#: An index slot whose record was removed; a search continues after it.
DELETED = 0xFFFFFFFF

#: States of a record.
UNUSED, LIVE, REMOVED = 0, 1, 2

NAME = Structure(
    {
        "state": "B",  # 0 unused, 1 live, 2 removed
        "kind": "B",  # shmstats.series.Kind
        "mode": "B",  # how a per-worker gauge is combined
        "flags": "B",
        "width": "I",  # consecutive cells
        "cell": "I",  # the first of them
        "family": "I",  # record + 1 of the metric's family; 0: it has none
        "hash": "I",
        "declaration": "I",  # of a family: the number of its declaration; of a series: that it was made under
        "key": "Q",  # offset in the heap
        "room": "I",  # bytes there
        "length": "I",  # of the key
        "note": "Q",  # offset of a text in the heap, see shmstats.block.records
        "note_room": "I",  # bytes there
        "members": "I",  # of a family: its label sets
        "created": "Q",  # ns since 1970
    }
)


def saturated(value: int) -> int:
    """Return the nearest integer of 64 bits."""
    return value if INT64_MIN <= value <= INT64_MAX else min(max(value, INT64_MIN), INT64_MAX)


def fits_kind(kind: int, mode: int, width: int, is_family: int) -> bool:
    """Tell whether a record has as many cells as its kind and mode take; a family has none, and only a gauge a mode.

    Kind and mode are numbers of `shmstats.series`.
    """
    if is_family:
        return width == 0
    if mode:
        return kind == _GAUGE and width == _OWN_GAUGE_WIDTH
    if kind == _COUNTER:
        return width == COUNTER_WIDTH
    return width > BEFORE_BUCKETS if kind == _HISTOGRAM else width == _GAUGE_WIDTH


def minimum_of(kept: int) -> float:
    """Return the smallest observation from its stored form, its bits plus 1; infinity if none is stored."""
    if not kept:
        return math.inf
    (minimum,) = struct.unpack("<d", struct.pack("<Q", kept - 1 & 2**64 - 1))
    return float(minimum)


def kept_minimum(minimum: float) -> int:
    """Return the stored form of a smallest observation that is not negative."""
    (bits,) = struct.unpack("<q", struct.pack("<d", minimum + 0.0))  # -0.0 has the bits of 0.0
    return int(bits) + 1


def minima_of(kept: list[int]) -> list[float]:
    """Return the smallest observations of histograms from their stored forms (i64); 0 if none is stored."""
    bits = array("Q", [each - 1 & 2**64 - 1 if each else 0 for each in kept])
    return array("d", bits.tobytes()).tolist()
