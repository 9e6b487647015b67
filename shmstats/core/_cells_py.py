"""The counting path in pure Python: the twin of ``_cells.c``, name by name, and the documentation and types of both.

It is used if the extension could not be compiled. It does the same on the same layout, but locks a series by a
record lock of the kernel, because Python has no compare-and-swap; the protocol number keeps the two from sharing a
block. One file, however long: read beside the C headers. One class, however large: `Cells` is cells.h and values.h.
"""

from __future__ import annotations

import bisect
import math
import struct
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .. import lifecycle
from ..layout import FIRST_CELL, INT64_MAX, INT64_MIN, UINT64_MAX, saturated
from ..lifecycle import notice_fork
from ..series import Labels
from ._catalog_py import list_series as list_series
from ._claim_py import claim_process
from ._files_py import rename_to_new as rename_to_new
from ._files_py import time_of_birth as time_of_birth
from ._names_py import RECORD_LAYOUT as RECORD_LAYOUT
from ._names_py import NameIndex as NameIndex
from ._names_py import hash_key as hash_key
from ._requests_py import Requests as Requests
from ._section_py import Section as Section

CORE = "Python"
PROTOCOL = 2
CELL_LAYOUT = {"lock": (0, 4), "seq": (4, 4), "value": (0, 8), "size": 8}

#: Kept as long as this module: it marks this interpreter as the one of the process that counts.
_claim = claim_process()

_CELL_BYTES = 8


#: Numbers of values, counted from the cell after the lock. A gauge is an int and a double; a contribution also has its
#: owner and its time.
_INTEGER, _REAL, _OWNER, _MOMENT = 0, 1, 2, 3

#: The owner of a contribution to a gauge: its number (0: the gauge is shared by all), whether the contribution ends
#: with the owner, whether its time is stored, and whether it must not be added to that of an ended worker.
_Contributor = tuple[int, bool, bool, bool]
_NOBODY: _Contributor = (0, False, False, False)

#: A histogram is the sum, the maximum and the minimum of its observations, followed by the buckets. Sum and maximum
#: are doubles; the minimum is the bits of a double plus 1, because 0 means that there is none.
_SUM, _MAXIMUM, _MINIMUM, _BUCKETS = 0, 1, 2, 3

_MANTISSA_BITS = 52
_FINEST_SCHEMA = 8
_SCALE_HEAD = struct.Struct("<qqq")


def _bits(value: float) -> int:
    """Return the bits of a double that is not negative; -0.0 has those of 0.0."""
    (bits,) = struct.unpack("<q", struct.pack("<d", value + 0.0))
    return int(bits)


class _Scale:
    """Finds the bucket of a value in a histogram: made by `shmstats.bounds`, explained in ``scale.h``."""

    def __init__(self, content: bytes) -> None:
        rest = len(content) - _SCALE_HEAD.size
        if rest < 0:
            raise ValueError("these bytes are no scale of a histogram")
        head: tuple[int, ...] = _SCALE_HEAD.unpack_from(content)
        n_bounds, self._schema, self._before = head
        self._n_bounds, self.buckets = n_bounds, n_bounds + 1
        is_explicit = self._schema < 0
        expected = 8 * n_bounds if is_explicit else 16 << self._schema + 1 if self._schema <= _FINEST_SCHEMA else -1
        if not self._schema >= -1 or n_bounds < 0 or rest != expected:
            raise ValueError("these bytes are no scale of a histogram")
        table = content[_SCALE_HEAD.size :]
        self._bounds: tuple[float, ...] = struct.unpack(f"<{n_bounds}d", table) if is_explicit else ()
        self._slots: list[tuple[int, ...]] = [] if is_explicit else list(struct.iter_unpack("<qq", table))

    def bucket(self, value: float) -> int:
        """Return the number of the first bound that is not less than a value, or the number of bounds."""
        if self._schema < 0:
            return bisect.bisect_left(self._bounds, value)
        below, schema = _bits(value) - 1, self._schema
        limit, before = self._slots[below >> _MANTISSA_BITS - 1 - schema & (2 << schema) - 1]
        is_beyond = below & (1 << _MANTISSA_BITS) - 1 >= limit
        bucket: int = (below >> _MANTISSA_BITS << schema) + before + is_beyond - self._before
        return min(max(bucket, 0), self._n_bounds)


