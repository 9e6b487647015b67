"""The shared block as a provider: attaches on first use, and does what the quick path could not.

A counting call that finds its handle bound never comes here. This module is where a name is looked up
or registered, a handle bound, a kind changed, and where everything ends that is not the caller's mistake:
a block that cannot be attached, or is full, is counted, logged once and survived.
"""

from __future__ import annotations

import bisect
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from .. import snapshot as saved
from ..block import (
    Block,
    BlockError,
    BlockFullError,
    DeclarationError,
    Record,
    SeriesLimitError,
    damage_named,
    declare,
    restore,
    segment_name,
)
from ..block.lock import lock_file
from ..block.names import DEFAULT_BOUNDS, decode_key, encode_key, overflow_key
from ..block.segment import segment_path
from ..config import Settings
from ..core import Counter, Gauge, Histogram, Series
from ..debug.processes import memory
from ..debug.stacks import stacks
from ..interruption import came_from_handler
from ..layout import INT64_MAX, INT64_MIN, SAVER
from ..once import Once
from ..series import Declaration, Distribution, Kind, Labels, Mode, Snapshot, Value
from .agent import Agent, Task
from .buffer import Buffer
from .peers import remove_stale, socket_path

log = logging.getLogger("shmstats")

#: The category of what the library counts about itself.
OWN = "shmstats"

#: Its counters: operations that could not be counted, cell locks taken over from dead workers.
OPERATIONS_DROPPED = "operations_dropped"
LOCKS_TAKEN_OVER = "locks_taken_over"

#: In buffered mode: operations held by all workers, flushes, and how long they took.
OPERATIONS_HELD = "operations_held"
FLUSHES = "flushes"
FLUSH = "flush"

_Result = TypeVar("_Result")

_RETRY_SECONDS = 1.0


class KindError(ValueError):
    """A name that is one kind of statistic was used as another that it cannot become."""


