"""A block as a worker has it attached: made or found, counted into, left.

Making, attaching, adopting and unlinking all happen under the table lock, so any number of processes
may start and stop at once. The block outlives a crash: it is unlinked only by a worker that leaves in
good order and finds no other live one; whoever comes first after a crash adopts it as it stands.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..series import Declaration, Distribution, Kind, Mode, Name, Value
from .cells import CORE, PROTOCOL, Cells
from .declarations import decode_declaration, describe, encode_declaration
from .layout import (
    CELL,
    CELLS_PER_PAGE,
    FIRST_INDEX_SLOTS,
    HEADER,
    LAYOUT_VERSION,
    MAGIC,
    PAGE,
    PROTOCOLS,
    WORKER,
    Layout,
    field_offset,
    struct_of,
)
from .lock import SAVER, LockFile, lock_file
from .names import (
    DECLARED,
    DEFAULT_BOUNDS,
    FAMILY,
    INHERITED,
    MAX_OVERFLOW_SETS,
    MEMBER,
    MONOTONIC,
    BlockFullError,
    NameTable,
    Record,
    decode_key,
    encode_key,
    family_key,
    is_labelled,
    overflow_key,
    width_of,
)
from .reader import BlockReader
from .segment import (
    BlockError,
    DamagedBlockError,
    ReadOnlySegment,
    Segment,
    check_trust,
    segment_name,
    segment_path,
    set_segment_aside,
    unlink_segment,
)
from .soundness import find_damage
from .workers import WorkerTable, pid_namespace

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
        raise DamagedBlockError(f"block {name} is damaged: {error!r}") from error


_HEADER = struct_of(HEADER)
_HEADER_FIELDS = HEADER.names or ()

SHARED_ROW = 0

_INT64_MAX = 2**63 - 1
_INT64_MIN = -(2**63)


def read_header(buf: memoryview) -> dict[str, int]:
    """Return the numbers in a block's header by name.

    Raises:
        BlockError: there is no room for a header.
    """
    if len(buf) < PAGE:
        raise BlockError(f"the block is {len(buf)} bytes long; its header alone is {PAGE}")
    return dict(zip(_HEADER_FIELDS, _HEADER.unpack_from(buf, 0), strict=True))


def check_layout(name: str, header: dict[str, int], size: int) -> Layout:
    """Check that a block is laid out as this version lays it out, and return its layout.

    Raises:
        BlockError: naming both sides of what differs.
    """
    if header["magic"] != MAGIC:
        raise BlockError(f"block {name} does not begin like a block of shmstats; it is damaged or not ours")
    if header["layout_version"] != LAYOUT_VERSION:
        raise BlockError(
            f"block {name} has layout version {header['layout_version']}, this shmstats has version"
            f" {LAYOUT_VERSION}: stop the processes that use the other version first"
        )
    layout = Layout(header["capacity"], header["max_workers"])
    if not (layout.capacity and layout.max_workers and layout.size == size):
        raise BlockError(
            f"block {name} is {size} bytes long, but by its header (capacity {layout.capacity},"
            f" max_workers {layout.max_workers}) it has {layout.size}; it is damaged"
        )
    return layout


def check_namespace(name: str, header: dict[str, int]) -> None:
    """Refuse a block of another pid namespace, where the pids of its workers mean nothing.

    Raises:
        BlockError: naming both namespaces.
    """
    ours = pid_namespace()
    if header["namespace"] != ours:
        raise BlockError(
            f"block {name} belongs to the pid namespace {header['namespace']}, this process runs in"
            f" {ours} (another container?): give each its own data directory"
        )


class Block:
    """An attached block. Get one by `attach`.

    Attributes:
        name: of the segment.
        layout: of the block, which is that of who made it.
        worker: this process's slot and row.
        cells: the cells.
        names: the name table.
        reader: reads values.
    """

    def __init__(self, segment: Segment, layout: Layout, locks: LockFile) -> None:
        self.name = segment.name
        self.layout = layout
        self._segment = segment
        self._buf = segment.buf
        self._page_bits, self._bitmap_bytes = layout.pages, layout.bitmap_bytes
        self._locks = locks
        self.names = NameTable(self._buf, layout)
        self.reader = BlockReader(self._buf, layout)
        self._workers = WorkerTable(self._buf, layout)
        self._bounds: dict[int, bytes] = {}
        self._bounds_revision = -1
        self.worker = self._workers.claim(segment.reserve)
        self._held = layout.workers + self.worker.slot * WORKER.itemsize + field_offset(WORKER, "held")
        self.cells = self._make_cells()

    def _make_cells(self, **buffer: Any) -> Cells:
        return Cells(
            self._buf,
            offset=self.layout.cells,
            rows=self.layout.rows,
            capacity=self.layout.capacity,
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
            segment = _attach_finished(name)
            if segment is None:
                return cls._make(name, Layout(capacity, max_workers), locks, fill)
            try:
                return cls._join(segment, locks, capacity, max_workers)
            except DamagedBlockError as error:
                segment.close()
                told = f"{error}; it was set aside as {set_segment_aside(name)}, and another one is made"
                locks.guard.defer(lambda: log.error(told))
            except BaseException:
                segment.close()
                raise
            return cls._make(name, Layout(capacity, max_workers), locks, fill)

    @classmethod
    def _make(cls, name: str, layout: Layout, locks: LockFile, fill: Callable[[Block], None]) -> Block:
        segment = Segment(name, layout.size)
        try:
            _reserve_fixed_parts(segment, layout)
            header = dict.fromkeys(_HEADER_FIELDS, 0) | {
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
            }
            _HEADER.pack_into(segment.buf, 0, *header.values())
            block = cls(segment, layout, locks)
            fill(block)
        except BaseException:
            unlink_segment(name)
            locks.remove()
            segment.close()
            raise
        segment.buf[:8] = MAGIC.to_bytes(8, "little")
        return block

    @classmethod
    def _join(cls, segment: Segment, locks: LockFile, capacity: int, max_workers: int) -> Block:
        name = segment.name
        check_trust(name, segment.stat())
        header = read_header(segment.buf)
        layout = check_layout(name, header, segment.size)
        check_namespace(name, header)
        live = WorkerTable(segment.buf, layout).live()
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

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the table lock, with the names in order."""
        with self._locks.table():
            self.names.repair(self.cells)
            yield

    def find(self, key: bytes) -> Record | None:
        """Return the record of a name, if it is registered."""
        record = self.names.find(key)
        if record is None:
            # It may be that somebody was killed while the index was rebuilt.
            with self.exclusive():
                record = self.names.find(key)
        return record

    def find_or_add(self, key: bytes, kind: Kind, limit: int = 0) -> Record:
        """Return the record of a name, which is registered if it is not there.

        Args:
            key: of the name.
            kind: of the statistic, if it is registered; what is declared for the metric comes first.
            limit: most label sets that the metric may have; 0: any number.

        Raises:
            BlockFullError: there is no room for it.
            SeriesLimitError: the metric has so many label sets already.
            DeclarationError: its label names are not those that are declared.
        """
        names = self.names
        record = names.find(key)
        if record is None:
            with self._locks.table():
                names.repair(self.cells)
                record = names.find(key)  # whoever held the lock may have added it, also while we looked
                if record is None:
                    record = self._register(key, kind, limit)
        return record

    def _register(self, key: bytes, kind: Kind, limit: int) -> Record:
        """Register a name that is not there. The table lock is held."""
        labelled = is_labelled(key)
        family = self.names.family_of(key)
        if family is None and not labelled:
            return self._add(key, _PLAIN[kind])
        if family is None:
            family = self._add(family_key(key), Record(-1, kind, FAMILY, 0, 0))
        declared = self._declared(family) or Declaration(kind)
        _check_label_names(key, declared)
        counted = labelled and key != overflow_key(key)
        if limit and counted and self.names.members(family) >= limit:
            raise SeriesLimitError(f"it has {limit} label sets already")
        if limit and labelled and not counted and self.names.overflow_sets(family) >= MAX_OVERFLOW_SETS:
            raise SeriesLimitError(f"its label sets have different label names, {MAX_OVERFLOW_SETS} of them already")
        flags = (MONOTONIC if declared.kind is Kind.COUNTER else 0) | (MEMBER if counted else 0)
        wanted = Record(-1, declared.kind, flags, 0, width_of(declared), declared.mode, family.number)
        return self._add(key, wanted)

    def declare(self, category: str, metric: str, declared: Declaration, inherited: bool = False) -> int:
        """Declare a metric, all its series.

        Args:
            category: of the metric.
            metric: of the category.
            declared: what is declared.
            inherited: it was declared by processes that are gone: others may declare it otherwise.

        Returns:
            How many series were removed because they were left by processes that are gone, and do not fit.

        Raises:
            DeclarationError: it is declared otherwise, or used otherwise already. The message shows both.
            BlockFullError: there is no room for it.
        """
        with self.exclusive():
            return self._declare(encode_key(category, metric), declared, inherited)

    def _declare(self, key: bytes, declared: Declaration, inherited: bool) -> int:
        flags = FAMILY | DECLARED | (INHERITED if inherited else 0)
        family = self.names.family_of(key)
        text = encode_declaration(declared)
        if family is not None and family.declared and not self._may_replace(family, text, key, declared):
            if family.flags & INHERITED and not inherited:
                self.names.set_flags(family, flags)
            return 0
        removed = self._make_way(key, family, declared)
        if family is None:
            family = self._add(family_key(key), Record(-1, declared.kind, FAMILY, 0, 0, declared.mode))
        plain = self.names.find(key)
        if plain is not None and plain.family < 0:
            self.names.set_family(plain, family)
        self.names.annotate(family.number, text, self._reserve)
        self.names.redeclare(family, declared.kind, declared.mode, flags)  # last: from now on it is declared
        return removed

    def _may_replace(self, family: Record, text: bytes, key: bytes, declared: Declaration) -> bool:
        """Tell whether a declaration has to be, and may be, replaced by another.

        Raises:
            DeclarationError: it has to be and may not.
        """
        if self.names.note(family.number) == text:
            return False
        if not family.flags & INHERITED:
            category, metric, _ = decode_key(key)
            found = self._declared(family)
            raise DeclarationError(
                f"metric {metric!r} of category {category!r} is declared as {describe(found) if found else '?'};"
                f" it cannot be declared as {describe(declared)} while processes use it"
            )
        return True

    def _make_way(self, key: bytes, family: Record | None, declared: Declaration) -> int:
        """Remove series of processes that are gone that do not fit a declaration.

        Raises:
            DeclarationError: there are others that do not fit.
        """
        plain = self.names.find(key)
        series = [] if family is None else self.names.members_of(family)
        if plain is not None and plain not in series:
            series.append(plain)
        old = (family and self._declared(family)) or Declaration(declared.kind)
        used = [self._as_used(record, old) for record in series]
        unfit = [record for record, found in zip(series, used, strict=True) if not _fits(found, declared)]
        for record, found in zip(series, used, strict=True):
            if record in unfit and not record.flags & INHERITED:
                category, metric, _ = decode_key(key)
                if declared.labelnames is None:
                    found = found._replace(labelnames=None)  # that is not what is wrong
                raise DeclarationError(
                    f"metric {metric!r} of category {category!r} is used as {describe(found)} already;"
                    f" it cannot be declared as {describe(declared)}"
                )
        if unfit:
            self.names.remove(unfit, self.cells)
            for record in unfit:
                self.clear(record)
        return len(unfit)

    def _as_used(self, record: Record, declared: Declaration) -> Declaration:
        """Return what would have to be declared for a series to be as it is."""
        _, _, labels = decode_key(self.names.key(record.number))
        bounds = (declared.bounds or DEFAULT_BOUNDS) if record.kind is Kind.HISTOGRAM else ()
        return declared._replace(
            kind=record.kind, mode=record.mode, bounds=bounds, labelnames=tuple(name for name, _ in labels)
        )

    def _declared(self, family: Record) -> Declaration | None:
        note = self.names.note(family.number)
        return decode_declaration(note) if note else None

    def bounds_of(self, record: Record) -> bytes:
        """Return the upper bounds of a histogram's buckets, as doubles."""
        if self._bounds_revision != self.names.revision:
            self._bounds.clear()
            self._bounds_revision = self.names.revision
        bounds = self._bounds.get(record.family)
        if bounds is None:
            declared = self._declared(self.names.record(record.family)) if record.family >= 0 else None
            limits = (declared.bounds if declared else ()) or DEFAULT_BOUNDS
            bounds = self._bounds[record.family] = struct.pack(f"{len(limits)}d", *limits)
        return bounds

    def annotate(self, record: Record, text: bytes) -> None:
        """Keep a text with a name; ``reader.notes`` gives it back.

        Raises:
            BlockFullError: there is no room for it.
        """
        with self.exclusive():
            self.names.annotate(record.number, text, self._reserve)

    def _reserve(self, offset: int, length: int) -> None:
        try:
            self._segment.reserve(offset, length)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise  # the block was left, or forgotten after a fork: it is not full
            raise BlockFullError(f"shared memory is full ({error.strerror})") from error

    def _add(self, key: bytes, wanted: Record) -> Record:
        return self.names.add(key, wanted, self.cells, self._reserve, self._place)

    def _place(self, record: Record) -> None:
        """Have memory behind the cells of a name that is being added, and nothing in them."""
        row = SHARED_ROW if record.shared else self.worker.row
        if not (self._is_reserved(row, record) or self._reserve_cells(row, record.cell, record.width)):
            raise BlockFullError("shared memory is full")
        if record.cell < self.names.cells_used:
            self.clear(record)

    def row_for(self, record: Record) -> int:
        """Return the row to count a name in: this worker's, or one that has memory for it if ours cannot."""
        if record.shared:
            return SHARED_ROW
        row = self.worker.row
        if self._is_reserved(row, record) or self._reserve_cells(row, record.cell, record.width):
            return row
        return self.rows_of(record)[0]

    def rows_of(self, record: Record) -> list[int]:
        """Return the rows that have memory for a name: at least one."""
        return [row for row in range(self.layout.rows) if self._is_reserved(row, record)]

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

    def restore(self, names: Sequence[Name], values: Sequence[Value]) -> list[tuple[Name, str]]:
        """Register the names of a saved snapshot, with their values in row 0. The block is not yet anyone else's.

        Args:
            names: of the snapshot; no two are the same.
            values: of the names.

        Returns:
            What was not restored, and why.
        """
        failed = []
        with self.exclusive():
            there = {self.names.key(record.number) for record in self.names.records()}
            todo: list[tuple[Name, bytes, Value]] = []
            for name, value in zip(names, values, strict=True):
                key = encode_key(name.category, name.metric, name.labels)
                reason = self._reason_against(name, key, value)
                if reason:
                    failed.append((name, reason))
                elif key in there:
                    self._put(self.find_or_add(key, name.kind), name, value)
                else:
                    todo.append((name, key, value))
            start, size = 0, len(todo)  # together, or where there is not room for all, in parts
            while start < len(todo):
                try:
                    self._restore(todo[start : start + size])
                    start += size
                except BlockFullError as error:
                    if size == 1:
                        failed += [(name, str(error)) for name, _, _ in todo[start:]]
                        break
                    size //= 2
            self.names.mark_inherited()
        return failed

    def _restore(self, part: list[tuple[Name, bytes, Value]]) -> None:
        """Restore a part of the names.

        Raises:
            BlockFullError: there is not room for all of them. None was registered, at most families of theirs.
        """
        families = self._families(part)
        made: dict[tuple[Kind, bool, bool, int], Record] = {}  # many names want the same
        wanted = []
        for name, key, _ in part:
            family = families.get(family_key(key)) if families else None
            counted = family is not None and bool(name.labels) and key != overflow_key(key)
            what = name.kind, name.monotonic, counted, -1 if family is None else family.number
            record = made.get(what)
            if record is None:
                record = made[what] = self._wanted(name, counted, family)
            wanted.append(record)
        width = sum(record.width for record in wanted)
        cell = self.names.cells_used
        if cell + width <= self.layout.capacity and not self._reserve_cells(SHARED_ROW, cell, width):
            raise BlockFullError("shared memory is full")
        first, cells = self.names.add_all([key for _, key, _ in part], wanted, self.cells, self._reserve)
        counters = [i for i, (name, _, _) in enumerate(part) if name.kind is Kind.COUNTER]
        row = np.frombuffer(self._buf, CELL, self.layout.capacity, self.layout.cells)
        row["value"][[cells[i] for i in counters]] = [part[i][2] for i in counters]
        for i, (name, _, value) in enumerate(part):
            if name.kind is not Kind.COUNTER:
                self._put(wanted[i]._replace(number=first + i, cell=cells[i]), name, value)

    def _wanted(self, name: Name, counted: bool, family: Record | None) -> Record:
        """Return what a restored name is to be."""
        flags = (MONOTONIC if name.monotonic else 0) | (MEMBER if counted else 0)
        if family is None:
            return _PLAIN[name.kind]._replace(flags=flags)
        width = width_of(self._declared(family) or Declaration(name.kind))
        return Record(-1, name.kind, flags, 0, width, Mode.LAST, family.number)

    def _put(self, record: Record, name: Name, value: Value) -> None:
        """Put a restored value into row 0."""
        self._reserve_cells(SHARED_ROW, record.cell, record.width)
        generation = self.cells.generation
        if record.kind is Kind.GAUGE:
            self.cells.set_gauge(SHARED_ROW, record.cell, value, generation)
        elif isinstance(value, Distribution):
            self.cells.add_distribution(
                SHARED_ROW, record.cell, value.sum, value.max, value.buckets, generation
            )
        elif isinstance(value, int):
            self.cells.add(SHARED_ROW, record.cell, value, generation)
            if not name.monotonic:
                self.names.clear_monotonic(record)

    def _families(self, todo: list[tuple[Name, bytes, Value]]) -> dict[bytes, Record]:
        """Return the families of names that are being restored, by key; those with labels all have one."""
        families = {}
        for name, key, _ in todo:
            family = family_key(key) if name.labels or self.names.families else b""
            if family and family not in families:
                found = self.names.find(family)
                if found is None and name.labels:
                    found = self._add(family, Record(-1, name.kind, FAMILY, 0, 0))
                if found is not None:
                    families[family] = found
        return families

    def _reason_against(self, name: Name, key: bytes, value: Value) -> str:
        """Return why a saved value cannot be restored, or nothing."""
        if name.kind is Kind.HISTOGRAM:
            family = self.names.family_of(key)
            declared = (self._declared(family) if family else None) or Declaration(name.kind)
            buckets = width_of(declared) - 2
            if not isinstance(value, Distribution) or len(value.buckets) != buckets:
                return f"a histogram must have {buckets} buckets: {value!r:.80}"
            fits = all(_INT64_MIN <= bucket <= _INT64_MAX for bucket in value.buckets)
            return "" if fits else "a bucket does not fit 64 bits"
        if isinstance(value, Distribution) or (name.kind is Kind.COUNTER and not isinstance(value, int)):
            return f"a {name.kind.name.lower()} cannot be {value!r:.80}"
        if isinstance(value, int) and not _INT64_MIN <= value <= _INT64_MAX:
            return f"{value!r:.80} does not fit 64 bits"
        return ""

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
                if self._segment.is_linked() and not self._workers.live():
                    save(self)
                    unlink_segment(self.name)
                    self._locks.remove()
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Let go of the memory without a word to the others: what the child of a fork does."""
        self.cells.close()
        self.names.close()
        self.reader.close()
        self._segment.close()

    def _reserve_cells(self, row: int, cell: int, width: int) -> bool:
        """Have memory behind some cells of a row; returns whether there was enough."""
        first, last = cell // CELLS_PER_PAGE, (cell + width - 1) // CELLS_PER_PAGE
        with self._locks.table():
            for page in range(first, last + 1):
                bits = self._page_bits + row * self._bitmap_bytes + page // 8
                if not self._buf[bits] >> page % 8 & 1:
                    offset = self.layout.cells + row * self.layout.row_bytes + page * PAGE
                    try:
                        self._segment.reserve(offset, PAGE)
                    except OSError as error:
                        if error.errno == errno.EBADF:
                            raise
                        return False
                    self._buf[bits] |= 1 << page % 8
        return True

    def _is_reserved(self, row: int, record: Record) -> bool:
        first, last = record.cell // CELLS_PER_PAGE, (record.cell + record.width - 1) // CELLS_PER_PAGE
        bits = self._page_bits + row * self._bitmap_bytes
        if first == last:
            return self._buf[bits + first // 8] >> first % 8 & 1 == 1
        return all(self._buf[bits + page // 8] >> page % 8 & 1 for page in range(first, last + 1))


#: What a name becomes that no family says anything of.
_PLAIN = {
    kind: Record(-1, kind, MONOTONIC if kind is Kind.COUNTER else 0, 0, width_of(Declaration(kind)))
    for kind in Kind
}


def _fits(used: Declaration, declared: Declaration) -> bool:
    """Tell whether a series that is used so is one of a metric that is declared so."""
    return (
        (used.kind, used.mode) == (declared.kind, declared.mode)
        and used.bounds == (declared.bounds or (DEFAULT_BOUNDS if declared.kind is Kind.HISTOGRAM else ()))
        and declared.labelnames in (None, used.labelnames)
    )


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
    """
    try:
        check_trust(name, os.stat(segment_path(name), follow_symlinks=False))
        segment = Segment(name)
    except FileNotFoundError:
        return None
    except ValueError:
        unlink_segment(name)
        return None
    if segment.size >= PAGE and int.from_bytes(segment.buf[:8], "little") == 0:
        segment.close()
        unlink_segment(name)
        return None
    return segment