def _finite(value: float) -> float:
    return min(max(value, -sys.float_info.max), sys.float_info.max)


def _fits_gauge(value: object) -> bool:
    """Whether it is an exact int that fits 64 bits, or an exact float."""
    return type(value) is float or (type(value) is int and INT64_MIN <= value <= INT64_MAX)


def _is_finite(value: object) -> bool:
    return type(value) is not float or math.isfinite(value)


def _sum(a: int | float, b: int | float) -> int | float:
    """Return a sum that a gauge can hold: the sum of finite numbers stays finite."""
    total = a + b
    if isinstance(total, int):
        return saturated(total)
    return _finite(total) if math.isfinite(a) and math.isfinite(b) else total


class Cells:
    """The cells of one attached block, as one worker uses them.

    Args:
        buffer: the whole block, writable.
        offset: of the first cell of row 0, in bytes.
        rows: rows of cells.
        capacity: cells of a row.
        row_bytes: from one row to the next.
        generation_offset: of the names generation (8 bytes) in the block.
        owner: the word of this worker's locks, not 0.
        is_live: tells whether the owner of a lock word lives; called if a lock stays taken.
        locks: the record locks, for the core that locks by them.
        limit: 0 for the block's cells. Otherwise these are one row in this process's memory, a buffer
            without locks, and ``flush`` is called when it holds that many operations.
        held_offset: of a buffer: where the block has the number of held operations (8 bytes).
        flush: of a buffer: called without arguments when it is full and `flush` returns False.
        target: of a buffer: the block's cells.
        pages: offset of the bitmaps of pages with memory; ``bitmap_bytes`` is the distance of two.
        bitmap_bytes: 0 without bitmaps: then the recorder computes a handle's value.

    A generation is that of the names when a column was looked up. An operation with a generation does
    nothing and returns False if the names have changed since, because the column may be another series' by now.
    Methods that take row and column raise IndexError if there is no such cell, and ValueError
    if the cells are closed, or were inherited by fork.
    """

    def __init__(
        self,
        buffer: memoryview,
        offset: int,
        rows: int,
        capacity: int,
        row_bytes: int,
        generation_offset: int,
        owner: int,
        is_live: Callable[[int], bool],
        locks: Any,
        limit: int = 0,
        held_offset: int = 0,
        flush: Callable[[], object] | None = None,
        target: Cells | None = None,
        pages: int = 0,
        bitmap_bytes: int = 0,
    ) -> None:
        if (
            min(offset, generation_offset, held_offset) < 0
            or min(rows, capacity, owner) < 1
            or row_bytes < capacity * _CELL_BYTES
            or generation_offset % 8
            or offset % _CELL_BYTES
            or generation_offset > len(buffer) - 8
            or held_offset % 8
            or held_offset > len(buffer) - 8
            or rows > (len(buffer) - offset) // row_bytes
        ):
            raise ValueError("the cells do not fit into the buffer")
        if limit:
            cells, rows = memoryview(bytearray(capacity * _CELL_BYTES)), 1
        else:
            cells = buffer[offset : offset + rows * row_bytes]
        self._words = cells.cast("I")
        self._values = cells.cast("q")
        self._doubles = cells.cast("d")
        self._whole = buffer.cast("B")
        self._generation = buffer[generation_offset : generation_offset + 8].cast("Q")
        self._held = buffer[held_offset : held_offset + 8].cast("Q")
        self._limit, self._flush, self._target = limit, flush, target
        self._routes: dict[int, tuple[int, int]] = {}
        self._flush_statistics: tuple[int, int, _Scale] | None = None
        self._rows, self._capacity = rows, capacity
        self._pitch = row_bytes // _CELL_BYTES
        self._owner = owner
        self._locks, self._guard = locks, locks.guard
        self._takeovers = -1
        self._open = True
        self._inherited = False
        self._direct = True
        lifecycle.take_part(lifecycle.Stage.CELLS, self)

    @property
    def generation(self) -> int:
        """The generation of the names now; 0 when closed."""
        try:
            return self._generation[0] if self._open else 0
        except ValueError:  # closed in between
            return 0

    @property
    def direct(self) -> bool:
        """Whether handles may use their bindings; False sends all of them to the recorder."""
        return self._open and self._direct

    @direct.setter
    def direct(self, direct: bool) -> None:
        self._direct = bool(direct)

    def is_usable(self) -> bool:
        """Tell whether handles may use their bindings here and now."""
        notice_fork()
        return self._direct and self._open and not self._guard.is_held()

    def at(self, row: int, column: int, width: int = 2) -> int:
        """Return the number of a series' first cell, its lock, counted over all rows."""
        if not self._open:
            raise ValueError("the cells are closed")
        if not (0 <= row < self._rows and 0 <= column <= self._capacity - width):
            raise IndexError(f"no cell at row {row}, column {column}: there are {self._rows} rows of {self._capacity}")
        return row * self._pitch + column

    def add(self, row: int, column: int, n: int, generation: int) -> bool:
        """Add to a counter, saturating at 64 bits."""
        return self.add_at(self.at(row, column), n, generation)

    def add_at(self, cell: int, n: int, generation: int, operations: int = 1) -> bool:
        """Do `add` for a cell by its number; a buffer counts it as so many operations."""
        full = False
        with _LockedCell(self, cell, generation) as usable:
            if not usable:
                return False
            total = self._values[cell + 1] + n
            self._values[cell + 1] = total if INT64_MIN <= total <= INT64_MAX else saturated(total)
            full = self._limit > 0 and self._hold(operations)
        if full:
            self._flush_full()
        return True

    def _hold(self, operations: int) -> bool:
        """Count operations in a buffer; returns whether it is full. The guard is held."""
        if self._limit:
            self._held[0] += operations
        return self._limit > 0 and operations > 0 and self._held[0] >= self._limit

    def _flush_full(self) -> None:
        with self._guard:
            if self._open and not self.flush(self.generation) and self._flush is not None:
                self._flush()

    def observe_at(self, cell: int, bucket: int, value: float, generation: int) -> bool:
        """Add one observation to a histogram, by the number of its first cell."""
        one = [(bucket, 1)]
        return self._add_distribution_at(cell, value, value, _bits(value) + 1, one, generation, operations=1)

    def add_distribution(
        self,
        row: int,
        column: int,
        total: float,
        maximum: float,
        minimum: float,
        buckets: tuple[int, ...],
        generation: int,
    ) -> bool:
        """Add to a histogram; a minimum of 0 is unknown, and is ignored if all buckets are 0."""
        cell = self.at(row, column, 1 + _BUCKETS + len(buckets))
        kept = _bits(max(minimum, 0.0)) + 1 if any(buckets) else 0
        return self._add_distribution_at(cell, total, maximum, kept, enumerate(buckets), generation)

    def _add_distribution_at(
        self,
        cell: int,
        total: float,
        maximum: float,
        minimum: int,
        buckets: Iterable[tuple[int, int]],
        generation: int,
        operations: int = 0,
    ) -> bool:
        """Add to a histogram, by the number of its first cell; the minimum has its stored form."""
        full = False
        with _LockedCell(self, cell, generation) as usable:
            if not usable:
                return False
            self._words[2 * cell + 1] |= 1
            doubles, values, first = self._doubles, self._values, cell + 1
            doubles[first + _SUM] = _finite(doubles[first + _SUM] + total)
            doubles[first + _MAXIMUM] = max(doubles[first + _MAXIMUM], maximum)
            before = values[first + _MINIMUM]
            if minimum and not 0 < before <= minimum:
                values[first + _MINIMUM] = minimum
            for bucket, n in buckets:
                place = first + _BUCKETS + bucket
                values[place] = saturated(values[place] + n)
            self._words[2 * cell + 1] = self._words[2 * cell + 1] + 1 & 0xFFFFFFFF
            full = self._hold(operations)
        if full:
            self._flush_full()
        return True

    def discard(self, column: int, width: int) -> None:
        """Set the values of a buffer's series to 0."""
        self._take(column, width)

    def _take(self, column: int, width: int) -> tuple[int, ...]:
        """Return the values of a buffer's series, and set them to 0."""
        cell = self.at(0, column, width)
        guard = self._guard
        guard.enter()  # faster than ``with``: a flush takes every column
        try:
            values = tuple(self._values[cell + 1 : cell + width])
            for place in range(cell + 1, cell + width):
                self._values[place] = 0
        finally:
            guard.leave()
        return values

    def route(self, column: int, width: int, row: int) -> None:
        """Make a flush of the buffer move a series to this row."""
        if self._target is None:
            raise ValueError(f"{width} cells cannot be buffered")
        self.at(0, column, width)
        self._target.at(row, column, width)
        self._routes[column] = width, row

    def note_flushes(self, row: int, flushes: int, row_of_durations: int, durations: int, scale: bytes) -> None:
        """Set the rows and the columns of the target for the statistics of flushes."""
        found, target = _Scale(scale), self._target
        if target is None:
            raise ValueError("the cells are no buffer")
        width = 1 + _BUCKETS + found.buckets
        self._flush_statistics = target.at(row, flushes), target.at(row_of_durations, durations, width), found

    def flush(self, generation: int) -> bool:
        """Move what a buffer holds to its target; False if not all could be moved."""
        target = self._target
        if not self._open or target is None or self.generation != generation:
            return False
        start = time.monotonic_ns()
        with self._guard:
            self._held[0] = 0
            for column, (width, row) in self._routes.items():
                values = self._take(column, width)
                done = False
                try:
                    done = not any(values) or target.add_values(row, column, values, generation)
                finally:
                    if not done:
                        self.add_values(0, column, values, self.generation)
                        self._held[0] += 1
                if not done:
                    return False
            if self._flush_statistics is not None:
                flushes, durations, scale = self._flush_statistics
                ms = (time.monotonic_ns() - start) / 1e6
                target.add_at(flushes, 1, generation)
                target.observe_at(durations, scale.bucket(ms), ms, generation)
        return True

    def add_values(self, row: int, column: int, values: tuple[int, ...], generation: int) -> bool:
        """Add values of a buffer: a counter's value, or all of a histogram."""
        if len(values) == 1:
            return self.add_at(self.at(row, column), values[0], generation, operations=0)
        total, maximum = struct.unpack("<2d", struct.pack("<2q", *values[:_MINIMUM]))
        cell = self.at(row, column, 1 + len(values))
        buckets = enumerate(values[_BUCKETS:])
        return self._add_distribution_at(cell, total, maximum, values[_MINIMUM], buckets, generation)

    def load(self, row: int, column: int) -> int:
        return self._values[self.at(row, column) + 1]

    def clear(self, row: int, column: int, width: int, is_histogram: bool = False) -> bool:
        """Set a series to 0, under the lock of its first cell."""
        first = self.at(row, column, width)
        with _LockedCell(self, first) as usable:
            if not usable:
                return False
            if is_histogram:
                self._words[2 * first + 1] |= 1
            for cell in range(first + 1, first + width):
                self._values[cell] = 0
            # The seq of a histogram must not become 0: a reader that began before would not notice.
            self._words[2 * first + 1] = self._words[2 * first + 1] + 1 & 0xFFFFFFFF if is_histogram else 0
        return True

    def load_gauge(self, row: int, column: int) -> int | float:
        return self._load_gauge_at(self.at(row, column, 3))

    def _load_gauge_at(self, cell: int) -> int | float:
        if self._words[2 * cell + 1] & 1:
            return self._doubles[cell + 1 + _REAL]
        return self._values[cell + 1 + _INTEGER]

    def _put_gauge_at(self, cell: int, value: int | float) -> None:
        if isinstance(value, float):
            self._doubles[cell + 1 + _REAL] = value
            self._words[2 * cell + 1] = 1
        else:
            self._values[cell + 1 + _INTEGER] = value
            self._words[2 * cell + 1] = 0

    def _contribute(self, cell: int, value: int | float, by: _Contributor) -> None:
        """Store a number in a gauge, whose lock is held; if it is a contribution, store its owner too.

        A live contribution has no owner while it changes hands, so that nobody takes the new value for the old owner's.
        A contribution that outlives its owner keeps the old owner until it has a new one: it always has one.
        """
        owner, live, stamped, _ = by
        if not owner:
            self._put_gauge_at(cell, value)
            return
        place = cell + 1
        changes = self._values[place + _OWNER] != owner
        if changes and live:
            self._values[place + _OWNER] = 0
        self._put_gauge_at(cell, value)
        if stamped:
            self._values[place + _MOMENT] = time.monotonic_ns()
        if changes:
            self._values[place + _OWNER] = owner

    def set_gauge(self, row: int, column: int, value: object, generation: int, by: _Contributor = _NOBODY) -> bool:
        """Set a gauge; False also if the value is not an int or float that fits."""
        return self.set_gauge_at(self.at(row, column, 5 if by[0] else 3), value, generation, by)

    def set_gauge_at(self, cell: int, value: object, generation: int, by: _Contributor = _NOBODY) -> bool:
        """Do `set_gauge` for a cell by its number."""
        if not _fits_gauge(value):
            return False
        with _LockedCell(self, cell, generation) as usable:
            if not usable:
                return False
            self._contribute(cell, value, by)  # type: ignore[arg-type]
        return True

    def add_gauge(
        self,
        row: int,
        column: int,
        n: object,
        generation: int,
        by: _Contributor = _NOBODY,
        seen: int = 0,
        anew: bool = False,
    ) -> bool:
        """Add to a gauge; False as in `set_gauge`.

        A contributor that must not add to another one's value adds to 0 with ``anew``. The result is False if the
        contribution in the cell is neither its own nor that of ``seen``.
        """
        return self.add_gauge_at(self.at(row, column, 5 if by[0] else 3), n, generation, by, seen, anew)

    def add_gauge_at(
        self,
        cell: int,
        n: object,
        generation: int,
        by: _Contributor = _NOBODY,
        seen: int = 0,
        anew: bool = False,
    ) -> bool:
        """Do `add_gauge` for a cell by its number."""
        if not _fits_gauge(n):
            return False
        with _LockedCell(self, cell, generation) as usable:
            if not usable:
                return False
            before = self._load_gauge_at(cell)
            if by[3] and not self.is_owner(cell, by[0]):
                if not self.is_owner(cell, seen):
                    return False
                before = 0 if anew else before
            self._contribute(cell, _sum(before, n), by)  # type: ignore[arg-type]
        return True

    def is_owner(self, cell: int, owner: int) -> bool:
        """Whether a contribution is that of an owner."""
        return self._values[cell + 1 + _OWNER] == owner

    def raise_generation(self) -> int:
        if not self._open:
            raise ValueError("the cells are closed")
        self._generation[0] = self._generation[0] + 1 & UINT64_MAX
        return self._generation[0]

    def count_takeovers_at(self, row: int, column: int) -> None:
        """Use this counter for locks taken over from dead owners."""
        self._takeovers = self.at(row, column)

    def forget(self) -> None:
        self._open = False
        self._inherited = True

    def close(self) -> None:
        self._open = False
        for view in (self._words, self._values, self._doubles, self._whole, self._generation, self._held):
            view.release()


