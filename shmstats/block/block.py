"""A block as a worker has it attached: made or found, counted into, left.

Making, attaching, adopting and unlinking all happen under the table lock, so any number of processes
may start and stop at once. The block outlives a crash: it is unlinked only by a worker that leaves in
good order and finds no other live one; whoever comes first after a crash adopts it as it stands.
"""

from __future__ import annotations

import logging
import os
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..core import CORE, PROTOCOL, Cells, Requests, Section
from ..interruption import came_from_handler
from ..layout import (
    CELL,
    CELLS_PER_PAGE,
    FIRST_INDEX_SLOTS,
    HEADER,
    LAYOUT_VERSION,
    MAGIC,
    NAME,
    PAGE,
    PROTOCOLS,
    REQUEST,
    REQUESTS_PER_WORKER,
    SAVER,
    WORKER,
    Layout,
    field_offset,
)
from ..reading.reader import BlockReader
from ..series import Declaration, Kind
from .declarations import Definition, decode_definition, digest
from .header import Header, check_layout, read_header, write_header
from .lock import LockFile, lock_file
from .names import (
    DEFAULT_BOUNDS,
    FAMILY,
    MAX_OVERFLOW_SETS,
    MEMBER,
    MONOTONIC,
    BlockFullError,
    NameTable,
    Record,
    decode_key,
    family_key,
    is_labelled,
    overflow_key,
    read_note,
    width_of,
)
from .outdated import counted_under, family_for, note_user
from .segment import (
    BlockError,
    DamagedBlockError,
    Segment,
    check_trust,
    segment_name,
    segment_path,
    set_segment_aside,
    unlink_segment,
)
from .soundness import find_damage
from .space import Space
from .workers import Worker, WorkerTable, pid_namespace

log = logging.getLogger("shmstats")


class DeclarationError(ValueError):
    """A metric is declared in two ways, or used in another way than it is declared."""


class SeriesLimitError(Exception):
    """A metric has as many label sets as it may have; the message says so."""


@contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Say of a block that it is damaged, where its contents turn out not to be what they can be.

    Raises:
        DamagedBlockError: instead of what numbers and texts raise that are none.
    """
    try:
        yield
    except DeclarationError:
        raise
    except (ArithmeticError, LookupError, ValueError, struct.error) as error:
        if came_from_handler(error):
            raise
        raise DamagedBlockError(f"block {name} is damaged: {error!r}") from error


SHARED_ROW = 0


class Block:
    """An attached block. Get one by `attach`.

    Attributes:
        name: of the segment.
        layout: of the block, which is that of who made it.
        worker: this process's slot and row.
        cells: the cells.
        header: the fields of the header that change.
        names: the name table.
        reader: reads values.
        space: the memory behind it.
    """

    def __init__(self, segment: Segment, layout: Layout, locks: LockFile) -> None:
        self.name = segment.name
        self.layout = layout
        self._segment = segment
        self._buf = segment.buf
        self.header = Header(self._buf)
        self.space = Space(segment, layout, locks)
        self._locks = locks
        self.names = NameTable(self._buf, layout)
        self.reader = BlockReader(self._buf, layout)
        self._workers = WorkerTable(self._buf, layout)
        self._bounds: dict[int, bytes] = {}
        self._bounds_revision = -1
        self._definitions: dict[int, tuple[bytes, Definition]] = {}
        self.worker = self._workers.claim(segment.reserve)
        self._slot = layout.workers + self.worker.slot * WORKER.itemsize
        self._held = self._slot + field_offset(WORKER, "held")
        self._requests: Requests | None = None
        self.cells = self._make_cells(pages=self.layout.pages, bitmap_bytes=self.layout.bitmap_bytes)

    @property
    def requests(self) -> Requests:
        """What this process serves, for others to see; there is memory for it from its first use on.

        Raises:
            OSError: shared memory is full.
        """
        if self._requests is None:
            size = REQUESTS_PER_WORKER * REQUEST.itemsize
            entries = self.layout.requests + self.worker.slot * size
            self._segment.reserve(entries, size)
            self._requests = Requests(self._buf, entries, self._slot + field_offset(WORKER, "further"))
            serving = self._slot + field_offset(WORKER, "serving")
            self._buf[serving : serving + 4] = (1).to_bytes(4, "little")
        return self._requests

    def _make_cells(self, **buffer: Any) -> Cells:
        return Cells(
            self._buf,
            offset=self.layout.cells,
            rows=self.layout.rows,
            capacity=self.layout.columns,
            row_bytes=self.layout.row_bytes,
            generation_offset=field_offset(HEADER, "generation"),
            owner=self.worker.word,
            is_live=self._workers.is_live,
            locks=self._locks,
            **buffer,
        )

    def buffer_cells(self, limit: int, flush: Callable[[], object]) -> Cells:
        """Return a row of this process's own, flushed to the block when ``limit`` operations are in it.

        ``flush`` is called where that cannot be done at once.
        """
        return self._make_cells(limit=limit, flush=flush, held_offset=self._held, target=self.cells)

    @property
    def held(self) -> int:
        """Operations in this process's buffer, as anyone can see."""
        return int.from_bytes(self._buf[self._held : self._held + 8], "little")

    @held.setter
    def held(self, held: int) -> None:
        self._buf[self._held : self._held + 8] = held.to_bytes(8, "little")

    @classmethod
    def attach(
        cls,
        directory: Path,
        capacity: int,
        max_workers: int,
        fill: Callable[[Block], None] = lambda block: None,
    ) -> Block:
        """Attach the block of a data directory as a worker; make it where there is none.

        Args:
            directory: the data directory; it need not exist.
            capacity: cells of a row, if the block is made.
            max_workers: rows, if the block is made.
            fill: called with a block that was just made, before anyone else sees it.

        Raises:
            BlockError: there is a block that must not be used.
            OSError: shared memory is full or not usable.
        """
        name = segment_name(directory)
        locks = lock_file(segment_path(name) + ".lock")
        with locks.table():
            segment = None
            try:
                segment = _attach_finished(name)
                if segment is not None:
                    block = cls._join(segment, locks, capacity, max_workers)
                    locks.note_attached()
                    return block
            except DamagedBlockError as error:
                if segment is not None:
                    segment.close()
                told = f"{error}; it was set aside as {set_segment_aside(name)}, and another one is made"
                locks.guard.defer(lambda: log.error(told))
            except BaseException:
                if segment is not None:
                    segment.close()
                raise
            block = cls._make(name, Layout(capacity, max_workers), locks, fill)
            locks.note_attached()
            return block

    @classmethod
    def _make(cls, name: str, layout: Layout, locks: LockFile, fill: Callable[[Block], None]) -> Block:
        segment = Segment(name, layout.size)
        try:
            _reserve_fixed_parts(segment, layout)
            header = {
                "layout_version": LAYOUT_VERSION,
                "protocol": PROTOCOL,
                "capacity": layout.capacity,
                "max_workers": layout.max_workers,
                "namespace": pid_namespace(),
                "generation": 1,
                "revision": 1,
                "started": time.monotonic_ns(),
                "index_slots": min(FIRST_INDEX_SLOTS, layout.index_slots),
                "salt": os.urandom(16),
                "uuid": uuid.uuid4().bytes,
            }
            write_header(segment.buf, header)
            block = cls(segment, layout, locks)
            fill(block)
        except BaseException:
            unlink_segment(name)
            locks.remove()
            segment.close()
            raise
        finished = field_offset(HEADER, "finished")
        segment.buf[finished : finished + 8] = (1).to_bytes(8, "little")
        segment.buf[:8] = MAGIC.to_bytes(8, "little")
        return block

    @classmethod
    def _join(cls, segment: Segment, locks: LockFile, capacity: int, max_workers: int) -> Block:
        name = segment.name
        check_trust(name, segment.stat())
        header = read_header(segment.buf)
        layout = check_layout(name, header, segment.size)
        live = _live_workers(name, header, WorkerTable(segment.buf, layout), locks)
        if header["protocol"] != PROTOCOL and live:
            raise BlockError(
                f"block {name} is locked by {PROTOCOLS.get(header['protocol'], header['protocol'])}, which"
                f" the {CORE} core of this process does not do (it does {PROTOCOLS[PROTOCOL]}): run all"
                " processes with the same core (SHMSTATS_PURE, shmstats info)"
            )
        if (capacity, max_workers) != (layout.capacity, layout.max_workers):
            warning = (
                f"block {name} keeps capacity {layout.capacity} and max_workers {layout.max_workers} until"
                f" all its processes have left (configured: {capacity} and {max_workers})"
            )
            # Only outside of the guard: a log handler may count, or wait for a thread that does.
            locks.guard.defer(lambda: log.warning(warning))
        if not live:
            damage = find_damage(segment.buf, layout)
            if damage:
                raise DamagedBlockError(f"block {name} is damaged: {damage}")
            _adopt(segment.buf, layout)
        block = cls(segment, layout, locks)
        block.names.repair(block.cells)
        if not live:
            block.names.mark_inherited()
        return block

    def is_current(self) -> bool:
        """Tell whether this is the block of its data directory, or there is none: its file may have been removed."""
        return self._segment.is_linked() or not os.path.lexists(segment_path(self.name))

    def exclusive(self) -> Section:
        """Hold the table lock, with the names in order."""
        return Section(self._locks.table(), lambda: self.names.repair(self.cells))

    def find(self, key: bytes) -> Record | None:
        """Return the record of a name, if it is registered."""
        record = self.names.find(key)
        if record is None:
            # It may be that somebody was killed while the index was rebuilt.
            with self.exclusive():
                record = self.names.find(key)
        return record

    def find_or_add(self, key: bytes, kind: Kind, limit: int = 0, mine: Declaration | None = None) -> Record:
        """Return the record of a name, which is registered if it is not there.

        Args:
            key: of the name.
            kind: of the statistic, if it is registered; what is declared for the metric comes first.
            limit: most label sets that the metric may have; 0: any number.
            mine: what this process has declared of the metric; None where it has not. Where a later declaration is
                another one, the record is that of what is outdated.

        Raises:
            BlockFullError: there is no room for it.
            SeriesLimitError: the metric has so many label sets already.
            DeclarationError: its label names are not those that are declared.
        """
        record = self.names.find(key)
        if record is not None and record.kind is kind and record.family < 0:
            return record
        outdated = counted_under(self, key, kind, mine)
        if record is not None and outdated is None:
            return record
        with self._locks.table():
            self.names.repair(self.cells)
            outdated = counted_under(self, key, kind, mine)
            # Whoever held the lock may have added it, also while we looked.
            record = self.names.find(key, 0 if outdated is None else digest(outdated))
            if record is None:
                record = self._register(key, kind, limit, outdated)
            if outdated is not None:
                note_user(self, record)
        return record

    def _register(self, key: bytes, kind: Kind, limit: int, outdated: Declaration | None) -> Record:
        """Register a name that is not there. The table lock is held."""
        labelled = is_labelled(key)
        family = self.names.family_of(key) if outdated is None else family_for(self, key, outdated)
        if family is None and not labelled:
            return self.add(key, PLAIN[kind])
        if family is None:
            family = self.add(family_key(key), Record(-1, kind, FAMILY, 0, 0))
        declared = self.declared(family) or Declaration(kind)
        _check_label_names(key, declared)
        counted = labelled and key != overflow_key(key)
        if limit and counted and self.names.members(family) >= limit:
            raise SeriesLimitError(f"it has {limit} label sets already")
        if limit and labelled and not counted and self.names.overflow_sets(family) >= MAX_OVERFLOW_SETS:
            raise SeriesLimitError(f"its label sets have different label names, {MAX_OVERFLOW_SETS} of them already")
        flags = (MONOTONIC if declared.kind is Kind.COUNTER else 0) | (MEMBER if counted else 0)
        wanted = Record(
            *(-1, declared.kind, flags, 0, width_of(declared), declared.mode, family.number, family.declaration)
        )
        return self.add(key, wanted)

    def declared(self, family: Record) -> Declaration | None:
        """Return what is declared about a metric; None for nothing."""
        definition = self.definition(family)
        return None if definition is None else definition.declared

    def definition(self, family: Record) -> Definition | None:
        """Return what is declared about a metric, and when it was; None for nothing."""
        place = self.names.note_place(family.number)
        known = self._definitions.get(family.number)
        if known is not None and known[0] == place:
            return known[1]
        note = read_note(place)
        if not note:
            return None
        definition = decode_definition(note)
        self._definitions[family.number] = place, definition
        return definition

    def bounds_of(self, record: Record) -> bytes:
        """Return the upper bounds of a histogram's buckets, as doubles."""
        if self._bounds_revision != self.names.revision:
            self._bounds.clear()
            self._bounds_revision = self.names.revision
        bounds = self._bounds.get(record.family)
        if bounds is None:
            declared = self.declared(self.names.record(record.family)) if record.family >= 0 else None
            limits = (declared.bounds if declared else ()) or DEFAULT_BOUNDS
            bounds = self._bounds[record.family] = struct.pack(f"{len(limits)}d", *limits)
        return bounds

    def annotate(self, record: Record, text: bytes) -> None:
        """Keep a text with a name; ``reader.notes`` gives it back.

        Raises:
            BlockFullError: there is no room for it.
        """
        with self.exclusive():
            self.names.annotate(record.number, text, self.space.reserve)

    def add(self, key: bytes, wanted: Record) -> Record:
        """Register a name that is not there. The table lock is held.

        Args:
            key: of the name.
            wanted: what it is; its number and cell are found here.

        Raises:
            BlockFullError: there is no room for it.
        """
        return self.names.add(key, wanted, self.cells, self.space.reserve, self._place)

    def _place(self, record: Record) -> None:
        """Have memory behind the cells of a name that is being added, and nothing in them."""
        row = SHARED_ROW if record.shared else self.worker.row
        if not (self.space.has(row, record) or self.space.reserve_cells(row, record.cell, record.width)):
            raise BlockFullError("shared memory is full")
        if record.cell < self.names.cells_used:
            self.clear(record)

    def row_for(self, record: Record) -> int:
        """Return the row to count a name in: this worker's, or one that has memory for it if ours cannot."""
        if record.shared:
            return SHARED_ROW
        row = self.worker.row
        if self.space.has(row, record) or self.space.reserve_cells(row, record.cell, record.width):
            return row
        return self.rows_of(record)[0]

    def rows_of(self, record: Record) -> list[int]:
        """Return the rows that have memory for a name: at least one."""
        return [row for row in range(self.layout.rows) if self.space.has(row, record)]

    def remove(self, records: list[Record]) -> None:
        """Remove series, and what stands for a metric of which nothing is left. The table lock is held."""
        self.names.remove(records, self.cells)
        deserted = self.names.deserted({record.family for record in records if record.family >= 0})
        if deserted:
            self.names.remove(deserted, self.cells)
        for record in records:
            self.clear(record)

    def clear(self, record: Record) -> None:
        """Set a name's cells to 0 in every row."""
        for row in self.rows_of(record):
            self.cells.clear(row, record.cell, record.width, record.kind is Kind.HISTOGRAM)

    def store_counters(self, columns: list[int], values: list[Any]) -> None:
        """Set counters to integers in row 0, which has memory there. The block is not yet anyone else's."""
        row = np.frombuffer(self._buf, CELL, self.layout.columns, self.layout.cells)
        row["value"][np.array(columns, np.intp) + 1] = values

    def leave(self, save: Callable[[Block], None] = lambda block: None) -> None:
        """Give up the slot. The last live worker saves and unlinks the block.

        Nothing can be counted into it any more once this has begun.

        Args:
            save: called, by the last one, before the block is unlinked. If it raises, the block stays.

        Raises:
            DamagedBlockError: it is damaged. It was left all the same, and stays.
        """
        with self._locks.table(), damage_named(self.name):
            try:
                try:
                    self.names.repair(self.cells)
                finally:
                    # Closed before the values are read to be saved, and before the slot is another's.
                    self.cells.close()
                    self._workers.release(self.worker)
                    self._locks.unlock(SAVER)
                    self._locks.note_left()
                if self.is_current() and not self._workers.live():
                    save(self)
                    unlink_segment(self.name)
                    self._locks.remove()
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Let go of the memory without a word to the others: what the child of a fork does."""
        self.cells.close()
        if self._requests is not None:
            self._requests.close()
        self.names.close()
        self.header.close()
        self.reader.close()
        self._segment.close()


#: What a name becomes that no family says anything of.
PLAIN = {
    kind: Record(-1, kind, MONOTONIC if kind is Kind.COUNTER else 0, 0, width_of(Declaration(kind))) for kind in Kind
}


def _check_label_names(key: bytes, declared: Declaration) -> None:
    """Check the label names of a series against what is declared.

    Raises:
        DeclarationError: they are others.
    """
    if declared.labelnames is None:
        return
    category, metric, labels = decode_key(key)
    found = tuple(name for name, _ in labels)
    if found != declared.labelnames:
        raise DeclarationError(
            f"metric {metric!r} of category {category!r} is declared with the label names"
            f" {declared.labelnames}, not {found}"
        )


def _attach_finished(name: str) -> Segment | None:
    """Attach the block if there is one that was finished; one that was not is removed.

    Raises:
        BlockError: it is not this user's.
        DamagedBlockError: its beginning was zeroed.
    """
    try:
        check_trust(name, os.stat(segment_path(name), follow_symlinks=False))
        segment = Segment(name)
    except FileNotFoundError:
        return None
    except ValueError:
        unlink_segment(name)
        return None
    if segment.size < PAGE or int.from_bytes(segment.buf[:8], "little"):
        return segment
    try:
        _check_unfinished(segment)
    finally:
        segment.close()
    unlink_segment(name)
    return None


def _check_unfinished(segment: Segment) -> None:
    """Check that a block without a magic is one whose maker was killed, in which nothing was ever counted.

    Raises:
        BlockError: its beginning was zeroed, and processes use it.
        DamagedBlockError: its beginning was zeroed.
    """
    header = read_header(segment.buf)
    if not header["finished"] and (header["layout_version"] or segment.is_blank(PAGE)):
        return
    told = f"block {segment.name} is damaged: its beginning was zeroed"
    layout = Layout(header["capacity"], header["max_workers"])
    if layout.size == segment.size and WorkerTable(segment.buf, layout).live():
        raise BlockError(f"{told}, and processes use it: stop them first, they save what they counted")
    raise DamagedBlockError(told)


def _live_workers(name: str, header: dict[str, int], workers: WorkerTable, locks: LockFile) -> list[Worker]:
    """Return the live workers of a block.

    In another pid namespace their pids mean nothing: there it is known only whether there are any, and a block that
    has some cannot be used. One that has none, as a container leaves it that was killed, can.

    Raises:
        BlockError: naming both namespaces.
    """
    ours = pid_namespace()
    if header["namespace"] == ours:
        return workers.live()
    if locks.others_attached():
        raise BlockError(
            f"block {name} belongs to the pid namespace {header['namespace']}, where processes use it; this process"
            f" runs in {ours} (another container?): give each its own data directory"
        )
    return []


def _adopt(buf: memoryview, layout: Layout) -> None:
    """Take over a block whose processes are all gone: it is of our namespace, and its cells are locked our way.

    Field by field: `struct` empties what it writes first, and who is killed then must leave a whole header.
    """
    if read_header(buf)["protocol"] != PROTOCOL:
        _free_locks(buf, layout)
    workers = WorkerTable(buf, layout)
    for worker in workers:
        workers.release(worker)
    # The index and what else can be derived from the names is made anew by whoever finds them changing.
    for field, value in (
        ("changing", 1),
        ("protocol", PROTOCOL),
        ("started", time.monotonic_ns()),
        ("namespace", pid_namespace()),
    ):
        start, size = field_offset(HEADER, field), HEADER[field].itemsize
        buf[start : start + size] = value.to_bytes(size, "little")


def _free_locks(buf: memoryview, layout: Layout) -> None:
    """Free every series' lock. No live process has the block attached."""
    records = np.frombuffer(buf, NAME, int(read_header(buf)["names"]), layout.names)
    locks = records["cell"][records["width"] > 0]
    reader = BlockReader(buf, layout)
    reserved = reader.reserved()[:, locks // CELLS_PER_PAGE]
    reader.close()
    for row in range(layout.rows):
        cells = np.frombuffer(buf, CELL, layout.columns, layout.cells + row * layout.row_bytes)
        cells["lock"][locks[reserved[row]]] = 0


def _reserve_fixed_parts(segment: Segment, layout: Layout) -> None:
    """Reserve what a new block has: the header, the bitmaps and the beginning of the index."""
    segment.reserve(0, PAGE)
    segment.reserve(layout.pages, layout.index - layout.pages)
    segment.reserve(layout.index, 4 * min(FIRST_INDEX_SLOTS, layout.index_slots))
