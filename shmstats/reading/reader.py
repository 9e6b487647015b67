"""Reading a block: all names and values at one moment, without a lock and without writing to it.

Values are sums of columns, see `shmstats.reading.columns`. A gauge with a value for each worker is the sum,
smallest, ... of the workers' contributions. The sums are always there; the others come after all other names, and only
while they have a contribution. In mode *all* each contribution is a series, with the label ``pid``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..block.errors import DamagedBlockError
from ..block.header import Header, read_header
from ..block.identity import identify
from ..block.layout import PROTOCOLS, Layout
from ..block.records import Record
from ..block.segment import opened_to_read
from ..block.stripes import SHARED_ROW
from ..block.validate import check_layout, find_damage
from ..block.workers import Worker, WorkerTable
from ..core import bulk
from ..exemplars import read_exemplars
from ..frozen import NamedTuple
from ..layout import BEFORE_BUCKETS, COUNTER_WIDTH, NAME, PAGE, saturated
from ..once import Lately
from ..series import FOREIGN, Exemplar, Kind, Mode, Name, Snapshot, Value
from .catalog import Catalog, NameReader
from .columns import Columns
from .gauges import GAUGE_CELLS, Combined, Contribution, Gauges, combine
from .histograms import Histograms
from .requests import Served, read_requests
from .totals import BlockNames, BlockSnapshot, BlockValues, Totals

_ATTEMPTS = 5


class Usage(NamedTuple):
    """How much of a part of the block is in use.

    Attributes:
        used: number in use.
        capacity: largest possible number.
        bytes: shared memory reserved for it.
    """

    used: int
    capacity: int
    bytes: int


class BlockReader:
    """Reads a block that is attached for counting, or only for reading.

    Args:
        buf: the block.
        layout: of the block.
        workers: its worker slots.

    Attributes:
        header: of the block.
        columns: the cells of the block.
        gauges: those combined from contributions.
        histograms: of the block.
    """

    def __init__(self, buf: memoryview, layout: Layout, workers: WorkerTable) -> None:
        self._buf = buf
        self.layout = layout
        self.workers = workers
        self.header = Header(buf)
        self._names = NameReader(buf, layout)
        self.columns = Columns(buf, layout)
        self.gauges = Gauges(self.columns)
        self.histograms = Histograms(self.columns)
        self._living = Lately(self._live_of)
        self._shown: BlockNames | None = None

    def close(self) -> None:
        """Release the buffer."""
        self._names.close()
        self.columns.close()
        del self.header, self._buf, self.workers

    @property
    def protocol(self) -> str:
        """The protocol of the cells' locks."""
        return PROTOCOLS[self.header.number("protocol")]

    @property
    def uptime(self) -> float:
        """Seconds since the block was created, or adopted after a crash."""
        return (time.monotonic_ns() - self.header.started) / 1e9

    def value(self, record: Record) -> Value:
        """Return the value of one name; for a gauge of mode *all* the sum."""
        if record.kind is Kind.HISTOGRAM:
            return self.histograms.one(record.cell, record.width)
        if record.kind is Kind.TIMESTAMP:
            return self.columns.moment(record.cell)
        if record.shared:
            return self.columns.gauge(record.cell)
        if record.kind is Kind.GAUGE:
            return combine(record.mode, self.contributions(record))
        return saturated(self.total(record))

    def total(self, record: Record) -> int:
        """Return the sum of a counter's column, which may be beyond 64 bits."""
        return self.columns.total(record.cell + 1)

    def contributions(self, record: Record) -> list[Contribution]:
        """Return the workers' values of a gauge with a value for each worker; in a live mode of living workers."""
        live = self._signatures() if record.mode.live else None
        return self.gauges.contributions(record.cell, live)

    def notes(self, category: str) -> list[tuple[Name, bytes]]:
        """Return the names of a category that have a note, with it; the note of a family is its declaration."""
        return self._names.notes(category, *self.header.numbers("revision", "names", "heap"))

    def read(self, by_worker: bool = False) -> Snapshot:
        """Return every name with its value.

        Args:
            by_worker: whether to break the values down by row.

        Raises:
            DamagedBlockError: the names are invalid.
        """
        torn = damage = None
        for _ in range(_ATTEMPTS):
            # In this order: the key and the cells of a visible name then exist.
            numbers = self.header.numbers("revision", "names", "heap", "cells")
            try:
                snapshot = self._read(by_worker, *numbers)
            except (LookupError, ValueError, BufferError, DamagedBlockError) as error:
                is_ours = isinstance(error, (BufferError, DamagedBlockError)) or self.header.revision != numbers[0]
                if not is_ours and not find_damage(self._buf, self.layout):
                    raise  # raised by a signal handler
                # A name was changed during the read, or is damaged: the next attempt shows which.
                damage = error
                self._names.forget()
            else:
                if self.header.revision == numbers[0]:
                    return snapshot
                torn = self._what_stood_still(snapshot)
        if torn is None:
            found = find_damage(self._buf, self.layout) or repr(damage)
            raise DamagedBlockError(f"the names of the block are damaged: {found}") from damage
        return torn

    def _what_stood_still(self, read: BlockSnapshot) -> Snapshot:
        """Return the part of a read whose names have not changed: other cells may belong to another name by now."""
        catalog = read.names.catalog
        kept = [at for at, number in enumerate(catalog.numbers) if self._names.unchanged(catalog, number)]
        if all(self._names.unchanged(catalog, number) for number in catalog.aside):
            kept += range(len(catalog.numbers), len(read.names))
        return Snapshot(
            [read.names[i] for i in kept],
            [read.values[i] for i in kept],
            workers={row: [column[i] for i in kept] for row, column in read.workers.items()},
        )

    def _read(self, by_worker: bool, revision: int, names: int, heap: int, cells: int) -> BlockSnapshot:
        """Return every name with its value, as of a revision of the names; the other numbers are what is in use."""
        catalog = self._names.catalog(revision, names, heap, cells)
        merged = self.columns.merged(cells, catalog.spans)
        if bulk is None:
            self.histograms.merge(catalog.spans, merged)
        totals = Totals(catalog, merged)
        combined = Combined([], [], [])
        if catalog.sums or catalog.aside or by_worker:
            living = self._signatures()
            of_live = catalog.modes_are_live(catalog.sums)
            totals.set_gauges(catalog.sums, self.gauges.sums(totals.cells_of(catalog.sums), of_live, living))
            combined = self.gauges.combined(catalog.combined, living)
        workers: dict[int, list[Value | None]] = {}
        if by_worker:
            places = list(zip(catalog.names, catalog.cells, strict=True))
            workers = {
                row: [self._in_row(row, cell, name, living) for name, cell in places]
                for row in self.columns.rows_in_use()
            }
            for row, column in workers.items():
                column.extend(share.get(row) for share in combined.shares)
        return BlockSnapshot(
            self._names_shown(catalog, combined.names),
            BlockValues(totals, combined.values),
            workers=workers,
            exemplars=_exemplars(self._names.notes(None, revision, names, heap)),
        )

    def _in_row(self, row: int, cell: int, name: Name, living: set[int]) -> Value | None:
        """Return the value of a series in a row; None if it has none there."""
        columns = self.columns
        if not columns.has(row, cell, 2 if name.mode is Mode.LAST else GAUGE_CELLS):
            return None
        if name.mode is not Mode.LAST:
            found = self.gauges.contribution(row, cell, living if name.mode.live else None)
            return None if found is None else found.value
        if name.kind is Kind.TIMESTAMP:
            return columns.moment(cell) if row == SHARED_ROW else None
        if name.kind is Kind.GAUGE:
            return columns.gauge(cell) if row == SHARED_ROW else None
        if name.kind is Kind.HISTOGRAM:
            distribution = self.histograms.one(cell, len(name.bounds) + 1 + BEFORE_BUCKETS, row)
            return distribution if any(distribution.buckets) else None
        return columns.integer(row, cell + 1) or None

    def lately_live(self) -> list[Worker]:
        """Return the live workers as of the last second; a worker that came or left since is taken into account."""
        return self._living.get(tuple(self.workers))

    def _live_of(self, taken: tuple[Worker, ...]) -> list[Worker]:
        return self.workers.live()

    def served(self, workers: Iterable[Worker]) -> list[Served]:
        """Return the requests that each of some workers serves at the moment, without asking them."""
        return read_requests(self._buf, self.layout, workers)

    def usage(self, live: list[Worker] | None = None) -> dict[str, Usage]:
        """Return how full the parts of the block are; the live workers are determined unless given."""
        layout = self.layout
        names, removed, cells, heap = self.header.numbers("names", "removed", "cells", "heap")
        pages = self.columns.pages_in_use()
        rows = {worker.row for worker in (self.lately_live() if live is None else live)}
        return {
            "names": Usage(names - removed, layout.capacity, _whole_pages(names * NAME.size)),
            "cells": Usage(-(-cells // COUNTER_WIDTH), layout.capacity, pages * PAGE),
            "heap": Usage(heap, layout.heap_bytes, _whole_pages(heap)),
            "rows": Usage(len(rows), layout.max_workers, layout.row_bytes),
        }

    def _names_shown(self, catalog: Catalog, combined: list[Name]) -> BlockNames:
        """Return all names; the same object as the last time, if the names are the same."""
        shown = self._shown
        if shown is None or shown.catalog is not catalog or shown.combined != combined:
            shown = self._shown = BlockNames(catalog, combined)
        return shown

    def _signatures(self) -> set[int]:
        """Return the signatures of the living workers."""
        return {worker.signature for worker in self.workers.live()}


@contextmanager
def read_only(directory: Path) -> Iterator[BlockReader]:
    """Give a reader of the live block of a data directory, without attaching as a worker.

    Raises:
        FileNotFoundError: there is no block, or it is just being created.
        BlockError: the block must not be used, or this user may not read it.
    """
    identity = identify(directory)
    identity.check_user()
    with opened_to_read(identity) as (buf, locks):
        header = read_header(buf)
        if header["magic"] == 0:
            raise FileNotFoundError(f"block {identity.name} is not finished yet")
        layout = check_layout(identity.name, header, len(buf))
        reader = BlockReader(buf, layout, WorkerTable(buf, layout, locks))
        try:
            yield reader
        finally:
            reader.close()


def _exemplars(noted: list[tuple[Name, bytes]]) -> list[tuple[Name, tuple[Exemplar, ...]]]:
    """Return the series with exemplars, and these, from the names with notes."""
    kept = [(name, read_exemplars(note)) for name, note in noted if name.category != FOREIGN]
    return [(name, found) for name, found in kept if found]


def _whole_pages(size: int) -> int:
    return -(-size // PAGE) * PAGE