def fence() -> None:
    """Order all loads before it before all loads after it, for readers of a histogram that may be written meanwhile.

    In Python, bytecode executes loads in order anyway.
    """


class _LockedCell:
    """Locks a cell as a context; gives whether it may be used: whether its names have ``generation``, if given.

    A cell of a buffer needs only the guard, because no other process sees it. If a signal handler forks meanwhile, the
    operation ends here in the child: the parent finishes it.
    """

    __slots__ = ("_cell", "_cells", "_descriptor", "_generation", "_is_locked")

    def __init__(self, cells: Cells, cell: int, generation: int | None = None) -> None:
        self._cells, self._cell, self._generation = cells, cell, generation
        self._is_locked, self._descriptor = False, -1

    def __enter__(self) -> bool:
        cells, cell = self._cells, self._cell
        cells._guard.enter()
        try:
            if not cells._open:
                return False
            if not cells._limit:
                self._is_locked = True  # before it is so: an exception may come in between
                self._descriptor = cells._locks.lock(FIRST_CELL + cell)
                words = cells._words
                if words[2 * cell] and words[2 * cell] != cells._owner and cells._takeovers >= 0:
                    cells._values[cells._takeovers + 1] += 1
                words[2 * cell] = cells._owner
            return self._generation is None or self._generation == cells._generation[0]
        except BaseException as error:
            if isinstance(error, (ValueError, OSError)) and cells._inherited:
                return False  # the child has closed them
            self.__exit__(type(error), error, None)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        cells = self._cells
        try:
            if self._is_locked:
                try:
                    if kind is None and cells._open:
                        cells._words[2 * self._cell] = 0
                finally:
                    cells._locks.unlock(FIRST_CELL + self._cell, self._descriptor)
        finally:
            cells._guard.leave()
        return kind is ValueError and cells._inherited


