"""The pure Python twin of sums.h, totals.h and catalog.h: rows merged into one, and the series that are shown."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterable, Sequence
from operator import add

from ..layout import CELL, CELLS_PER_PAGE, INT64_MAX, INT64_MIN, LIVE, NAME, fits_kind, minimum_of

_SPAN = struct.Struct("<II")

_FAMILY = 2
_COUNTER, _GAUGE, _HISTOGRAM, _TIMESTAMP = 1, 2, 3, 4
_COMBINED = 2

#: Cells of a histogram before its buckets: lock, sum, maximum, minimum; and of a contribution, with owner and time.
_FIRST_BUCKET, _CONTRIBUTION_CELLS = 4, 5
_OWNER = 3

#: The bit of a gauge's first cell that is set if its value is the double.
_IS_REAL = 1 << 32

#: Attempts to read a histogram that changes all the time.
_LOOKS = 100


class _Grid:
    """The cells of a block, of which pages without memory are never read."""

    def __init__(
        self, block: memoryview, cells: int, row_bytes: int, rows: int, pages: int, bitmap_bytes: int, columns: int
    ) -> None:
        if (
            min(cells, pages, columns) < 0
            or min(rows, row_bytes, bitmap_bytes) < 1
            or cells % CELL.size
            or row_bytes % CELL.size
            or columns > row_bytes // CELL.size
            or columns > bitmap_bytes * 8 * CELLS_PER_PAGE
            or rows > (len(block) - cells) // row_bytes
            or rows > (len(block) - pages) // bitmap_bytes
        ):
            raise BufferError("the cells do not fit into the block")
        self._bits = block[pages : pages + rows * bitmap_bytes]
        self._bitmap_bytes = bitmap_bytes
        content = block[cells : cells + rows * row_bytes]
        self.integers, self.reals, self.words = content.cast("q"), content.cast("d"), content.cast("I")
        self.row_cells, self.rows = row_bytes // CELL.size, rows

    def rows_of(self, first: int, width: int = 1) -> list[int]:
        """Return the rows that have memory for some columns."""
        pages = range(first // CELLS_PER_PAGE, (first + width - 1) // CELLS_PER_PAGE + 1)
        return [row for row in range(self.rows) if all(self._has(row, page) for page in pages)]

    def _has(self, row: int, page: int) -> int:
        return self._bits[row * self._bitmap_bytes + page // 8] >> page % 8 & 1


def _saturated(value: int) -> int:
    return min(max(value, INT64_MIN), INT64_MAX)


def sum_columns(
    block: memoryview, cells: int, row_bytes: int, rows: int, pages: int, bitmap_bytes: int, columns: int
) -> bytearray:
    """Return the sums of the first ``columns`` columns over all rows, as 64-bit integers, saturated; without the GIL.

    The places of the cells and of the bitmaps of reserved pages are given by offset and by the bytes from
    one row to the next; pages that are not reserved are not read. Anything outside of the block raises BufferError.
    """
    grid = _Grid(block, cells, row_bytes, rows, pages, bitmap_bytes, columns)
    sums: list[int] = []
    for first in range(0, columns, CELLS_PER_PAGE):
        count = min(CELLS_PER_PAGE, columns - first)
        starts = [row * grid.row_cells + first for row in grid.rows_of(first)]
        page = [0] * count
        for start in starts:
            page = list(map(add, page, grid.integers[start : start + count]))
        sums += map(_saturated, page) if len(starts) > 1 else page
    return bytearray(struct.pack(f"<{columns}q", *sums))


def merge_histograms(
    block: memoryview,
    cells: int,
    row_bytes: int,
    rows: int,
    pages: int,
    bitmap_bytes: int,
    totals: bytearray,
    spans: bytes,
) -> None:
    """Store the totals of histograms in a row of totals, over the sums of their columns; without the GIL.

    The values of each row are of one moment. A bucket is saturated, the sum and the maximum are finite. The block and
    the places in it are given as for `sum_columns`; ``totals`` is the result of that; ``spans`` are the first column
    and the width of each histogram (u32). Anything outside of the block or the totals raises BufferError.
    """
    columns = len(totals) // CELL.size
    grid = _Grid(block, cells, row_bytes, rows, pages, bitmap_bytes, columns)
    found = list(_SPAN.iter_unpack(spans))
    if any(width < _FIRST_BUCKET or first + width > columns for first, width in found):
        raise BufferError("the cells do not fit into the block")
    for first, width in found:
        copies = [_copied(grid, row * grid.row_cells + first, width) for row in grid.rows_of(first, width)]
        totals[first * CELL.size : (first + width) * CELL.size] = _merged(copies, width)


def _copied(grid: _Grid, first: int, width: int) -> bytes:
    """Return a histogram's values in a row, as of one moment."""
    for _ in range(_LOOKS):
        before = grid.words[2 * first + 1]
        copy = bytes(grid.integers[first + 1 : first + width])
        if before % 2 == 0 and grid.words[2 * first + 1] == before:
            break
    return copy