def _adopt(buf: memoryview, layout: Layout) -> None:
    """Take over a block whose processes are all gone: its cells are locked our way from now on.

    Field by field: `struct` empties what it writes first, and who is killed then must leave a whole header.
    """
    if read_header(buf)["protocol"] != PROTOCOL:
        _free_locks(buf, layout)
    # The index and what else can be derived from the names is made anew by whoever finds them changing.
    for field, value in (("changing", 1), ("protocol", PROTOCOL), ("started", time.monotonic_ns())):
        start, size = field_offset(HEADER, field), HEADER[field].itemsize
        buf[start : start + size] = value.to_bytes(size, "little")


def _free_locks(buf: memoryview, layout: Layout) -> None:
    """Free every cell's lock. No live process has the block attached."""
    reader = BlockReader(buf, layout)
    pages = np.argwhere(reader.reserved()).tolist()
    reader.close()
    for row, page in pages:
        offset = layout.cells + row * layout.row_bytes + page * PAGE
        np.frombuffer(buf, CELL, CELLS_PER_PAGE, offset)["lock"] = 0


def _reserve_fixed_parts(segment: Segment, layout: Layout) -> None:
    """Reserve what a new block has: the header, the bitmaps and the beginning of the index."""
    segment.reserve(0, PAGE)
    segment.reserve(layout.pages, layout.index - layout.pages)
    segment.reserve(layout.index, 4 * min(FIRST_INDEX_SLOTS, layout.index_slots))


@contextmanager
def read_only(directory: Path) -> Iterator[BlockReader]:
    """Give a reader of the live block of a data directory, without attaching as a worker.

    Raises:
        FileNotFoundError: there is no block, or it is just being made.
        BlockError: there is one that must not be used.
    """
    name = segment_name(directory)
    with ReadOnlySegment(name) as buf:
        header = read_header(buf)
        if header["magic"] == 0:
            raise FileNotFoundError(f"block {name} is not finished yet")
        layout = check_layout(name, header, len(buf))
        reader = BlockReader(buf, layout)
        try:
            yield reader
        finally:
            reader.close()