class Series:
    """A handle: one statistic, bound to its cell."""

    def __init__(self, recorder: Any, category: str, metric: str, labels: Labels = ()) -> None:
        self.recorder = recorder
        self.category = category
        self.metric = metric
        self.labels = labels
        self._cells: Cells | None = None
        self._cell = 0
        self._generation = 0
        self._monotonic = False
        self._scale: _Scale | None = None
        self._by = _NOBODY

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.category!r} {self.metric!r}>"

    @property
    def value(self) -> Any:
        """The value over all workers."""
        return self.recorder._value(self)

    def __reduce__(self) -> Any:
        return self.recorder._reduce_handle(self)

    @property
    def _bound(self) -> bool:
        cells = self._cells
        return cells is not None and cells.is_usable() and cells.generation == self._generation != 0

    def _bind(
        self,
        cells: Cells,
        row: int,
        column: int,
        width: int,
        generation: int,
        monotonic: bool,
        scale: bytes = b"",  # of a histogram, see shmstats.bounds.scale_of
        by: _Contributor = _NOBODY,
    ) -> None:
        self._cell = cells.at(row, column, width)
        self._scale, self._by = None, by
        if scale:
            found = _Scale(scale)
            if found.buckets != width - _BUCKETS - 1:
                raise ValueError(f"a scale of {found.buckets} buckets does not fit a histogram of {width} cells")
            self._scale = found
        self._cells, self._generation, self._monotonic = cells, generation, monotonic

    def _bind_at_once(self) -> bool:
        """Bind the handle by the `Registrar` of its recorder, to its own name, never to the overflow set.

        Returns:
            Whether it is bound. Always False in Python.
        """
        return False

    def _count(self, n: object) -> bool:
        """Add ``n`` directly, or return False if that needs the recorder."""
        if type(n) is not int or not INT64_MIN <= n <= INT64_MAX or (n < 0 and self._monotonic):
            return False
        cells = self._cells
        return cells is not None and cells.is_usable() and cells.add_at(self._cell, n, self._generation)


