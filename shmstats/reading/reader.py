"""Reading a block: all names and values at one moment, without a lock and without a store to it.

Names are decoded once and kept while the header's revision stands still; what was only added since is
added here too. Values are sums of columns over those pages of cells that have memory behind them
(a page that has none is not even looked at: a look would allocate it).

A gauge of which each worker has its own is the sum, smallest, ... of the contributions in the workers'
rows. The sum is always there; the others stand behind all other names, and only while they have a
contribution. Of mode *all* each contribution is a series of its own, with the label ``pid``.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..block.declarations import decode_definition
from ..block.errors import DamagedBlockError
from ..block.header import Header, read_header
from ..block.identity import identify
from ..block.layout import HEADER, NAME, PROTOCOLS, Layout
from ..block.names import DEFAULT_BOUNDS, FAMILY, LIVE, MONOTONIC, Record, read_note
from ..block.segment import ReadOnlySegment
from ..block.validate import check_layout
from ..block.workers import Worker, WorkerTable
from ..core import fence, sum_columns
from ..interruption import came_from_handler
from ..layout import CELL, CELLS_PER_PAGE, COUNTER_WIDTH, INT64_MAX, INT64_MIN, PAGE
from ..series import Declaration, Distribution, Kind, Mode, Name, Snapshot, Value
from .requests import Served, read_requests

if TYPE_CHECKING:
    import numpy.typing as npt

#: A sum of rows cannot leave 64 bits while every cell is smaller than this over the number of rows.
_SAFE = 2**62

_ATTEMPTS = 5

_NOTHING_DECLARED = Declaration(Kind.COUNTER)

_KINDS = {int(kind): kind for kind in Kind}
_MODES = {int(mode): mode for mode in Mode}


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


class Contribution(NamedTuple):
    """What one worker has of a gauge.

    Attributes:
        row: that it is in.
        value: of it.
        signature: of the worker, see `shmstats.block.workers.Worker`.
        moment: when it was made, CLOCK_MONOTONIC in ns, where the mode asks for that.
    """

    row: int
    value: int | float
    signature: int
    moment: int


class _Catalog(NamedTuple):
    """The names of one revision, and where their values are.

    Attributes:
        revision: of the header.
        seen: records looked at.
        names: the live ones, but for those in ``combined``.
        cells: the first column of each.
        gauges: positions of gauges that all share, and of timestamps, in ``names``.
        sums: positions of gauges that are sums of contributions.
        histograms: of histograms: position, first column, width; by width.
        combined: of gauges that are something else of contributions: name, first column.
    """

    revision: int
    seen: int
    names: list[Name]
    cells: npt.NDArray[np.intp]
    gauges: list[int]
    sums: list[int]
    histograms: dict[int, list[tuple[int, int, int]]]
    combined: list[tuple[Name, int]]


def _empty_catalog(revision: int) -> _Catalog:
    return _Catalog(revision, 0, [], np.empty(0, np.intp), [], [], {}, [])


class BlockReader:
    """Reads a block, be it attached for counting or for reading only.

    Args:
        buf: the block.
        layout: of the block.
        workers: its worker slots.
    """

    def __init__(self, buf: memoryview, layout: Layout, workers: WorkerTable) -> None:
        self._buf = buf
        self.layout = layout
        self.workers = workers
        self._header = np.frombuffer(buf, HEADER, 1)
        self._pages = np.frombuffer(buf, np.uint8, layout.rows * layout.bitmap_bytes, layout.pages)
        self._names = np.frombuffer(buf, NAME, layout.capacity, layout.names)
        self._cells = np.ndarray((layout.rows, layout.row_bytes // CELL.itemsize), CELL, buf, layout.cells)
        self._catalog = _empty_catalog(-1)
        self._declarations: dict[int, Declaration | None] = {}
        self._shown: tuple[list[Name], list[Name], list[Name]] = ([], [], [])

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

    def open_header(self) -> Header:
        """Return the fields of the header, to be closed by the caller."""
        return Header(self._buf)

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
        """Return the value of one name; of a gauge of mode *all* the sum."""
        if record.kind is Kind.HISTOGRAM:
            return self._distribution(record.cell, record.width, self.reserved())
        if record.shared:
            return self._gauge(record.cell)
        if record.kind is Kind.GAUGE:
            return self._combine(record.mode, self.contributions(record))
        return _saturated(self.total(record))

    def total(self, record: Record) -> int:
        """Return the sum of a counter's column, which may be beyond 64 bits."""
        return self._column_total(record.cell)

    def distribution_in_row(self, record: Record, row: int) -> Distribution:
        """Return what one row has of a histogram."""
        return self._distribution(record.cell, record.width, self.reserved(), row)

    def contributions(self, record: Record) -> list[Contribution]:
        """Return what the workers have of a gauge of which each has its own; of a live one, the living."""
        live = self._signatures() if record.mode.live else None
        return self._contributions(record.cell, self.reserved(), live)

    def declaration(self, family: int) -> Declaration | None:
        """Return what is declared about a metric, by the number of its family; None for nothing.

        What was read once is kept until `read` finds that names have changed.
        """
        if family < 0:
            return None
        declarations = self._declarations  # another thread, which reads too, may begin a new one meanwhile
        if family not in declarations:
            record = self._names[family]
            note = self._note(int(record["note"]), int(record["note_room"]))
            declarations[family] = decode_definition(note).declared if note else None
        return declarations[family]

    def notes(self, category: str) -> list[tuple[Name, bytes]]:
        """Return the names of a category that have a note, with it; a family's is what is declared."""
        records = self._names[: self.header("names")]
        noted = np.flatnonzero(
            (records["state"] == LIVE)
            & (records["note_room"] > 0)
            & (records["flags"] & FAMILY == 0)
            & (records["declaration"] == 0)
        )
        found = []
        for name, record in zip(self._decoded(records[noted]), records[noted], strict=True):
            note = self._note(int(record["note"]), int(record["note_room"]))
            if name.category == category and note:
                found.append((name, note))
        return found

    def read(self, by_worker: bool = False) -> Snapshot:
        """Return every name with its value.

        Args:
            by_worker: break the values down by row as well.

        Raises:
            DamagedBlockError: the names are not what they can be.
        """
        torn = damage = None
        for _ in range(_ATTEMPTS):
            try:
                snapshot, revision = self._read(by_worker)
            except (LookupError, ValueError) as error:
                if came_from_handler(error):
                    raise
                # Of a name that was changed just now, or of one that is damaged: the next attempt tells.
                damage, self._catalog = error, _empty_catalog(-1)
            else:
                if self.header("revision") == revision:
                    return snapshot
                torn = snapshot
        if torn is None:
            raise DamagedBlockError(f"the names of the block are damaged: {damage!r}") from damage
        return _each_once(torn)

    def _read(self, by_worker: bool) -> tuple[Snapshot, int]:
        """Return every name with its value, and the revision at which the names were read."""
        catalog = self._current_catalog()
        reserved = self.reserved()
        values = self._values(catalog, reserved)
        workers = self._breakdown(catalog, reserved) if by_worker else {}
        names = self._with_combined(catalog, reserved, values, workers)
        return Snapshot(names, values, workers=workers), catalog.revision

    def served(self, workers: Iterable[Worker]) -> list[Served]:
        """Return what each of some workers serves at the moment, without their help."""
        return read_requests(self._buf, self.layout, workers)

    def usage(self) -> dict[str, Usage]:
        """Return how much of the block's parts is in use."""
        layout = self.layout
        names, removed = self.header("names"), self.header("removed")
        pages = int(self.reserved().sum())
        live = {worker.row for worker in self.workers.live()}
        heap = self.header("heap")
        return {
            "names": Usage(names - removed, layout.capacity, _whole_pages(names * NAME.itemsize)),
            "cells": Usage(-(-self.header("cells") // COUNTER_WIDTH), layout.capacity, pages * PAGE),
            "heap": Usage(heap, layout.heap_bytes, _whole_pages(heap)),
            "rows": Usage(len(live), layout.max_workers, layout.row_bytes),
        }

    def _current_catalog(self) -> _Catalog:
        catalog = self._catalog
        revision, count = self.header("revision"), self.header("names")
        if catalog.revision != revision:
            self._declarations = {}
            catalog = _empty_catalog(revision)
        if catalog.seen != count:
            catalog = self._extended(catalog, count)
        self._catalog = catalog
        return catalog

    def _extended(self, catalog: _Catalog, count: int) -> _Catalog:
        """Return a catalog with the records up to ``count`` added."""
        first = len(catalog.names)
        records = self._names[catalog.seen : count]
        shown = (records["state"] == LIVE) & (records["flags"] & FAMILY == 0) & (records["declaration"] == 0)
        records = records[shown]
        is_combined = (records["mode"] != Mode.LAST) & (records["mode"] & 7 != Mode.SUM)
        aside, records = records[is_combined], records[~is_combined]
        combined = list(zip(self._decoded(aside), aside["cell"].tolist(), strict=True))
        names = self._decoded(records)
        cells, kinds, modes = records["cell"].astype(np.intp), records["kind"], records["mode"]
        shared = (kinds == Kind.TIMESTAMP) | (kinds == Kind.GAUGE) & (modes == Mode.LAST)
        histograms = {width: list(found) for width, found in catalog.histograms.items()}
        for position in np.flatnonzero(kinds == Kind.HISTOGRAM).tolist():
            width = int(records["width"][position])
            histograms.setdefault(width, []).append((first + position, int(cells[position]), width))
        return _Catalog(
            revision=catalog.revision,
            seen=count,
            names=[*catalog.names, *names],
            cells=np.concatenate((catalog.cells, cells)),
            gauges=catalog.gauges + (np.flatnonzero(shared) + first).tolist(),
            sums=catalog.sums + (np.flatnonzero(modes != Mode.LAST) + first).tolist(),
            histograms=histograms,
            combined=catalog.combined + combined,
        )

    def _decoded(self, records: npt.NDArray[Any]) -> list[Name]:
        """Return the names of records."""
        if not len(records):
            return []
        heap = bytes(self._buf[self.layout.heap : self.layout.heap + int((records["key"] + records["room"]).max())])
        columns = (records[field].tolist() for field in ("key", "length", "kind", "flags", "mode", "family", "created"))
        names = []
        for key, length, kind, flags, mode, family, created in zip(*columns, strict=True):
            category, metric, *rest = heap[key : key + length].decode().split("\0")
            labels = tuple(zip(rest[::2], rest[1::2], strict=True)) if rest else ()
            if family:
                declared = self.declaration(family - 1) or _NOTHING_DECLARED
                help_, unit, bounds = declared.help, declared.unit, declared.bounds
            else:
                help_ = unit = ""
                bounds = ()
            if kind == Kind.HISTOGRAM:
                bounds = bounds or DEFAULT_BOUNDS
            monotonic = flags & MONOTONIC == MONOTONIC
            what = _KINDS[kind], labels, monotonic, bounds, help_, unit, _MODES[mode], created
            names.append(Name(category, metric, *what))
        return names

    def _note(self, note: int, room: int) -> bytes:
        start = self.layout.heap + note
        return read_note(bytes(self._buf[start : start + room]))

    def _values(self, catalog: _Catalog, reserved: npt.NDArray[np.bool_]) -> list[Value]:
        values: list[Any] = self._sums()[catalog.cells + 1].tolist()
        for position in catalog.gauges:
            values[position] = self._gauge(int(catalog.cells[position]))
        for histograms in catalog.histograms.values():
            for position, distribution in self._distributions(histograms, reserved):
                values[position] = distribution
        if catalog.sums:
            live = self._signatures()
            totals = self._gauge_sums(catalog, reserved, live)
            for position, total in zip(catalog.sums, totals, strict=True):
                values[position] = total
        return values

    def _gauge_sums(self, catalog: _Catalog, reserved: npt.NDArray[np.bool_], live: set[int]) -> list[int | float]:
        """Return the sums of contributions: an int where all of them are."""
        columns = catalog.cells[catalog.sums]
        of_live = np.array([catalog.names[position].mode.live for position in catalog.sums], np.bool_)
        living = np.array(sorted(live), np.int64)
        integers = np.zeros(len(columns), np.int64)
        reals = np.zeros(len(columns), np.float64)
        is_real = np.zeros(len(columns), np.bool_)
        large: set[int] = set()
        for row in np.flatnonzero(reserved.any(axis=1)).tolist():
            first, last = columns // CELLS_PER_PAGE, (columns + 4) // CELLS_PER_PAGE
            here = np.flatnonzero(reserved[row, first] & reserved[row, last])
            cells, at = self._cells[row], columns[here]
            signatures = cells["value"][at + 3]
            counts = (signatures != 0) & (~of_live[here] | np.isin(signatures, living))
            here, at = here[counts], at[counts]
            real = cells["seq"][at] & 1 != 0
            whole = cells["value"][at + 1]
            limit = _SAFE // self.layout.rows
            large.update(here[~real & ((whole >= limit) | (whole <= -limit))].tolist())
            is_real[here[real]] = True
            with np.errstate(over="ignore", invalid="ignore"):
                reals[here] += np.where(real, cells["value"][at + 2].view(np.float64), whole)
            integers[here] += np.where(real, 0, whole)
        totals: list[int | float] = np.where(is_real, 0, integers).tolist()
        for i in np.flatnonzero(is_real).tolist():
            totals[i] = float(reals[i])
            if not math.isfinite(reals[i]):
                large.add(i)
        for i in large:
            name = catalog.names[catalog.sums[i]]
            found = self._contributions(int(columns[i]), reserved, live if name.mode.live else None)
            totals[i] = self._combine(Mode.SUM, found)
        return totals

    def _with_combined(
        self,
        catalog: _Catalog,
        reserved: npt.NDArray[np.bool_],
        values: list[Value],
        workers: dict[int, list[Value | None]],
    ) -> list[Name]:
        """Add the gauges that are combined of contributions; returns the names with theirs.

        The same list as the last time, if it holds the same names.
        """
        if not catalog.combined:
            return catalog.names
        live = self._signatures()
        names: list[Name] = []
        shares: list[dict[int, int | float]] = []  # of each name, by row
        for name, cell in catalog.combined:
            found = self._contributions(cell, reserved, live if name.mode.live else None)
            if name.mode.base is Mode.ALL:
                for pid, only in _by_process(found):
                    names.append(name._replace(labels=(*name.labels, ("pid", str(pid)))))
                    values.append(only.value)
                    shares.append({only.row: only.value})
            elif found:
                names.append(name)
                values.append(self._combine(name.mode, found))
                shares.append({each.row: each.value for each in found})
        for row, column in workers.items():
            column.extend(share.get(row) for share in shares)
        static, combined, both = self._shown
        if static is not catalog.names or combined != names:
            both = [*catalog.names, *names]
            self._shown = catalog.names, names, both
        return both

    def _contributions(self, cell: int, reserved: npt.NDArray[np.bool_], live: set[int] | None) -> list[Contribution]:
        """Return the contributions to a gauge, in the order of rows; of those in ``live`` if it is given."""
        rows = np.flatnonzero(reserved[:, cell // CELLS_PER_PAGE])
        found = (self._contribution(row, cell, reserved, live) for row in rows.tolist())
        return [contribution for contribution in found if contribution is not None]

    def _contribution(
        self, row: int, cell: int, reserved: npt.NDArray[np.bool_], live: set[int] | None
    ) -> Contribution | None:
        """Return the contribution that is in a row, which has memory behind the first cell; None for none."""
        if not reserved[row, (cell + 4) // CELLS_PER_PAGE]:
            return None
        signature = int(self._cells["value"][row, cell + 3])
        if not signature or (live is not None and signature not in live):
            return None
        moment = int(self._cells["value"][row, cell + 4])
        return Contribution(row, self._gauge(cell, row), signature, moment)

    def _combine(self, mode: Mode, contributions: list[Contribution]) -> int | float:
        """Return what contributions make by a mode; 0 for none, of mode *all* the sum."""
        if not contributions:
            return 0
        base = mode.base
        values = [contribution.value for contribution in contributions]
        if base in (Mode.MIN, Mode.MAX) and any(map(math.isnan, values)):
            return math.nan  # a worker cannot tell: the others alone would look as if all were well
        if base is Mode.MIN:
            return min(values)
        if base is Mode.MAX:
            return max(values)
        if base is Mode.MOSTRECENT:
            return max(contributions, key=lambda each: each.moment).value
        total = sum(values)
        if isinstance(total, int):
            return _saturated(total)
        if math.isinf(total) and all(map(math.isfinite, values)):
            return math.copysign(sys.float_info.max, total)
        return total

    def _signatures(self) -> set[int]:
        """Return how the living workers sign."""
        return {worker.signature for worker in self.workers.live()}

    def _sums(self) -> npt.NDArray[np.int64]:
        """Return the sums of all columns in use over all rows, saturated.

        What stands for a column that is no counter's value means nothing.
        """
        layout = self.layout
        columns = min(self.header("cells"), layout.columns)
        sums = sum_columns(
            *(self._buf, layout.cells, layout.row_bytes, layout.rows, layout.pages, layout.bitmap_bytes, columns)
        )
        return np.frombuffer(sums, np.int64)

    def _column_total(self, column: int) -> int:
        rows = np.flatnonzero(self.reserved()[:, (column + 1) // CELLS_PER_PAGE])
        return sum(self._cells["value"][rows, column + 1].tolist())

    def _distributions(
        self, histograms: list[tuple[int, int, int]], reserved: npt.NDArray[np.bool_]
    ) -> list[tuple[int, Distribution]]:
        """Return positions and values of histograms, all of one width, over all rows."""
        positions, firsts, widths = zip(*histograms, strict=True)
        cells, width = np.array(firsts), widths[0]
        pages = cells // CELLS_PER_PAGE, (cells + width - 1) // CELLS_PER_PAGE
        columns = cells[:, None] + np.arange(1, width)
        sums, maxima = np.zeros(len(cells)), np.zeros(len(cells))
        buckets = np.zeros((len(cells), width - 3), np.int64)
        large = np.zeros(len(cells), np.bool_)
        for row in np.flatnonzero(reserved.any(axis=1)).tolist():
            here = np.flatnonzero(reserved[row, pages[0]] & reserved[row, pages[1]])
            before = self._cells["seq"][row, cells[here]]
            fence()
            parts = self._cells["value"][row, columns[here]]
            fence()
            torn = (before & 1 != 0) | (before != self._cells["seq"][row, cells[here]])
            for i in np.flatnonzero(torn).tolist():
                parts[i] = self._row_distribution(row, int(cells[here[i]]), width)
            doubles = parts.view(np.float64)
            with np.errstate(over="ignore"):  # what goes beyond the largest float is cut below
                sums[here] += doubles[:, 0]
            maxima[here] = np.maximum(maxima[here], doubles[:, 1])
            buckets[here] += parts[:, 2:]
            large[here] |= (parts[:, 2:] >= _SAFE // self.layout.rows).any(axis=1)
        sums = np.clip(sums, -sys.float_info.max, sys.float_info.max)
        # Only a block that is damaged has less than no observations, or what is no number: nobody is to stumble.
        np.maximum(buckets, 0, out=buckets)
        sums, maxima = np.nan_to_num(sums), np.nan_to_num(maxima)
        values = map(_distribution, sums.tolist(), maxima.tolist(), buckets.tolist())
        found = list(zip(positions, values, strict=True))
        for i in np.flatnonzero(large).tolist():
            found[i] = positions[i], self._distribution(firsts[i], width, reserved)
        return found

    def _distribution(
        self, cell: int, width: int, reserved: npt.NDArray[np.bool_], row: int | None = None
    ) -> Distribution:
        """Return a histogram's value over all rows, or in one."""
        last = (cell + width - 1) // CELLS_PER_PAGE
        rows = np.flatnonzero(reserved[:, cell // CELLS_PER_PAGE : last + 1].all(axis=1))
        if row is not None:
            rows = rows[rows == row]
        parts = [self._row_distribution(each, cell, width) for each in rows.tolist()]
        buckets = [max(sum(column), 0) for column in zip(*(part[2:].tolist() for part in parts), strict=True)]
        figures = np.array([part[:2] for part in parts], np.int64).reshape(-1, 2).view(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            total, maximum = np.nan_to_num((figures[:, 0].sum(), figures[:, 1].max(initial=0.0))).tolist()
        return _distribution(total, maximum, buckets or [0] * (width - 3))

    def _row_distribution(self, row: int, cell: int, width: int) -> npt.NDArray[np.int64]:
        """Return a consistent copy of a histogram's values in one row.

        A writer that was killed in the middle leaves the sequence number odd until someone writes again;
        what it left is off by its one observation, so it is taken after a while.
        """
        for _ in range(_ATTEMPTS * 20):
            before = int(self._cells["seq"][row, cell])
            fence()
            copy = self._cells["value"][row, cell + 1 : cell + width].copy()
            fence()
            if before % 2 == 0 and int(self._cells["seq"][row, cell]) == before:
                break
        return copy

    def _gauge(self, cell: int, row: int = 0) -> int | float:
        if self._cells["seq"][row, cell] & 1:
            return float(self._cells["value"][row, cell + 2 : cell + 3].view(np.float64)[0])
        return int(self._cells["value"][row, cell + 1])

    def _breakdown(self, catalog: _Catalog, reserved: npt.NDArray[np.bool_]) -> dict[int, list[Value | None]]:
        live = self._signatures()
        return {
            row: [
                self._in_row(row, cell, name, reserved, live)
                for name, cell in zip(catalog.names, catalog.cells.tolist(), strict=True)
            ]
            for row in np.flatnonzero(reserved.any(axis=1)).tolist()
        }

    def _in_row(self, row: int, cell: int, name: Name, reserved: npt.NDArray[np.bool_], live: set[int]) -> Value | None:
        """Return what one row holds of a name; None for nothing."""
        if not reserved[row, cell // CELLS_PER_PAGE] or not reserved[row, (cell + 1) // CELLS_PER_PAGE]:
            return None
        if name.mode is not Mode.LAST:
            found = self._contribution(row, cell, reserved, live if name.mode.live else None)
            return None if found is None else found.value
        if name.kind in (Kind.GAUGE, Kind.TIMESTAMP):
            return self._gauge(cell) if row == 0 else None
        if name.kind is Kind.HISTOGRAM:
            distribution = self._distribution(cell, len(name.bounds) + 4, reserved, row)
            return distribution if any(distribution.buckets) else None
        return int(self._cells["value"][row, cell + 1]) or None


@contextmanager
def read_only(directory: Path) -> Iterator[BlockReader]:
    """Give a reader of the live block of a data directory, without attaching as a worker.

    Raises:
        FileNotFoundError: there is no block, or it is just being made.
        BlockError: there is one that must not be used, or this user may not read it.
    """
    identity = identify(directory)
    identity.check_user()
    with ReadOnlySegment(identity) as segment:
        header = read_header(segment.buf)
        if header["magic"] == 0:
            raise FileNotFoundError(f"block {identity.name} is not finished yet")
        layout = check_layout(identity.name, header, len(segment.buf))
        reader = BlockReader(segment.buf, layout, WorkerTable(segment.buf, layout, segment.locks))
        try:
            yield reader
        finally:
            reader.close()


def _by_process(contributions: list[Contribution]) -> list[tuple[int, Contribution]]:
    """Return pid and contribution of each process; of a pid that was given out again the last one."""
    return list({each.signature >> 32: each for each in contributions}.items())


def _distribution(total: float, maximum: float, buckets: list[int]) -> Distribution:
    return Distribution(total, maximum, tuple(buckets))


def _each_once(snapshot: Snapshot) -> Snapshot:
    """Return what was read while names went and came with each name once: the last of them."""
    last = {(name.category, name.metric, name.labels): i for i, name in enumerate(snapshot.names)}
    kept = sorted(last.values())
    return Snapshot(
        [snapshot.names[i] for i in kept],
        [snapshot.values[i] for i in kept],
        workers={row: [column[i] for i in kept] for row, column in snapshot.workers.items()},
    )


def _saturated(value: int) -> int:
    return min(max(value, INT64_MIN), INT64_MAX)


def _whole_pages(size: int) -> int:
    return -(-size // PAGE) * PAGE