class SharedProvider:
    """Counts into the shared block of a data directory.

    Args:
        settings: where the block is and how large it is made.
        declared: declarations by category and metric, to be made as soon as there is a block; it is kept.

    Attributes:
        directory: the data directory.
        ending: whether the process is at its end: daemon threads, which may be stopped at any line from then
            on, attach nothing any more.
        direct: whether handles may count without coming here.
    """

    def __init__(self, settings: Settings, declared: dict[tuple[str, str], Declaration] | None = None) -> None:
        self.directory: Path = settings.path.data
        self._settings = settings
        self._locks = lock_file(segment_path(segment_name(self.directory)) + ".lock")
        self._block: Block | None = None
        self._buffer: Buffer | None = None
        self._agent: Agent | None = None
        self._saved: Snapshot | None = None
        self._saving_fails = False
        self.ending = False
        self._retry_at = 0.0
        self._dropped = 0
        self._logged = Once()
        self._declared = {} if declared is None else declared
        self._direct = True
        self._answers: dict[str, Callable[[], Any]] = {"stacks": stacks, "memory": memory}
        _providers.add(self)

    @property
    def direct(self) -> bool:
        """Whether bound handles count at once; otherwise every operation goes to the recorder."""
        return self._direct

    @direct.setter
    def direct(self, direct: bool) -> None:
        self._direct = direct
        for holder in (self._block, self._buffer):
            if holder is not None:
                holder.cells.direct = direct

    def attach(self) -> Block:
        """Return the attached block; attach it if it is not.

        Raises:
            BlockError: there is a block that must not be used.
            OSError: shared memory is full or not usable.
        """
        block = self._block
        if block is None:
            with self._locks.guard:
                block = self._block
                if block is None:
                    with damage_named(segment_name(self.directory)):
                        block = self._attach()
                    self._locks.guard.defer(self._start_agent)
        return block

    def close(self) -> None:
        """Leave the block; the last one saves it. What cannot be saved stays in shared memory."""
        if self._locks.guard.held:
            self._locks.guard.defer(self.close)
            return
        self._stop_agent()
        with self._locks.guard:
            block, self._block = self._block, None
            _holding.discard(self)
            if block is not None:
                try:
                    with damage_named(block.name):
                        self._empty_buffer()
                except BlockError as error:
                    self._tell(f"what was buffered is lost: {error}")
                self._is_superseded(block)
                try:
                    block.leave(self._finish)
                except (BlockError, OSError) as error:
                    self._tell(f"statistics could not be saved, and stay in shared memory: {error}")
        if self._block is None:
            self._stop_agent()  # one that was started meanwhile, for the block that was left

    def flush(self) -> None:
        """Add what this process holds in its buffer to the block, if it has one.

        Raises:
            BlockError: the block is damaged.
        """
        if self._locks.guard.held:
            self._locks.guard.defer(self.flush)
            return
        with self._locks.guard:
            block, buffer = self._block, self._buffer
            if block is not None and buffer is not None and block.held:
                with damage_named(block.name):
                    buffer.flush()

    def _flush_or_tell(self) -> None:
        """Flush; where the block is damaged say so, once: no counting call fails for that."""
        try:
            self.flush()
        except BlockError as error:
            self._log_once(f"what is buffered cannot be added to the block: {error}")

    def _flush_and_note(self) -> None:
        """Flush, and show to readers that do not attach how much all workers hold."""
        self._flush_or_tell()
        block = self._block
        if block is not None:
            self._note_held(block)

    def _empty_buffer(self) -> None:
        """Flush the buffer for the last time. The guard is held, so nobody adds to it on the slow path."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffer.cells.direct = False
            buffer.flush()
            buffer.cells.close()

    def declare(self, category: str, metric: str, declared: Declaration) -> None:
        """Declare a metric in the block, now or as soon as this thread can.

        Raises:
            DeclarationError: it is declared, or used, otherwise by a process that uses the block.
        """
        if self._locks.guard.held:
            self._locks.guard.defer(lambda: self.declare(category, metric, declared))
            return
        block = self._attached()
        if block is not None:
            self._declare(block, category, metric, declared)

    def declare_later(self, category: str, metric: str, declared: Declaration) -> None:
        """Declare a metric in any block that will be attached; what differs there is only logged."""
        self._declared[category, metric] = declared

    def _declare(self, block: Block, category: str, metric: str, declared: Declaration) -> None:
        try:
            with damage_named(block.name):
                removed = declare(block, category, metric, declared)
        except BlockFullError as error:
            self._log_once(f"metric {metric!r} of category {category!r} cannot be declared: {error}")
            return
        if removed:
            self._tell(
                f"{removed} series of metric {metric!r} of category {category!r}, left by earlier processes, did"
                " not fit its declaration and were removed"
            )

    def _declare_again(self, block: Block) -> None:
        """Declare what was declared before the block was attached; differences are logged only."""
        for (category, metric), declared in list(self._declared.items()):
            try:
                self._declare(block, category, metric, declared)
            except DeclarationError as error:
                self._log_once(str(error))

    def answer(self, question: str, give: Callable[[], Any]) -> None:
        """Answer a further question of other workers (`shmstats.attachment.peers.ask_all`), from now on.

        Args:
            question: a short text in ASCII, without line breaks.
            give: gives the answer, which must fit JSON. It is called in the background thread.
        """
        self._answers[question] = give

    def register(self, series: Series, kind: Kind) -> None:
        """Have a series there, at 0 if it is new.

        Args:
            series: a handle of it.
            kind: of the series, where nothing is declared.
        """

        def register(block: Block) -> None:
            self._find_or_add(block, series, kind)

        self._operate(register)

    def admits(self, category: str, metric: str, labels: Labels) -> bool:
        """Tell whether a series is there, or its metric may have one more label set."""
        key = encode_key(category, metric, labels)
        limit = self._settings.stats.max_series_per_metric

        def admits(block: Block) -> bool:
            family = block.names.family_of(key)
            return family is None or block.names.members(family) < limit or block.names.find(key) is not None

        return self.consult(admits, True)

    def annotate(self, series: Series, change: Callable[[bytes], bytes]) -> None:
        """Change the note of a series; nothing where the series is not there.

        Args:
            series: a handle of it.
            change: makes the new note of the one before, which is empty where there is none.
        """

        def annotate(block: Block) -> None:
            key = encode_key(series.category, series.metric, series.labels)
            with block.exclusive():
                record = block.names.find(key) or block.names.find(overflow_key(key))
                if record is not None:
                    block.annotate(record, change(block.names.note(record.number)))

        self._operate(annotate)

    def count(self, series: Series, n: int | float) -> None:
        """Add ``n`` to a counter (an integer) or gauge, and bind the handle.

        Raises:
            KindError: the name is neither.
        """
        while isinstance(n, int) and n > INT64_MAX:  # what taking the lowest integer away amounts to
            self._operate(self._count, series, INT64_MAX)
            n -= INT64_MAX
        self._operate(self._count, series, n)

    def set(self, series: Series, value: int | float) -> None:
        """Set a gauge, or the total of a counter, and bind the handle.

        Raises:
            KindError: the name is neither.
        """
        self._operate(self._set, series, value)

    def observe(self, series: Series, milliseconds: float) -> None:
        """Take up one duration in a histogram, and bind the handle.

        Raises:
            KindError: the name is something else.
        """
        self._operate(self._observe, series, milliseconds)

    def add_distribution(self, series: Series, distribution: Distribution, bounds: Sequence[float]) -> None:
        """Add observations to a histogram that were made elsewhere.

        Args:
            series: a handle of it.
            distribution: of the observations.
            bounds: of its buckets; where the histogram has others, each bucket goes to the one that holds its
                upper bound.
        """

        def add(block: Block) -> None:
            done = False
            while not done:
                generation = block.cells.generation
                _, record = self._find_or_add(block, series, Kind.HISTOGRAM)
                limits = memoryview(block.bounds_of(record)).cast("d").tolist()
                buckets = [0] * (len(limits) + 1)
                for bound, count in zip([*bounds, float("inf")], distribution.buckets, strict=True):
                    buckets[bisect.bisect_left(limits, bound)] += count
                done = block.cells.add_distribution(
                    block.row_for(record),
                    record.cell,
                    distribution.sum,
                    distribution.max,
                    tuple(buckets),
                    generation,
                )

        self._operate(add)

    def note(self, series: Series, microseconds: int) -> None:
        """Set a timestamp, in microseconds since 1970-01-01 UTC.

        Raises:
            KindError: the name is something else.
        """
        self._operate(self._note, series, microseconds)

    def value(self, category: str, metric: str, labels: Labels = ()) -> Value:
        """Return the value of a name over all workers, 0 where there is none."""

        def read(block: Block) -> Value:
            record = block.find(encode_key(category, metric, labels))
            return 0 if record is None else block.reader.value(record)

        nothing: Value = 0
        return self.consult(read, nothing)

    def moment(self, category: str, metric: str, labels: Labels = ()) -> int | None:
        """Return a timestamp in microseconds since 1970-01-01 UTC; None where the name has none."""

        def read(block: Block) -> int | None:
            record = block.find(encode_key(category, metric, labels))
            if record is None or record.kind is not Kind.TIMESTAMP:
                return None
            return int(block.cells.load_gauge(block.row_for(record), record.cell))

        return self.consult(read, None)

    def read(self) -> Snapshot:
        """Return all names and values; none where there is no block."""

        def read(block: Block) -> Snapshot:
            if self._buffer is not None:
                self._note_held(block)
            return block.reader.read()

        return self.consult(read, Snapshot((), ()))

    def _note_held(self, block: Block) -> None:
        """Set the gauge of the operations that all workers hold."""
        record = block.names.find(encode_key(OWN, OPERATIONS_HELD))
        if record is not None:
            held = sum(worker.held for worker in block.reader.workers.live())
            block.cells.set_gauge(block.row_for(record), record.cell, held, block.cells.generation)

    def remove(self, category: str, metric: str | None, labels: Labels | None = None) -> int:
        """Remove series; returns how many that were. What is declared about a metric stays.

        Args:
            category: of the series.
            metric: of the category; None for all.
            labels: of one series; None for all of the metric.
        """

        def remove(block: Block, records: list[Record]) -> None:
            block.remove(records)

        return self._change(category, metric, labels, remove)

    def reset(self, category: str, metric: str | None, labels: Labels | None = None) -> int:
        """Set series to 0, chosen as in `remove`; returns how many that were.

        A timestamp has no 0: it is removed.
        """

        def reset(block: Block, records: list[Record]) -> None:
            moments = [record for record in records if record.kind is Kind.TIMESTAMP]
            if moments:
                block.remove(moments)
            for record in records:
                block.clear(record)

        return self._change(category, metric, labels, reset)

    def forget(self) -> None:
        """Drop what the child of a fork inherited; it attaches by itself when it counts."""
        block, self._block, buffer, self._buffer = self._block, None, self._buffer, None
        self._agent = None
        self._dropped = 0
        if buffer is not None:
            buffer.cells.close()
        if block is not None:
            block.abandon()

    def _attach(self) -> Block:
        stats = self._settings.stats
        block = Block.attach(self.directory, stats.capacity, stats.max_workers, self._fill)
        try:
            self._register_own(block)
            self._declare_again(block)
            with block.exclusive():
                remove_stale(block.name, {worker.slot for worker in block.reader.workers.live()})
            if not stats.no_buffer:
                self._buffer = self._make_buffer(block)
        except BaseException:
            self._buffer = None
            block.leave(self._finish)
            raise
        self._block = block
        self.direct = self._direct
        _holding.add(self)
        return block

    def _make_buffer(self, block: Block) -> Buffer:
        buffer = Buffer(block, block.buffer_cells(self._settings.stats.buffer_size, self._flush_or_tell))
        keys = encode_key(OWN, FLUSHES), encode_key(OWN, FLUSH)
        flushes, durations = map(block.names.find, keys)
        if flushes is not None and durations is not None:
            buffer.note_flushes((keys[0], flushes), (keys[1], durations), block.bounds_of(durations))
        return buffer

    def _start_agent(self) -> None:
        """Start the background thread of a block that has just been attached."""
        with self._locks.guard:
            block = self._block
            if block is None or self._agent is not None:
                return
            socket = socket_path(block.name, block.worker.slot)
            agent = self._agent = Agent(self._tasks(), socket, self._answers)
        agent.start()

    def _stop_agent(self) -> None:
        """Stop the background thread. The guard is not held, for the thread may be waiting for it."""
        with self._locks.guard:
            agent, self._agent = self._agent, None
        if agent is not None:
            agent.stop()

    def _register_own(self, block: Block) -> None:
        """Register what the library counts about itself, while there is room."""
        kinds = dict.fromkeys((OPERATIONS_DROPPED, LOCKS_TAKEN_OVER), Kind.COUNTER)
        if not self._settings.stats.no_buffer:
            kinds |= {OPERATIONS_HELD: Kind.GAUGE, FLUSHES: Kind.COUNTER, FLUSH: Kind.HISTOGRAM}
        for metric, kind in kinds.items():
            try:
                record = block.find_or_add(encode_key(OWN, metric), kind)
            except BlockFullError as error:
                self._log_once(f"the library cannot count about itself: {error}")
                continue
            if metric == LOCKS_TAKEN_OVER:
                block.cells.count_takeovers_at(block.row_for(record), record.cell)

    def _tasks(self) -> list[Task]:
        stats = self._settings.stats
        tasks = []
        if not stats.no_buffer:
            tasks.append(Task(stats.flush_interval_ms / 1000, self._flush_and_note))
        if stats.persist:
            tasks.append(Task(stats.snapshot_interval_ms / 1000, self._save_if_elected))
        return tasks

    def _save_if_elected(self) -> None:
        """Save a snapshot, if this is the process that does; the kernel ends its term when it dies."""
        block = self._block
        if block is None or not self._locks.try_lock(SAVER):
            return
        try:
            snapshot = block.reader.read()
            if self._saved == snapshot or not self._save(block, snapshot):
                return
        except (BlockError, OSError) as error:
            if not self._saving_fails:
                self._tell(f"statistics cannot be saved now, counting goes on: {error}")
            self._saving_fails = True
        else:
            if self._saving_fails:
                log.info("statistics can be saved again")
            self._saved, self._saving_fails = snapshot, False

    def _save(self, block: Block, snapshot: Snapshot) -> bool:
        """Save a snapshot of the block; returns False where the block was left while it was written.

        By then another process, which left later, may have saved what is newer. As long as this one is attached,
        nobody else saves: it is the one that is elected, and no other can be the last to leave.
        """
        written = saved.write(saved.stats_directory(self.directory), snapshot)
        try:
            with self._locks.guard:
                if self._block is not block or self._is_superseded(block):
                    return False
                written.put_in_place()
        finally:
            written.discard()
        written.sync()
        return True

    def _is_superseded(self, block: Block) -> bool:
        """Tell whether another block has come in the place of this one, whose file was removed by hand."""
        if block.is_current():
            return False
        self._log_once(
            f"the file of block {block.name} was removed while it was in use, and another one was made: what process"
            f" {os.getpid()} counted in it is not saved, and others do not see it"
        )
        return True

    def _attached(self) -> Block | None:
        """Return the block, or None where it cannot be attached now; that was logged."""
        if self._block is None and (self._locks.guard.held or time.monotonic() < self._retry_at):
            return None
        if self.ending and threading.current_thread() is not threading.main_thread():
            return None
        try:
            return self.attach()
        except Exception as error:
            if came_from_handler(error):
                raise
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            self._log_once(f"nothing is counted: {error}")
            return None

    def consult(self, read: Callable[[Block], _Result], nothing: _Result) -> _Result:
        """Read something of the attached block; ``nothing`` where there is none.

        Raises:
            BlockError: the block is damaged.
        """
        while True:
            block = self._attached()
            if block is None:
                return nothing
            try:
                self.flush()
                with damage_named(block.name):
                    return read(block)
            except Exception as error:
                # Another thread may have closed the block meanwhile; it is attached anew then.
                if self._block is block or came_from_handler(error):
                    raise

    def _change(
        self,
        category: str,
        metric: str | None,
        labels: Labels | None,
        change: Callable[[Block, list[Record]], None],
    ) -> int:
        """Change the series of a category, or fewer, under the table lock; returns how many there are."""
        if self._locks.guard.held:
            self._locks.guard.defer(lambda: self._change(category, metric, labels, change))
            return 0

        def change_all(block: Block) -> int:
            with block.exclusive():
                records = _matching(block, category, metric, labels)
                change(block, records)
            return len(records)

        return self.consult(change_all, 0)

    def _operate(self, operation: Callable[..., object], *arguments: Any) -> None:
        """Do an operation on the attached block, now or as soon as this thread can, and never fail.

        Args:
            operation: called with the block and the arguments.
            arguments: of the operation.
        """
        if self._locks.guard.held:
            self._locks.guard.defer(lambda: self._operate(operation, *arguments))
            return
        while True:
            block = self._attached() if self._block is None or self.ending else self._block
            if block is None:
                self._dropped += 1
                return
            try:
                operation(block, *arguments)
                if self._dropped:
                    self._count_dropped(block)
                return
            except (KindError, DeclarationError):
                raise
            except (BlockFullError, SeriesLimitError) as error:
                self._log_once(f"a new name is not counted: {error}")
            except Exception as error:
                if came_from_handler(error):
                    raise
                if self._block is not block:
                    continue  # another thread has closed the block; it is attached anew
                self._log_once(f"an operation was not counted: {error!r}")
            self._dropped += 1
            self._count_dropped(block)
            return

    def _find_or_add(self, block: Block, series: Series, kind: Kind) -> tuple[bytes, Record]:
        """Return the key and record that a handle counts into: its own, or that of the overflow set."""
        key = encode_key(series.category, series.metric, series.labels)
        limit = self._settings.stats.max_series_per_metric
        try:
            return key, block.find_or_add(key, kind, limit)
        except SeriesLimitError:
            self._log_once(
                f"metric {series.metric!r} of category {series.category!r} has {limit} label sets, as many as"
                " stats.max_series_per_metric allows: further ones are counted together"
            )
            key = overflow_key(key)
            return key, block.find_or_add(key, kind, limit)

    def _count(self, block: Block, series: Series, n: int | float) -> None:
        done = False
        while not done:
            generation = block.cells.generation
            kind = Kind.GAUGE if isinstance(series, Gauge) else Kind.COUNTER
            key, record = self._find_or_add(block, series, kind)
            if record.kind is Kind.GAUGE:
                done = self._add_to_gauge(block, series, record, n, generation)
            elif record.kind is not Kind.COUNTER:
                raise _kind_error(series, record, "counted")
            elif not isinstance(n, int):
                raise _kind_error(series, record, f"moved by {n}, which is no integer")
            else:
                done = self._add(block, series, key, record, n, generation)

    def _add(self, block: Block, series: Series, key: bytes, record: Record, n: int, generation: int) -> bool:
        if n < 0 and record.monotonic:
            with block.exclusive():
                block.names.clear_monotonic(record)
            record = block.names.record(record.number)
        if isinstance(series, Counter) and not self._settings.stats.no_buffer:
            with self._locks.guard:
                if self._buffer is not None:
                    bound = self._buffer.bind(series, key, record, generation, b"")
                    return bound and self._buffer.cells.add(0, record.cell, n, generation)
        row = block.row_for(record)
        if isinstance(series, Counter):
            series._bind(block.cells, row, record.cell, record.width, generation, record.monotonic)
        return block.cells.add(row, record.cell, n, generation)

    def _add_to_gauge(self, block: Block, series: Series, record: Record, n: int | float, generation: int) -> bool:
        row, by = self._bind_gauge(block, series, record, generation)
        if record.mode in (Mode.LAST, Mode.SUM):  # what the dead have left of a plain sum is added to
            return block.cells.add_gauge(row, record.cell, n, generation, by)
        seen = block.cells.load(row, record.cell + 2)
        anew = not any(worker.signature == seen for worker in block.reader.workers.live())
        return block.cells.add_gauge(row, record.cell, n, generation, by, seen, anew)

    def _bind_gauge(
        self, block: Block, series: Series, record: Record, generation: int
    ) -> tuple[int, tuple[int, bool, bool, bool]]:
        """Bind a handle, if it is one of a gauge; returns the row, and who contributes."""
        row = block.row_for(record)
        by = (0, False, False, False)
        if record.mode is not Mode.LAST:
            stamped, apart = record.mode.base is Mode.MOSTRECENT, record.mode is not Mode.SUM
            by = (block.worker.signature, record.mode.live, stamped, apart)
        if isinstance(series, Gauge):
            series._bind(block.cells, row, record.cell, record.width, generation, False, b"", by)
        return row, by

    def _set(self, block: Block, series: Series, value: int | float) -> None:
        done = False
        while not done:
            generation = block.cells.generation
            key, record = self._find_or_add(block, series, Kind.GAUGE)
            if record.kind is Kind.GAUGE:
                row, by = self._bind_gauge(block, series, record, generation)
                done = block.cells.set_gauge(row, record.cell, value, generation, by)
            elif record.kind is not Kind.COUNTER:
                raise _kind_error(series, record, "set")
            elif isinstance(value, int):
                done = self._set_total(block, key, value)
            else:
                self._make_gauge(block, key)

    def _observe(self, block: Block, series: Series, value: float) -> None:
        done = False
        while not done:
            generation = block.cells.generation
            key, record = self._find_or_add(block, series, Kind.HISTOGRAM)
            if record.kind is not Kind.HISTOGRAM:
                raise _kind_error(series, record, "timed")
            bounds = block.bounds_of(record)
            if block.cells.generation != generation:
                continue  # they may be another metric's, which has come in the place of this one
            if isinstance(series, Histogram):
                self._bind_histogram(block, series, key, record, generation, bounds)
            done = self._add_observation(block, record, bounds, value, generation)

    def _bind_histogram(
        self, block: Block, series: Histogram, key: bytes, record: Record, generation: int, bounds: bytes
    ) -> None:
        if not self._settings.stats.no_buffer:
            with self._locks.guard:
                if self._buffer is not None:
                    self._buffer.bind(series, key, record, generation, bounds)
                    return
        row = block.row_for(record)
        series._bind(block.cells, row, record.cell, record.width, generation, False, bounds)

    def _add_observation(self, block: Block, record: Record, bounds: bytes, value: float, generation: int) -> bool:
        limits = memoryview(bounds).cast("d")
        buckets = [0] * (len(limits) + 1)
        buckets[bisect.bisect_left(limits, value)] = 1
        return block.cells.add_distribution(
            block.row_for(record), record.cell, value, value, tuple(buckets), generation
        )

    def _note(self, block: Block, series: Series, microseconds: int) -> None:
        done = False
        while not done:
            generation = block.cells.generation
            _, record = self._find_or_add(block, series, Kind.TIMESTAMP)
            if record.kind is not Kind.TIMESTAMP:
                raise _kind_error(series, record, "given a time")
            done = block.cells.set_gauge(block.row_for(record), record.cell, microseconds, generation)

    def _set_total(self, block: Block, key: bytes, value: int) -> bool:
        """Give a counter the total ``value`` by adding the difference; False where it is gone."""
        with block.exclusive():
            if self._buffer is not None:
                self._buffer.flush()
            record = block.names.find(key)
            if record is None or record.kind is not Kind.COUNTER:
                return False
            difference = value - block.reader.total(record)
            if difference < 0:
                block.names.clear_monotonic(record)
            for row in block.rows_of(record):
                difference = self._add_in_steps(block, row, record, difference)
        return True

    def _add_in_steps(self, block: Block, row: int, record: Record, n: int) -> int:
        """Add to a cell what may be more than 64 bits; returns what did not go in, as the cell is full."""
        while n:
            step = min(max(n, INT64_MIN), INT64_MAX)
            before = block.cells.load(row, record.cell)
            block.cells.add(row, record.cell, step, block.cells.generation)
            added = block.cells.load(row, record.cell) - before
            if not added:
                break
            n -= added
        return n

    def _make_gauge(self, block: Block, key: bytes) -> None:
        """Give a counter's name up, so that it can be registered as a gauge.

        Raises:
            KindError: it is declared as a counter.
        """
        with block.exclusive():
            record = block.names.find(key)
            if record is not None and record.kind is Kind.COUNTER:
                if record.family >= 0 and block.names.record(record.family).declared:
                    category, metric, _ = decode_key(key)
                    raise KindError(
                        f"metric {metric!r} of category {category!r} is declared as a counter: it takes integers"
                    )
                block.names.remove([record], block.cells)

    def _count_dropped(self, block: Block) -> None:
        """Count the dropped operations in the block; its counter was registered with the block."""
        dropped, self._dropped = self._dropped, 0
        with suppress(ValueError):  # closed by another thread
            self._count_own(block, OPERATIONS_DROPPED, dropped)

    def count_own(self, metric: str, n: int = 1) -> None:
        """Count something about the library itself."""

        def count(block: Block) -> None:
            block.find_or_add(encode_key(OWN, metric), Kind.COUNTER)
            self._count_own(block, metric, n)

        self._operate(count)

    def _count_own(self, block: Block, metric: str, n: int) -> None:
        """Add to a counter of the library's own, if it could be registered."""
        record = block.names.find(encode_key(OWN, metric))
        if record is not None:
            block.cells.add(block.row_for(record), record.cell, n, block.cells.generation)

    def _log_once(self, text: str) -> None:
        if self._logged.first(text):
            self._tell(text)

    def _tell(self, text: str) -> None:
        """Log an error, but only outside of the guard: a log handler may count, or wait for who does."""
        if self._locks.guard.held:
            self._locks.guard.defer(lambda: log.error(text))
        else:
            log.error(text)

    def _fill(self, block: Block) -> None:
        """Fill a block that was just made from the saved snapshot."""
        self._register_own(block)
        if not self._settings.stats.persist:
            return
        newest = saved.load_newest(saved.stats_directory(self.directory), self._tell)
        if newest is None:
            return
        file, restored = newest
        self._restore_declarations(block, restored)
        # But for the operations held: it was true then.
        kept = [i for i, name in enumerate(restored.names) if name[:2] != (OWN, OPERATIONS_HELD)]
        names, values = [restored.names[i] for i in kept], [restored.values[i] for i in kept]
        failed = restore(block, names, values)
        if failed:
            (category, metric, *_), reason = failed[0]
            self._tell(
                f"{len(failed)} of {len(names)} saved statistics were not restored, the first of them metric"
                f" {metric!r} of category {category!r}: {reason}. As for the snapshot, {saved.keep(file)}"
            )
            self._dropped += len(failed)

    def _restore_declarations(self, block: Block, restored: Snapshot) -> None:
        """Declare again what was declared when a snapshot was saved; processes of today may change it."""
        declared: dict[tuple[str, str], Declaration] = {}
        for name in restored.names:
            if name.help or name.unit or (name.bounds and name.bounds != DEFAULT_BOUNDS):
                declared[name.category, name.metric] = Declaration(name.kind, name.help, name.unit, name.bounds)
        for (category, metric), declaration in declared.items():
            try:
                declare(block, category, metric, declaration, inherited=True)
            except BlockFullError as error:
                self._log_once(f"not all saved statistics were restored: {error}")

    def _finish(self, block: Block) -> None:
        """Do what the last process does before the block goes."""
        remove_stale(block.name, ())
        if self._settings.stats.persist:
            saved.save(saved.stats_directory(self.directory), block.reader.read())


def _matching(block: Block, category: str, metric: str | None, labels: Labels | None) -> list[Record]:
    """Return the series of a category, or of one of its metrics, or one of its series. The table lock is held."""
    names = block.names
    if metric is None:
        prefix = category.encode() + b"\0"
        return [record for record in names.records() if names.key(record.number).startswith(prefix)]
    key = encode_key(category, metric, labels or ())
    found = names.find(key)
    records = [] if found is None else [found]
    if labels is None:
        family = names.family_of(key)
        members = [] if family is None else names.members_of(family)
        records += [record for record in members if record != found]
    return records


def _kind_error(series: Series, record: Record, verb: str) -> KindError:
    return KindError(
        f"metric {series.metric!r} of category {series.category!r} is a {record.kind.name.lower()} and cannot be {verb}"
    )


_providers: weakref.WeakSet[SharedProvider] = weakref.WeakSet()

#: Those that have a block attached. They live on until they have left it in good order.
_holding: set[SharedProvider] = set()


def close_all() -> None:
    """Leave every block, as a process does at its end."""
    for provider in list(_holding):
        provider.close()


def _forget_all() -> None:
    _holding.clear()
    for provider in _providers:
        provider.forget()


os.register_at_fork(after_in_child=_forget_all)