class Counter(Series):
    """A handle of a counter: the fastest way to count."""

    def incr(self, n: int = 1, *, exemplar: Mapping[str, Any] | None = None) -> None:
        """Add n."""
        if exemplar is not None:
            self.recorder._count_with_exemplar(self, n, exemplar=exemplar)
        elif not self._count(n):
            self.recorder._count_series(1, self, n)

    def decr(self, n: int = 1) -> None:
        """Subtract n."""
        if type(n) is not int or n > INT64_MAX or not self._count(-n):
            self.recorder._count_series(-1, self, n)


class Gauge(Series):
    """A handle of a gauge."""

    def set(self, value: int | float) -> None:
        """Set the gauge."""
        if not self._put(value):
            self.recorder._set_series(self, value)

    def incr(self, n: int | float = 1) -> None:
        """Add n."""
        if not self._move(n):
            self.recorder._count_series(1, self, n)

    def decr(self, n: int | float = 1) -> None:
        """Subtract n."""
        if not _fits_gauge(n) or not self._move(-n):
            self.recorder._count_series(-1, self, n)

    @property
    def _ours(self) -> bool:
        """Whether it may be set here: if another worker owns the contribution, the recorder must check it."""
        if not self._bound:
            return False
        owner, _, _, apart = self._by
        cells: Any = self._cells
        return not apart or cells.is_owner(self._cell, owner) or cells.is_owner(self._cell, 0)

    def _put(self, value: object) -> bool:
        if not (_is_finite(value) and self._ours):
            return False
        return self._cells.set_gauge_at(self._cell, value, self._generation, self._by)  # type: ignore[union-attr]

    def _move(self, n: object) -> bool:
        if not (_is_finite(n) and self._bound):
            return False
        cells: Any = self._cells
        return cells.add_gauge_at(self._cell, n, self._generation, self._by, 0, True)  # type: ignore[no-any-return]