def _merged(copies: list[bytes], width: int) -> bytes:
    """Return the merged histogram of copies that begin with the sum, with the cell of a free lock before it."""
    total = maximum = 0.0
    smallest = 0
    buckets = [0] * (width - _FIRST_BUCKET)
    for copy in copies:
        part_sum, most, least, *part = struct.unpack(f"<ddq{len(buckets)}q", copy)
        total += part_sum
        maximum = most if most > maximum or math.isnan(most) else maximum
        smallest = min((each for each in (smallest, least) if each), key=_by_size, default=0)
        buckets = [_saturated(number + more) for number, more in zip(buckets, part, strict=True)]
    total, maximum = _finite(total), _finite(maximum)
    if not 0 <= (minimum_of(smallest) if smallest else 0.0) <= maximum:
        smallest = 0
    return struct.pack(f"<qddq{len(buckets)}q", 0, total, maximum, smallest, *(max(each, 0) for each in buckets))


def _by_size(kept: int) -> int:
    """Return the bits of a minimum as an unsigned number."""
    return (kept - 1) % 2**64


def _finite(number: float) -> float:
    return 0.0 if math.isnan(number) else min(max(number, -sys.float_info.max), sys.float_info.max)


def sum_contributions(
    block: memoryview,
    cells: int,
    row_bytes: int,
    rows: int,
    pages: int,
    bitmap_bytes: int,
    columns: int,
    gauges: bytes,
    of_live: bytes,
    living: bytes,
) -> list[int | float]:
    """Return the sums of contributions to some gauges, an int if all contributions are ints.

    The block and the places in it are given as for `sum_columns`; then the first column of each gauge (u32), whether
    only the contributions of living workers count (u8), and the signatures of these, ascending (u64). Anything outside
    of the block raises BufferError.
    """
    grid = _Grid(block, cells, row_bytes, rows, pages, bitmap_bytes, columns)
    firsts = memoryview(gauges).cast("I").tolist() if len(gauges) == 4 * len(of_live) else [columns]
    if any(first + _CONTRIBUTION_CELLS > columns for first in firsts):
        raise BufferError("the cells do not fit into the block")
    signatures = set(memoryview(living).cast("Q"))
    return [
        _sum_of(_contributions(grid, first, signatures if is_live else None))
        for first, is_live in zip(firsts, of_live, strict=True)
    ]


def _contributions(grid: _Grid, first: int, living: set[int] | None) -> Iterable[int | float]:
    for row in grid.rows_of(first, _CONTRIBUTION_CELLS):
        cell = row * grid.row_cells + first
        while True:
            signature = grid.integers[cell + _OWNER]
            if not signature or (living is not None and signature not in living):
                break
            is_real = grid.words[2 * cell + 1] & 1
            value = grid.reals[cell + 2] if is_real else grid.integers[cell + 1]
            if grid.integers[cell + _OWNER] == signature:  # else the value may be another worker's
                yield value
                break


