"""Reading a block: all names and values at one moment, without a lock and without a store to it.

Names are decoded once and kept while the header's revision stands still; what was only added since is
added here too. Values are sums of columns over those pages of cells that have memory behind them
(a page that has none is not even looked at: a look would allocate it).
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..series import Distribution, Kind, Name, Snapshot, Value
from .layout import CELL, CELLS_PER_PAGE, HEADER, NAME, PAGE, PROTOCOLS, Layout
from .names import DEFAULT_BOUNDS, LIVE, MONOTONIC, Record, decode_key
from .workers import WorkerTable

_INT64 = np.iinfo(np.int64)

#: A sum of rows cannot leave 64 bits while every cell is smaller than this over the number of rows.
_SAFE = 2**62

_ATTEMPTS = 5


class Usage(NamedTuple):
    """How much of something is in use.

    Attributes:
        used: of it.
        capacity: how much there is.
        bytes: of shared memory behind it.
    """

    used: int
    capacity: int
    bytes: int


class _Catalog(NamedTuple):
    """The names of one revision, and where their values are.

    Attributes:
        revision: of the header.
        seen: records looked at.
        names: the live ones.
        cells: the first column of each.
        gauges: positions of gauges and timestamps in ``names``.
        histograms: of histograms: position, first column, width.
        countable: which columns are counters, whose sum is their value.
    """

    revision: int
    seen: int
    names: list[Name]
    cells: npt.NDArray[np.intp]
    gauges: list[int]
    histograms: list[tuple[int, int, int]]
    countable: npt.NDArray[np.bool_]


class BlockReader:
    """Reads a block, be it attached for counting or for reading only.

    Args:
        buf: the block.
        layout: of the block.
    """

    def __init__(self, buf: memoryview, layout: Layout) -> None:
        self._buf = buf
        self.layout = layout
        self.workers = WorkerTable(buf, layout)
        self._header = np.frombuffer(buf, HEADER, 1)
        self._pages = np.frombuffer(buf, np.uint8, layout.rows * layout.bitmap_bytes, layout.pages)
        self._names = np.frombuffer(buf, NAME, layout.capacity, layout.names)
        self._cells = np.ndarray(
            (layout.rows, layout.row_bytes // CELL.itemsize), CELL, buf, layout.cells
        )
        self._catalog = _Catalog(-1, 0, [], np.empty(0, np.intp), [], [], np.empty(0, np.bool_))

    def close(self) -> None:
        """Let go of the buffer."""
        del self._header, self._pages, self._names, self._cells, self._buf, self.workers

    @property
    def protocol(self) -> str:
        """How the cells are locked."""
        return PROTOCOLS[self.header("protocol")]

    def header(self, field: str) -> int:
        """Return a number in the header."""
        return int(self._header[field][0])

    @property
    def uptime(self) -> float:
        """Seconds since the block was made, or adopted after a crash."""
        return (time.monotonic_ns() - self.header("started")) / 1e9

    def reserved(self) -> npt.NDArray[np.bool_]:
        """Return which pages of which rows have memory behind them: shape (rows, pages of a row)."""
        pages = self.layout.row_bytes // PAGE
        bits = np.unpackbits(self._pages.reshape(self.layout.rows, -1), axis=1, bitorder="little")
        return bits[:, :pages].astype(bool)

    def value(self, record: Record) -> Value:
        """Return the value of one name."""
        if record.kind in (Kind.GAUGE, Kind.TIMESTAMP):
            return self._gauge(record.cell)
        if record.kind is Kind.HISTOGRAM:
            return self._distribution(record.cell, record.width, self.reserved())
        return _saturated(self.total(record))

    def total(self, record: Record) -> int:
        """Return the sum of a counter's column, which may be beyond 64 bits."""
        return self._column_total(record.cell)

    def read(self, by_worker: bool = False) -> Snapshot:
        """Return every name with its value.

        Args:
            by_worker: break the values down by row as well.
        """
        for _ in range(_ATTEMPTS):
            catalog = self._current_catalog()
            reserved = self.reserved()
            values = self._values(catalog, reserved)
            workers = self._breakdown(catalog, reserved) if by_worker else {}
            if self.header("revision") == catalog.revision:
                break
        return Snapshot(catalog.names, values, workers=workers)

    def usage(self) -> dict[str, Usage]:
        """Return how much of the block's parts is in use."""
        layout = self.layout
        names, removed = self.header("names"), self.header("removed")
        pages = int(self.reserved().sum())
        live = {worker.row for worker in self.workers.live()}
        heap = self.header("heap")
        return {
            "names": Usage(names - removed, layout.capacity, _whole_pages(names * NAME.itemsize)),
            "cells": Usage(self.header("cells"), layout.capacity, pages * PAGE),
            "heap": Usage(heap, layout.heap_bytes, _whole_pages(heap)),
            "rows": Usage(len(live), layout.max_workers, layout.row_bytes),
        }

    def _current_catalog(self) -> _Catalog:
        catalog = self._catalog
        revision, count = self.header("revision"), self.header("names")
        if catalog.revision != revision or catalog.seen != count:
            catalog = self._catalog = self._make_catalog(revision, count)
        return catalog

    def _make_catalog(self, revision: int, count: int) -> _Catalog:
        records = self._names[:count]
        live = np.flatnonzero(records["state"] == LIVE)
        records = records[live]
        names = [
            self._decode(*fields)
            for fields in zip(
                records["key"].tolist(),
                records["length"].tolist(),
                records["kind"].tolist(),
                records["flags"].tolist(),
                strict=True,
            )
        ]
        cells, kinds = records["cell"].astype(np.intp), records["kind"]
        gauges = np.flatnonzero((kinds == Kind.GAUGE) | (kinds == Kind.TIMESTAMP)).tolist()
        histograms = [
            (position, int(cells[position]), int(records["width"][position]))
            for position in np.flatnonzero(kinds == Kind.HISTOGRAM).tolist()
        ]
        countable = np.zeros(self.layout.row_bytes // CELL.itemsize, np.bool_)
        countable[cells[kinds == Kind.COUNTER]] = True
        return _Catalog(revision, count, names, cells, gauges, histograms, countable)

    def _decode(self, key: int, length: int, kind: int, flags: int) -> Name:
        start = self.layout.heap + key
        category, metric, labels = decode_key(bytes(self._buf[start : start + length]))
        bounds = DEFAULT_BOUNDS if kind == Kind.HISTOGRAM else ()
        return Name(category, metric, Kind(kind), labels, bool(flags & MONOTONIC), bounds)

    def _values(self, catalog: _Catalog, reserved: npt.NDArray[np.bool_]) -> list[Value]:
        values: list[Any] = self._sums(catalog, reserved)[catalog.cells].tolist()
        for position in catalog.gauges:
            values[position] = self._gauge(int(catalog.cells[position]))
        for position, cell, width in catalog.histograms:
            values[position] = self._distribution(cell, width, reserved)
        return values

    def _sums(self, catalog: _Catalog, reserved: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Return the sums of all columns over all rows, saturated: shape (columns in whole pages,).

        What stands for a column that is no counter means nothing.
        """
        pages = -(-self.header("cells") // CELLS_PER_PAGE)
        cells = self._cells["value"]
        total = np.zeros(pages * CELLS_PER_PAGE, np.int64)
        large = np.zeros(pages * CELLS_PER_PAGE, np.bool_)
        limit = _SAFE // self.layout.rows
        for row in np.flatnonzero(reserved.any(axis=1)).tolist():
            for first, last in _runs(reserved[row, :pages]):
                part = slice(first * CELLS_PER_PAGE, last * CELLS_PER_PAGE)
                values = cells[row, part]
                if values.max() >= limit or values.min() <= -limit:
                    large[part] |= (values >= limit) | (values <= -limit)
                total[part] += values
        for column in np.flatnonzero(large & catalog.countable[: len(large)]).tolist():
            total[column] = _saturated(self._column_total(column))
        return total

    def _column_total(self, column: int) -> int:
        rows = np.flatnonzero(self.reserved()[:, column // CELLS_PER_PAGE])
        return sum(self._cells["value"][rows, column].tolist())

    def _distribution(
        self, cell: int, width: int, reserved: npt.NDArray[np.bool_], row: int | None = None
    ) -> Distribution:
        """Return a histogram's value over all rows, or in one."""
        last = (cell + width - 1) // CELLS_PER_PAGE
        rows = np.flatnonzero(reserved[:, cell // CELLS_PER_PAGE : last + 1].all(axis=1))
        if row is not None:
            rows = rows[rows == row]
        parts = [self._row_distribution(each, cell, width) for each in rows.tolist()]
        buckets = [sum(column) for column in zip(*(part[2:] for part in parts), strict=True)]
        sums = sum(part[:1].view(np.float64)[0] for part in parts)
        maximum = max((part[1:2].view(np.float64)[0] for part in parts), default=0.0)
        return Distribution(float(sums), float(maximum), tuple(int(n) for n in buckets) or (0,) * (width - 2))

    def _row_distribution(self, row: int, cell: int, width: int) -> npt.NDArray[np.int64]:
        """Return a consistent copy of a histogram's cells in one row.

        A writer that was killed in the middle leaves the sequence number odd until someone writes again;
        what it left is off by its one observation, so it is taken after a while.
        """
        cells = self._cells[row, cell : cell + width]
        for _ in range(_ATTEMPTS * 20):
            before = int(cells["seq"][0])
            copy = cells["value"].copy()
            if before % 2 == 0 and int(cells["seq"][0]) == before:
                break
        return copy

    def _gauge(self, cell: int, row: int = 0) -> int | float:
        if self._cells["seq"][row, cell] & 1:
            return float(self._cells["value"][row, cell + 1 : cell + 2].view(np.float64)[0])
        return int(self._cells["value"][row, cell])

    def _breakdown(
        self, catalog: _Catalog, reserved: npt.NDArray[np.bool_]
    ) -> dict[int, list[Value | None]]:
        return {
            row: [
                self._in_row(row, cell, name, reserved)
                for name, cell in zip(catalog.names, catalog.cells.tolist(), strict=True)
            ]
            for row in np.flatnonzero(reserved.any(axis=1)).tolist()
        }

    def _in_row(self, row: int, cell: int, name: Name, reserved: npt.NDArray[np.bool_]) -> Value | None:
        """Return what one row holds of a name; None for nothing."""
        if not reserved[row, cell // CELLS_PER_PAGE]:
            return None
        if name.kind in (Kind.GAUGE, Kind.TIMESTAMP):
            return self._gauge(cell) if row == 0 else None
        if name.kind is Kind.HISTOGRAM:
            distribution = self._distribution(cell, len(name.bounds) + 3, reserved, row)
            return distribution if any(distribution.buckets) else None
        return int(self._cells["value"][row, cell]) or None


def _saturated(value: int) -> int:
    return min(max(value, int(_INT64.min)), int(_INT64.max))


def _whole_pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return where the runs of True begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