class Histogram(Series):
    """A handle of a histogram."""

    def observe(self, value: int | float, /, *, exemplar: Mapping[str, Any] | None = None) -> None:
        """Add one observation."""
        if exemplar is not None:
            self.recorder._observe_with_exemplar(self, value, exemplar=exemplar)
        elif not self._observe(value):
            self.recorder._observe_series(self, value)

    def _observe(self, value: object) -> bool:
        if type(value) is int:
            plain = 0 <= value <= INT64_MAX
        else:
            plain = type(value) is float and 0 <= value <= sys.float_info.max
        if not (plain and self._bound and self._scale is not None):
            return False
        bucket = self._scale.bucket(float(value))  # type: ignore[arg-type]
        return self._cells.observe_at(self._cell, bucket, float(value), self._generation)  # type: ignore[union-attr, arg-type]


#: Most handles of label sets that are kept; beyond that all are dropped and made again.
_MOST_SETS = 10_000


class Children:
    """The handles of a metric with labels, found by the label values.

    A subclass has ``_labels``, which is called if a handle is not found.
    """

    labelnames: tuple[str, ...] = ()

    _children: dict[tuple[Any, ...] | None, Series]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._children = {}
        return self

    @classmethod
    def _own_labels(cls) -> None:
        """Have a subclass's `labels` called as quickly as that of this class: in Python it is."""

    def labels(self, /, *values: Any, **named: Any) -> Any:
        """Return the handle of one label set, the same object each time."""
        given = values
        if named and not values and len(named) == len(self.labelnames):
            given = tuple(named.get(name) for name in self.labelnames)
        return self._find_child(given) or self._labels(*values, **named)  # type: ignore[attr-defined]

    def _find_child(self, values: tuple[Any, ...]) -> Series | None:
        return self._children.get(_key_of(values))

    def _keep_child(self, values: tuple[Any, ...], handle: Series) -> None:
        _keep("handle", handle, self._children, values)

    def _drop_child(self, values: tuple[Any, ...] | None = None) -> None:
        if values is None:
            self._children.clear()
        else:
            self._children.pop(_key_of(values), None)