def _sum_of(values: Iterable[int | float]) -> int | float:
    parts = list(values)
    if not any(isinstance(each, float) for each in parts):
        return _saturated(sum(map(int, parts)))
    total = 0.0
    for each in parts:
        total += each
    if math.isinf(total) and all(map(math.isfinite, parts)):
        return math.copysign(sys.float_info.max, total)
    return total


def clear_locks(totals: bytearray, cells: bytes | memoryview, kinds: bytes) -> None:
    """Clear the locks in the first cells (u32) of series of some kinds (u8) in totals.

    Only the bit for doubles of gauges stays. A column that is not within the totals raises ValueError.
    """
    integers, firsts = memoryview(totals).cast("q"), memoryview(cells).cast("B").cast("I")
    if len(firsts) != len(kinds) or (kinds and max(firsts) >= len(integers)):
        raise ValueError("the cells are not within these totals")
    for first, kind in zip(firsts, kinds, strict=True):
        integers[first] &= _IS_REAL if kind == _GAUGE else 0


def add_counters(totals: bytes | bytearray, cells: bytes, groups: bytes, count: int) -> bytearray:
    """Return the sums (i64, saturated) of ``count`` groups of counters in totals.

    The counters are given by their first cells and the numbers of their groups (u32 each). A column that is not
    within the totals, or an invalid group number, raises ValueError.
    """
    integers = memoryview(totals).cast("q")
    firsts, numbers = (memoryview(each).cast("B").cast("I").tolist() for each in (cells, groups))
    fits = max(firsts, default=-2) + 1 < len(integers) and max(numbers, default=-1) < count
    if len(firsts) != len(numbers) or count < 0 or not fits:
        raise ValueError("the counters are not within these totals and groups")
    sums = [0] * count
    for first, number in zip(firsts, numbers, strict=True):
        sums[number] = _saturated(sums[number] + integers[first + 1])
    return bytearray(struct.pack(f"<{count}q", *sums))


def add_histograms(totals: bytes | bytearray, cells: bytes, width: int) -> bytearray:
    """Return the sum of histograms of the same bounds in totals, given by first cells (u32), as one histogram.

    A column that is not within the totals raises ValueError.
    """
    content, firsts = memoryview(totals).cast("B"), memoryview(cells).cast("I").tolist()
    if width <= _FIRST_BUCKET or any(CELL.size * (first + width) > len(content) for first in firsts):
        raise ValueError("the histograms are not within these totals")
    copies = [bytes(content[CELL.size * (first + 1) : CELL.size * (first + width)]) for first in firsts]
    return bytearray(_merged(copies, width))


def text_buckets(totals: bytes | bytearray, cells: bytes, widths: bytes) -> list[tuple[int, str]]:
    """Return the buckets of histograms in totals: the number of the first non-empty one, and the counts as text.

    The text has the counts up to the last non-empty bucket, separated by blanks. The histograms are given by their
    first cells and widths (u32 each). A column that is not within the totals raises ValueError.
    """
    integers = memoryview(totals).cast("q")
    firsts, sizes = (memoryview(each).cast("B").cast("I").tolist() for each in (cells, widths))
    if len(firsts) != len(sizes) or any(
        size <= _FIRST_BUCKET or first + size > len(integers) for first, size in zip(firsts, sizes, strict=True)
    ):
        raise ValueError("the histograms are not within these totals")
    found = []
    for first, size in zip(firsts, sizes, strict=True):
        buckets = integers[first + _FIRST_BUCKET : first + size].tolist()
        filled = [number for number, count in enumerate(buckets) if count] or [0, -1]
        found.append((filled[0], " ".join(map(str, buckets[filled[0] : filled[-1] + 1]))))
    return found


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