def _keep(what: str, handle: Series, kept: dict[Any, Series], values: tuple[Any, ...], *kind: type) -> None:
    """Keep a handle, called ``what``, under plain values, and under its kind if handles of several kinds are kept."""
    if not isinstance(handle, Series):
        raise TypeError(f"{what} must be a handle, not {type(handle).__name__}")
    key = _key_of(values, *kind)
    if len(kept) >= _MOST_SETS:
        kept.clear()
    if key is not None:
        kept[key] = handle


def _key_of(values: tuple[Any, ...], *kind: type) -> tuple[Any, ...] | None:
    """Return the key of a set, in which 1 is neither True nor "1"; None if a value is not plain: see `labels.h`."""
    if all(type(value) is str for value in values):
        return (*kind, *values)
    if all(type(value) in _PLAIN and (type(value) is not int or INT64_MIN <= value <= INT64_MAX) for value in values):
        return (*kind, *((type(value), value) for value in values))
    return None


_PLAIN = (str, int, bool, type(None))


class Stopwatch:
    """Times a block of code, and reports the duration in ms.

    A subclass has ``_enter_again`` and ``_exit_again``, which handle blocks that start while another one is timed.

    Args:
        report: a handle of a histogram, or a function that is called with the duration.
    """

    def __init__(self, report: Histogram | Callable[[float], object]) -> None:
        self._report = report
        self._others: list[Any] = []  # blocks that started while another one was timed, and still run

    #: Whether a block is timed here that started in this thread and context: never in Python.
    _first_is_here = False

    def __enter__(self) -> Any:
        return self._enter_again()  # type: ignore[attr-defined]

    def __exit__(self, *raised: object) -> None:
        self._exit_again()  # type: ignore[attr-defined]

    def _take_first(self) -> int:
        """End that block; returns its start in ns of time.monotonic_ns, 0 if there is none."""
        return 0

    def _report_since(self, start: int) -> None:
        milliseconds = (time.monotonic_ns() - start) / 1e6
        report = self._report
        (report.observe if isinstance(report, Histogram) else report)(milliseconds)


class Registrar:
    """Binds handles in common cases: finds a name, or adds it under the table lock.

    A handle finds it as the attribute ``_registrar`` of its recorder. Other cases are left to the Python
    methods of the recorder: a lock that is not free in this process; a table that is full, damaged, or needs repair or
    a larger index; no memory; and a metric whose declaration was not learned. In Python, all cases are left to them.

    Args:
        declared: the declarations of this process, by category and metric; it is kept.
        reserved: categories that must not be counted into.
        labels: label names that are reserved.
        plain: the scale of a histogram without a declaration: see `shmstats.bounds.scale_of`.
    """

    def __init__(
        self, declared: dict[tuple[str, str], Any], reserved: tuple[str, ...], labels: tuple[str, ...], plain: bytes
    ) -> None:
        _Scale(plain)

    def open(
        self, index: NameIndex, cells: Cells, row: int, limit: int, lock: Any, descriptor: int, position: int
    ) -> None:
        """Register names in a block from now on, as long as its cells are open and direct.

        Args:
            index: of its names.
            cells: of the block.
            row: of this process.
            limit: label sets that a metric may have; 0: any number.
            lock: an RLock between the threads of this process.
            descriptor: of the file of the block.
            position: of the table lock in that file.
        """

    def learn(
        self,
        revision: int,
        metric: tuple[str, str],
        mine: Any,
        family: int,
        kind: int,
        mode: int,
        by: _Contributor,
        labelnames: tuple[str, ...] | None,
        scale: bytes,
    ) -> None:
        """Remember the declaration of a metric that this process counts under.

        Args:
            revision: of the names before the declaration was read.
            metric: category and metric.
            mine: its declaration in ``declared``; None if there is none.
            family: number of the record of the metric.
            kind: of its series.
            mode: of gauges; 0 for other kinds.
            by: the contributor to gauges of that mode.
            labelnames: that each series has; None for any.
            scale: of a histogram, as ``plain``; else empty.
        """


class Recorder:
    """The calls of user code: finds the handle of a name or of a label set, and uses it.

    In C it has all calls of `shmstats.misses` and `shmstats.registry` that are used often, here the most frequent one.
    A subclass has the Python methods for everything else: one for each call, with all its arguments (``_incr`` for
    ``incr``), and for handles ``_count_series(sign, series, n)``, ``_set_series(series, value)``,
    ``_observe_series(series, value)``, ``_value(series)`` and ``_reduce_handle(series)``.
    """

    _registrar: Any = None  #: a `Registrar`, which the subclass sets

    def __init__(self) -> None:
        self._handles: dict[str, dict[str, Series]] = {}
        self._sets: dict[tuple[Any, ...] | None, Series] = {}

    def incr(self, category: str, metric: str, n: int = 1, **more: Any) -> None:
        """Add n to a counter."""
        series = self._handle(category, metric)
        if more or type(series) is not Counter or not series._count(n):
            self._incr(category, metric, n, **more)  # type: ignore[attr-defined]

    # Values are category, metric, and label names and values alternately, as given.
    def _find_set(self, kind: type[Series], values: tuple[Any, ...]) -> Series | None:
        return self._sets.get(_key_of(values, kind))

    def _keep_set(self, values: tuple[Any, ...], series: Series) -> None:
        _keep("series", series, self._sets, values, type(series))

    def _drop_sets(self) -> None:
        self._sets.clear()

    def _use_timers(self, kind: type[Stopwatch]) -> None:
        """Set the class of the result of `timer`: in Python `_timer` knows it."""
        if not (isinstance(kind, type) and issubclass(kind, Stopwatch)):
            raise TypeError("type must be a subclass of Stopwatch")

    def _handle(self, category: object, metric: object) -> Series | None:
        if type(category) is not str or type(metric) is not str:
            return None
        metrics = self._handles.get(category)
        return None if metrics is None else metrics.get(metric)

    def _keep(self, series: Series) -> None:
        if not isinstance(series, Series):
            raise TypeError(f"series must be a handle, not {type(series).__name__}")
        self._handles.setdefault(series.category, {})[series.metric] = series

    def _drop(self, category: str, metric: str | None) -> None:
        if metric is None:
            self._handles.pop(category, None)
        else:
            self._handles.get(category, {}).pop(metric, None)
